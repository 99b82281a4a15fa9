"""Every mode keeps the promises of `prune`: ours go through the kit that is there for yours."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from secateur.core.budget import Budget
from secateur.criteria import Random
from secateur.modes import MODES, Found, Magnitude, Task
from secateur.testing import Check, check_mode, small_batches

DATA = {"data_loader": small_batches()}


def steadiness(model: nn.Module) -> float:
    return -float(model(small_batches()[0][0]).var())


CHECKS = {
    "magnitude": check_mode("magnitude"),
    "gradnas": check_mode("gradnas", DATA),
    "progressive": check_mode("progressive", {**DATA, "steps": 2}),
    "fastnas": check_mode("fastnas", {**DATA, "score_func": steadiness, "max_evaluations": 5}),
    "activation": check_mode(
        "activation",
        {**DATA, "remove": {"nn.Conv2d": 0.5, "nn.Linear": 0.5}},
        constraints=None,
    ),
}


@pytest.mark.parametrize(
    "check", [pytest.param(check, id=f"{mode}-{check}") for mode, checks in CHECKS.items() for check in checks]
)
def test_a_mode_of_ours(check: Check) -> None:
    check()


class Wasteful(Magnitude):
    """Allows itself more than it was given."""

    def search(self, task: Task) -> Found:
        more = tuple(replace(bound, most=bound.whole - 1) for bound in task.budget.entries)
        return super().search(replace(task, budget=Budget(entries=more)))


class Deaf(Magnitude):
    """Does not hear what is to be left whole."""

    def search(self, task: Task) -> Found:
        return Magnitude().search(task)


class Fickle(Magnitude):
    """Scores by another lot each time."""

    def search(self, task: Task) -> Found:
        return Magnitude(criterion=Random(seed=next(LOTS))).search(task)


class Restless(Magnitude):
    """Draws from everybody's random numbers."""

    def search(self, task: Task) -> Found:
        torch.rand(1)
        return super().search(task)


LOTS = itertools.count()
FAULTS = {
    "meets_the_constraints": Wasteful(),
    "leaves_whole_what_is_excluded": Deaf(),
    "says_the_same_twice": Fickle(),
    "does_not_move_random_state": Restless(),
}


@pytest.mark.parametrize("promise", FAULTS)
def test_the_kit_catches_a_mode_that_breaks_a_promise(promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODES._entries, "faulty", type(FAULTS[promise]))
    (check,) = [check for check in check_mode("faulty") if check.name == promise]
    with pytest.raises(AssertionError):
        check()
