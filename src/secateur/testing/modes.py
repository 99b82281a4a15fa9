"""The conformance kit for modes: the promises that `prune` makes, whatever searches.

    @pytest.mark.parametrize("check", check_mode("mine", {"data_loader": small_batches()}), ids=str)
    def test_my_mode(check): check()

Invariant: a check raises AssertionError with a sentence that says what was expected; each works on a network of its own.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from secateur.errors import ConfigError, Infeasible
from secateur.modes import Mode
from secateur.testing.check import Check
from secateur.testing.networks import small_network
from secateur.torch.prune import PruneResult, prune

INPUT = torch.zeros(2, 3, 6, 6)


def check_mode(
    mode: str | Mode,
    config: Mapping[str, object] | None = None,
    *,
    constraints: Mapping[str, str] | None = MappingProxyType({"macs": "60%", "params": "80%"}),
) -> list[Check]:
    """Named checks of a mode on `small_network`; ``config`` is what it needs to run there, such as data.

    ``constraints=None`` is for a mode whose config says how much goes.
    """
    case = _SearchedModel(mode, dict(config or {}), constraints)
    claims = (
        *((case.meets_the_constraints,) if constraints else ()),
        case.is_verified,
        case.says_the_same_twice,
        case.leaves_whole_what_is_excluded,
        case.refuses_what_cannot_be_met,
        case.refuses_an_option_that_nobody_knows,
        case.does_not_move_random_state,
    )
    return [Check(claim.__name__, claim) for claim in claims]


class _SearchedModel:
    """One mode and its options; a class because every check runs the same call with something else in it."""

    def __init__(self, mode: str | Mode, config: dict[str, object], constraints: Mapping[str, str] | None) -> None:
        self.mode, self.config, self.constraints = mode, config, constraints

    def run(self, **options: object) -> tuple[nn.Module, PruneResult]:
        return prune(small_network(), self.mode, self.constraints, INPUT, {**self.config, **options})

    def meets_the_constraints(self) -> None:
        _, result = self.run()
        for metric, share in (self.constraints or {}).items():
            left = result.after[metric] / result.before[metric]
            assert 100 * left <= float(share.rstrip("%")), f"{metric}: {left:.1%} is left, {share} was asked for"

    def is_verified(self) -> None:
        _, result = self.run()
        assert result.verification.passed, str(result.verification)
        assert result.verification.compared, "nothing was narrowed that could be compared"

    def says_the_same_twice(self) -> None:
        (first, one), (second, other) = self.run(), self.run()
        assert one.plan.kept == other.plan.kept, "the same call kept other units"
        state = second.state_dict()
        changed = [name for name, tensor in first.state_dict().items() if not torch.equal(tensor, state[name])]
        assert not changed, f"the same call gave other weights: {changed}"

    def leaves_whole_what_is_excluded(self) -> None:
        _, result = self.run(exclude=["stem", "out"])
        touched = [name for name in result.plan.kept if name.startswith(("stem.", "out."))]
        assert not touched, f"excluded, and narrowed all the same: {touched}"

    def refuses_what_cannot_be_met(self) -> None:
        model = small_network()
        before = copy.deepcopy(model.state_dict())
        try:
            prune(model, self.mode, {"params": 1}, INPUT, self.config)
        except Infeasible:
            after = model.state_dict()
            assert all(torch.equal(before[name], after[name]) for name in before), "the model changed all the same"
        else:
            raise AssertionError("one parameter cannot be met, and was not refused with Infeasible")

    def refuses_an_option_that_nobody_knows(self) -> None:
        told = ""
        try:
            self.run(no_such_option=1)
        except ConfigError as error:
            told = str(error)
        assert told, "an option that nobody knows was taken"
        assert "no_such_option" in told, f"the error does not name the option: {told}"

    def does_not_move_random_state(self) -> None:
        with torch.random.fork_rng():
            before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[union-attr]
            self.run()
            assert torch.equal(before[0], torch.get_rng_state()), "torch's random generator was moved"
            assert (before[1] == np.random.get_state()[1]).all(), "numpy's random generator was moved"  # type: ignore[index]
            assert before[2] == random.getstate(), "Python's random generator was moved"
