"""ModelOpt's GradNAS (last in 0.44.0) on the text encoder: heads and feed-forward channels.

Its constraint is on the parameters of the whole model and it lands below what it is asked for; what to ask for is found by
bisection, so that it gets as near to the common budget as it can. Its gradient scores depend on no constraint: they are
measured once and kept for the other tries.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import modelopt.torch.prune as mtp
import torch
from modelopt.torch.prune.gradnas import GradientBinarySearcher
from torch import nn

from benchmarks.accuracy.networks import encoder_params
from benchmarks.accuracy.peers.contest import Clock, Found, Job, meet, serve


def search(job: Job, target: float) -> Found:
    """One bisection."""
    clock = Clock()
    return Found(model=meet(job, target, partial(_narrowed, job)), clock=clock.read())


def _narrowed(job: Job, amount: float) -> nn.Module:
    model: Any = job.model()
    everything = sum(p.numel() for p in model.parameters())
    bound = everything - amount * encoder_params(model)
    rows = [{"x": x, "y": y} for x, y in job.calibration(20)]
    x = job.split["train_x"][:2]
    model, _ = mtp.prune(
        model=model,
        mode="gradnas",
        constraints={"params": bound},
        dummy_input=(x[:, 0], x[:, 1]),
        config={
            "data_loader": rows,
            "collect_func": lambda row: (row["x"][:, 0], {"attention_mask": row["x"][:, 1]}),
            "loss_func": lambda output, row: nn.functional.cross_entropy(output.logits, row["y"]),
            "max_iter_data_loader": job.options["batches"],
            "checkpoint": None,
            "verbose": False,
        },
    )
    return model.eval()


def _measure_once() -> None:
    measure = GradientBinarySearcher._estimate_gradient_scores
    scores: dict[str, torch.Tensor] = {}

    def remembered(self: Any, *args: Any) -> Any:
        if not scores:
            widths = measure(self, *args)
            scores.update({name: width.score_tensor.clone() for name, width in widths.items()})
            return widths
        widths = self._get_binary_search_hps()
        for name, width in widths.items():
            width.score_tensor = scores[name].clone()
        return widths

    GradientBinarySearcher._estimate_gradient_scores = remembered


if __name__ == "__main__":
    _measure_once()
    serve(search)
