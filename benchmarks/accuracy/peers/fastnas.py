"""ModelOpt's FastNAS. Score: validation accuracy; batch norm re-estimated on ten batches of 100 for each candidate, as it does.

Channels come in steps of 4 (its default of 32 would leave most of these networks alone). One sensitivity map, kept in its
own checkpoint, serves all targets; its time is counted at the first one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import modelopt.torch.prune as mtp
from torch import nn

from benchmarks.accuracy.peers.contest import Clock, Found, Job, serve


def search(job: Job, target: float) -> Found:
    """One search, over the job's checkpoint."""
    clock = Clock()
    model, percent = _at_most(job, target, clock)
    return Found(model=model, clock=clock.read(), setting=f"{percent:.1f}% asked for")


def _at_most(job: Job, target: float, clock: Clock) -> tuple[nn.Module, float]:
    """Its count of operations differs a little from ours: ask for less until the common counter agrees."""
    percent = 100 * target
    for _ in range(6):
        model = _prune(job, percent, clock)
        if job.share(model) <= target + 0.002:
            break
        percent *= 0.97
    return model, percent


def _prune(job: Job, percent: float, clock: Clock) -> nn.Module:
    def score(model: nn.Module) -> float:
        clock.evaluations += 1
        return job.score(model) / 100

    step = job.options["divisor"]
    config = mtp.fastnas.FastNASConfig()
    for kind, key in (("nn.Conv2d", "channel_divisor"), ("nn.BatchNorm2d", "feature_divisor")):
        config[kind]["*"][key] = step
    options: dict[str, Any] = {
        "data_loader": job.calibration(100)[:10],
        "collect_func": lambda batch: batch[0],
        "score_func": score,
        "checkpoint": str(Path(job.out) / "search.pth"),
        "verbose": False,
    }
    model, _ = mtp.prune(
        model=job.model(),
        mode=[("fastnas", config)],
        constraints={"flops": f"{percent:.2f}%"},
        dummy_input=job.split["train_x"][:1],
        config=options,
    )
    return model.eval()


if __name__ == "__main__":
    serve(search)
