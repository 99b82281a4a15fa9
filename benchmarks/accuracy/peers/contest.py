"""What every contestant's script shares: read a job, search, hand back weights.

    python -m benchmarks.accuracy.peers.NAME job.json
        ──► one .safetensors a result in the job's folder, and results.json beside them

A result is a state dict, rebuilt and judged elsewhere; what the tool's own object answers to eight inputs goes with it, so
that the judge can tell that the rebuilt network is the tool's. Imports nothing but torch, safetensors and numpy.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.accuracy import train
from benchmarks.accuracy.data import Split, batches, load
from benchmarks.accuracy.networks import cost, rebuild, state_of


@dataclass(frozen=True, kw_only=True)
class Job:
    """A trained network and the shares of its cost to reach. ``options`` belong to the contestant's method."""

    network: str
    base: str
    split_path: str
    minilm: str | None
    targets: tuple[float, ...]
    seed: int
    out: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def split(self) -> Split:
        return load(Path(self.split_path))

    @cached_property
    def whole(self) -> int:
        """Cost of the whole network."""
        return self.cost(self.model())

    def model(self) -> nn.Module:
        """A fresh copy of the trained network."""
        return rebuild(self.network, load_file(self.base), Path(self.minilm) if self.minilm else None)

    def cost(self, model: nn.Module) -> int:
        return cost(self.network, model, self.split["train_x"])

    def share(self, model: nn.Module) -> float:
        return self.cost(model) / self.whole

    def calibration(self, size: int = 200) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Training digits or mails in their fixed order: what data-driven searches look at."""
        return batches(self.split, "train", size)

    def score(self, model: nn.Module) -> float:
        """Accuracy on the validation part as the model is."""
        return train.accuracy(model, self.split, "validation")

    def fair_score(self, model: nn.Module) -> float:
        """Validation accuracy after batch norm re-estimation: how a tool's best setting is chosen, in the tool's favour."""
        return self.score(train.reestimate(model, self.split))


@dataclass(kw_only=True)
class Clock:
    """Wall-clock and processor seconds since it was made, and how many models were scored."""

    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)
    evaluations: int = 0

    def read(self) -> dict[str, Any]:
        return {
            "seconds": round(time.perf_counter() - self.wall, 2),
            "cpu_seconds": round(time.process_time() - self.cpu, 2),
            "evaluations": self.evaluations,
        }


@dataclass(frozen=True, kw_only=True)
class Found:
    """A narrowed network. ``setting`` says which of the tool's settings gave it."""

    model: nn.Module
    clock: dict[str, Any]
    setting: str = ""


Search = Callable[[Job, float], Found]


def serve(search: Search) -> None:
    """Run the job named on the command line. A target that the tool cannot reach is reported with its error."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    values = json.loads(Path(sys.argv[1]).read_text())
    job = Job(**{**values, "targets": tuple(values["targets"])})
    torch.manual_seed(job.seed)
    results = []
    for target in job.targets:
        try:
            found = search(job, target)
        except Exception as error:
            results.append({"target": target, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]})
            continue
        file = Path(job.out) / f"{target}.safetensors"
        state = {f"model.{name}": tensor for name, tensor in state_of(found.model).items()}
        save_file({**state, "logits": train.logits_of(found.model, job.split)}, file)
        results.append({"target": target, "file": str(file), "setting": found.setting, **found.clock})
    (Path(job.out) / "results.json").write_text(json.dumps(results))


def meet(job: Job, target: float, narrowed: Callable[[float], nn.Module], *, tries: int = 10) -> nn.Module:
    """Bisect over how much is removed (0 … 1): the largest network whose cost is at most the target's share.

    ``narrowed(amount)`` makes a model; one that fails counts as too small. Raises ValueError where none was small enough.
    """
    low, high, best, best_share = 0.0, 1.0, None, 0.0
    for _ in range(tries):
        amount = (low + high) / 2
        try:
            model = narrowed(amount)
            share = job.share(model)
        except Exception as error:  # the tool broke: take less
            print(f"at {amount:.3f}: {type(error).__name__}: {error}", file=sys.stderr)
            high = amount
            continue
        if share > target:
            low = amount
            continue
        high = amount
        if share > best_share:
            best, best_share = model, share
        if share > target - 0.004:
            break
    if best is None:
        raise ValueError(f"no network of at most {target:.0%}")
    return best


def best_of(job: Job, target: float, makers: dict[str, Callable[[float], nn.Module]]) -> Found:
    """The best of several settings of one tool, by `Job.fair_score`; a setting that fails is left out."""
    clock = Clock()
    best: tuple[float, str, nn.Module] | None = None
    for name, narrowed in makers.items():
        try:
            model = meet(job, target, narrowed)
            score = job.fair_score(model)
        except Exception as error:
            print(f"{name}, {target:.0%}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        clock.evaluations += 1
        print(f"{name}, {target:.0%}: {job.share(model):.3f} {score:.1f}", file=sys.stderr)
        if best is None or score > best[0]:
            best = (score, name, model)
    if best is None:
        raise ValueError(f"no setting reached {target:.0%}")
    return Found(model=best[2], clock=clock.read(), setting=best[1])
