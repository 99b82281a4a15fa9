"""Training the whole networks, the common fine-tune, and the two ways of looking at a result.

    train ──► the base of a seed        finetune: the same few epochs for every tool's result
    accuracy(model)                     on the test part        reestimate(model): batch norm's statistics, from training data

Invariant: nothing here knows which tool made a model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.accuracy.data import Split, batches, load, shuffled
from benchmarks.accuracy.networks import VISION, build, forward, rebuild, state_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A short training: SGD with Nesterov momentum (or AdamW), one cosine cycle after a linear warm-up of a tenth."""

    epochs: int
    rate: float
    batch: int
    adam: bool = False


BASE = {
    "resnet20": Schedule(epochs=14, rate=0.1, batch=50),
    "mobilenetv2": Schedule(epochs=16, rate=0.1, batch=50),
    "minilm": Schedule(epochs=2, rate=1e-4, batch=20, adam=True),
}
# Each at two rates, and what is better on the validation part counts: a network that lost little wants a gentle one, a
# network that lost nearly all a strong one. The same for every tool.
FINETUNE = {
    "resnet20": tuple(Schedule(epochs=2, rate=rate, batch=50) for rate in (0.02, 0.005)),
    "mobilenetv2": tuple(Schedule(epochs=2, rate=rate, batch=50) for rate in (0.02, 0.005)),
    "minilm": tuple(Schedule(epochs=1, rate=rate, batch=20, adam=True) for rate in (5e-5, 1e-5)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The folder of everything that is made once: splits, bases, results. ``minilm`` is the encoder's own folder."""

    folder: Path
    minilm: Path | None = None

    def split_path(self, name: str) -> Path:
        return self.folder / ("digits.safetensors" if name in VISION else "mails.safetensors")

    def split(self, name: str) -> Split:
        return load(self.split_path(name))

    def base_path(self, name: str, seed: int) -> Path:
        return self.folder / "bases" / f"{name}-{seed}.safetensors"

    def base(self, name: str, seed: int) -> nn.Module:
        """The trained network of a seed: loaded, or trained now and saved."""
        path = self.base_path(name, seed)
        if not path.exists():
            torch.manual_seed(seed)
            model: Any = build(name, self.minilm)
            if self.minilm is not None and name not in VISION:
                encoder = load_file(self.minilm / "model.safetensors")
                loaded = model.bert.load_state_dict(encoder, strict=False)
                assert not loaded.missing_keys, loaded
            train(model, self.split(name), BASE[name], seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(state_of(model), path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        return rebuild(name, load_file(path), self.minilm)


def train(model: nn.Module, split: Split, schedule: Schedule, seed: int) -> None:
    """Train in place on the training part."""
    steps = schedule.epochs * (len(split["train_x"]) // schedule.batch)
    if schedule.adam:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.rate, weight_decay=0.01)
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=schedule.rate, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    for epoch in range(schedule.epochs):
        for x, y in shuffled(split, "train", schedule.batch, seed * 1000 + epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(forward(model, x), y).backward()
            optimizer.step()
            cycle.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, part: str = "test") -> float:
    """The share that is right, in percent."""
    model.eval()
    right = sum(int((forward(model, x).argmax(1) == y).sum()) for x, y in batches(split, part))
    return 100 * right / len(split[f"{part}_y"])


@torch.no_grad()
def reestimate(model: nn.Module, split: Split) -> nn.Module:
    """A copy whose batch-norm statistics are those of the training part (mean over ten batches of 200)."""
    model = copy.deepcopy(model)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for x, _ in batches(split, "train", 200) if norms else ():
        forward(model, x)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def columns(model: nn.Module, split: Split, schedules: Sequence[Schedule], seed: int) -> dict[str, float]:
    """The three columns of every table: as returned, batch norm re-estimated, fine-tuned (from there)."""
    returned = accuracy(model, split)
    measured = reestimate(model, split)
    has_norms = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    renewed = accuracy(measured, split) if has_norms else returned
    best, rate, tuned = -1.0, 0.0, measured
    for schedule in schedules:
        trained = copy.deepcopy(measured)
        train(trained, split, schedule, seed + 77)
        score = accuracy(trained, split, "validation")
        if score > best:
            best, rate, tuned = score, schedule.rate, trained
    return {"acc_returned": returned, "acc_bn": renewed, "acc_finetuned": accuracy(tuned, split), "rate": rate}


def logits_of(model: nn.Module, split: Split) -> Tensor:
    """What a model says to the first eight of the validation part: how a rebuilt model is checked against its tool's."""
    with torch.no_grad():
        return forward(model.eval(), split["validation_x"][:8])
