"""Conformance kits for what others add: a criterion, an operator rule, a mode.

    @pytest.mark.parametrize("check", check_criterion(Mine()), ids=str)
    def test_my_criterion(check): check()

Each kit yields named checks; ours go through the same ones.
"""

from secateur.testing.check import Check
from secateur.testing.criteria import check_criterion
from secateur.testing.modes import check_mode
from secateur.testing.networks import SmallNetwork, permuted, small_batches, small_network
from secateur.testing.plans import random_plan
from secateur.testing.rules import check_rule

__all__ = [
    "Check",
    "SmallNetwork",
    "check_criterion",
    "check_mode",
    "check_rule",
    "permuted",
    "random_plan",
    "small_batches",
    "small_network",
]
