"""What a user would call, a line a method: each takes the model, a bound on its parameters and calibration text.

The calibration text is of the training part: windows with labels, as a loader gives them. No method sees the held-out part;
minitron, which picks the best of ten uniform networks, scores them on windows of the training part of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from benchmarks.language.network import loss_of

Batches = list[dict[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Windows to calibrate on, and others to pick among candidates by."""

    calibration: Batches
    validation: Tensor

    def score(self, model: nn.Module) -> float:
        with torch.no_grad():
            return -float(loss_of(model, self.validation))


Recipe = Callable[[nn.Module, int, Text], None]


def _plainly(mode: str, **options: Any) -> Recipe:
    """The mode with the text and these options."""

    def prune(model: nn.Module, params: int, text: Text) -> None:
        config = {"data_loader": text.calibration, "num_batches": len(text.calibration), "verify": False, **options}
        sc.prune(model, mode, {"params": params}, text.calibration[0], config)

    return prune


def _scored(mode: str, **options: Any) -> Recipe:
    """A mode that picks among candidates."""
    return lambda model, params, text: _plainly(mode, score_func=text.score, **options)(model, params, text)


def _unlabelled(model: nn.Module, params: int, text: Text) -> None:
    bare = [{"input_ids": batch["input_ids"]} for batch in text.calibration]
    _plainly("progressive")(model, params, Text(calibration=bare, validation=text.validation))


_BLOCKS = {"depth": "only", "criterion": "block_influence"}
_FITTED = {"compensate": "answers"}

RECIPES: dict[str, Recipe] = {
    "progressive": _plainly("progressive"),
    "progressive, depth too": _plainly("progressive", depth=True),
    "progressive, depth only": _plainly("progressive", depth="only"),
    "progressive, layers alone": _plainly("progressive", compensate="least_squares"),
    "progressive, brain surgeon": _plainly("progressive", criterion="brain_surgeon"),
    "progressive, nothing given back": _plainly("progressive", compensate="none"),
    "progressive, no labels": _unlabelled,
    "magnitude": _plainly("magnitude"),
    "magnitude, compensated": _plainly("magnitude", **_FITTED),
    "gate gradient": _plainly("magnitude", criterion="gate_gradient", allocation="per_cost"),
    "gate gradient, compensated": _plainly("magnitude", criterion="gate_gradient", allocation="per_cost", **_FITTED),
    "brain surgeon, compensated": _plainly("magnitude", criterion="brain_surgeon", allocation="per_cost", **_FITTED),
    "minitron": _scored("minitron"),
    # the limits of a width's and of the depth's loss are those that the peer's search is given in modelopt.py
    "minitron, depth too": _scored("minitron", depth=True, max_width_pruning=0.6, max_depth_pruning=0.5),
    "minitron, compensated": _scored("minitron", **_FITTED),
    "block influence": _plainly("magnitude", **_BLOCKS),
    "block influence, compensated": _plainly("magnitude", **_BLOCKS, **_FITTED),
    "random": _plainly("magnitude", criterion="random"),
    "random, compensated": _plainly("magnitude", criterion="random", **_FITTED),
}
