"""Every mode keeps the promises of `prune`: ours go through the kit that is there for yours."""

from __future__ import annotations

import pytest
from torch import nn

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
