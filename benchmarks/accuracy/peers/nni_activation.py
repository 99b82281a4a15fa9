"""NNI's activation pruners (APoZ or mean rank), then its ModelSpeedup; the better of its normal and dependency-aware modes.

One sparsity for every convolution, found by bisection; statistics over 1,000 training digits in evaluation mode. NNI counts
its ``training_batches`` in pictures, hence the number given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import nni
import torch
from nni.compression.pytorch import ModelSpeedup
from nni.compression.pytorch.pruning import ActivationAPoZRankPruner, ActivationMeanRankPruner
from torch import nn

from benchmarks.accuracy.peers.contest import Found, Job, best_of, serve

_PRUNERS: dict[str, Any] = {"apoz": ActivationAPoZRankPruner, "mean_rank": ActivationMeanRankPruner}
_BATCHES, _SIZE = 5, 200


def search(job: Job, target: float) -> Found:
    """Try both modes; the better is kept."""
    logging.disable(logging.WARNING)
    makers: dict[str, Callable[[float], nn.Module]] = {
        mode: partial(_narrowed, job, mode) for mode in ("normal", "dependency_aware")
    }
    return best_of(job, target, makers)


def _narrowed(job: Job, mode: str, sparsity: float) -> nn.Module:
    model = job.model()
    example = job.split["train_x"][:2]

    def trainer(model: nn.Module, optimizer: Any, criterion: Any) -> None:
        model.eval()
        for x, y in job.calibration(_SIZE)[:_BATCHES]:
            criterion(model(x), y)
            optimizer.step()

    # no gradients and a rate of zero: the pruner wants a training loop, and the weights are to stay those of the base
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.0)
    pruner = _PRUNERS[job.options["pruner"]](
        model,
        [{"sparsity_per_layer": sparsity, "op_types": ["Conv2d"]}],
        trainer,
        optimizer,
        nn.CrossEntropyLoss(),
        training_batches=_BATCHES * _SIZE,
        activation="relu6" if job.network == "mobilenetv2" else "relu",
        mode=mode,
        **({"dummy_input": example} if mode == "dependency_aware" else {}),
    )
    _, masks = pruner.compress()
    pruner._unwrap_model()
    ModelSpeedup(model, example, masks).speedup_model()
    return model.eval()


if __name__ == "__main__":
    serve(search)
