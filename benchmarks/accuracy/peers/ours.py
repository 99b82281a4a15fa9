"""Secateur's own modes, run and judged like every other contestant.

One line of RECIPES is one contestant: what a user would pass to `prune`. Data-driven modes see 1,000 training
examples, scores are taken on the validation part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

import secateur
from benchmarks.accuracy.networks import VISION, encoder_params
from benchmarks.accuracy.peers.contest import Clock, Found, Job, meet, serve
from secateur.torch.running.batch_norm import reestimate_batch_norm
from secateur.torch.running.data import Data

_CANDIDATES = 60


def _data(job: Job) -> dict[str, Any]:
    if job.network in VISION:
        return {"data_loader": job.calibration(100)[:10], "num_batches": 10}
    return {
        "data_loader": [(x, y) for x, y in job.calibration(40)[:10]],
        "num_batches": 10,
        "collect_func": lambda batch: (batch[0][:, 0], {"attention_mask": batch[0][:, 1]}),
        "loss_func": lambda output, batch: nn.functional.cross_entropy(output.logits, batch[1]),
    }


def _scored(job: Job, clock: Clock) -> Callable[[nn.Module], float]:
    def score(model: nn.Module) -> float:
        clock.evaluations += 1
        return job.score(model) / 100

    return score


Recipe = Callable[[Job, float, Clock], nn.Module]


def _plainly(mode: str, **options: Any) -> Recipe:
    """The mode with data, and these options."""
    return lambda job, target, clock: _prune(job, mode, _constraint(job, target), options)


def _scoring(mode: str, **options: Any) -> Recipe:
    """A mode that is told the validation accuracy of its candidates; what it learns is kept for the next target."""
    return lambda job, target, clock: _prune(
        job,
        mode,
        _constraint(job, target),
        {"score_func": _scored(job, clock), "checkpoint": f"{job.out}/search", **options},
    )


def _activation(criterion: str) -> Recipe:
    """One sparsity for all convolutions, found by bisection: as NNI's contestant does it."""

    def narrowed(job: Job, sparsity: float) -> nn.Module:
        return _prune(job, "activation", None, {"criterion": criterion, "remove": {"nn.Conv2d": sparsity}})

    return lambda job, target, clock: meet(job, target, lambda sparsity: narrowed(job, sparsity))


def _one_step(job: Job, target: float, clock: Clock) -> nn.Module:
    """The best of 60 networks of this cost."""
    pruner = secateur.OneStepPruner(job.model(), job.split["train_x"][:1], seed=job.seed)
    loader = _data(job)["data_loader"]
    pruner.search(_scored(job, clock), _share(target), num_candidates=_CANDIDATES, data_loader=loader)
    return pruner.prune()[0].eval()


def _iterative(job: Job, target: float, clock: Clock) -> nn.Module:
    """One analysis for all targets, and one round."""
    pruner = secateur.IterativePruner(job.model(), job.split["train_x"][:1])
    data = Data(loader=_data(job)["data_loader"], num_batches=10)
    pruner.analyze(_scored(job, clock), data_loader=data, checkpoint=f"{job.out}/analysis.jsonl")
    pruner.mask(_share(target))
    model, _ = pruner.narrow()
    reestimate_batch_norm(model, **_data(job))
    return model.eval()


def _share(target: float) -> dict[str, str]:
    return {"macs": f"{100 * target:g}%"}


RECIPES: dict[str, Recipe] = {
    "magnitude": _plainly("magnitude"),
    "magnitude compensated": _plainly("magnitude", compensate="least_squares"),
    "fastnas": _scoring("fastnas", multiple_of=4),
    "gradnas": _plainly("gradnas"),
    "activation apoz": _activation("apoz"),
    "activation mean_rank": _activation("mean_rank"),
    "one step": _one_step,
    "iterative": _iterative,
    "progressive": _plainly("progressive", compensate="least_squares"),
    "progressive answers": _plainly("progressive"),
}


def search(job: Job, target: float) -> Found:
    """One of the recipes."""
    clock = Clock()
    model = RECIPES[job.method](job, target, clock)
    return Found(model=model, clock=clock.read())


def _prune(job: Job, mode: str, constraints: dict[str, Any] | None, options: dict[str, Any]) -> nn.Module:
    model = job.model()
    example = job.split["train_x"][:1]
    secateur.prune(
        model,
        mode=mode,
        constraints=constraints,
        dummy_input=example if job.network in VISION else (example[:, 0], {"attention_mask": example[:, 1]}),
        config={"verify": False, **_data(job), **_kept(job), **options, **job.options},
    )
    return model.eval()


def _constraint(job: Job, target: float) -> dict[str, Any]:
    if job.network in VISION:
        return _share(target)
    model = job.model()
    everything, encoder = sum(p.numel() for p in model.parameters()), encoder_params(model)
    return {"params": everything - encoder + int(target * encoder)}


def _kept(job: Job) -> dict[str, Any]:
    """In the text network heads and feed-forward channels are narrowed; the hidden width is left, as GradNAS leaves it."""
    return {} if job.network in VISION else {"exclude": ["*embeddings*", "*pooler*"]}


if __name__ == "__main__":
    serve(search)
