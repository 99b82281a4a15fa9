"""Schedules: shares fall towards the target, each in its own way."""

from __future__ import annotations

import itertools

import pytest

from secateur.errors import ConfigError, InputError
from secateur.search.schedules import SCHEDULES, agp, geometric, linear, schedule


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("target", [0.05, 0.3, 0.9, 1.0])
def test_shares_fall_to_the_target_itself(name: str, steps: int, target: float) -> None:
    shares = SCHEDULES[name](target, steps)
    assert len(shares) == steps
    assert shares[-1] == target
    assert all(a >= b for a, b in itertools.pairwise((1.0, *shares)))


def test_linear_removes_the_same_amount_each_time() -> None:
    shares = (1.0, *linear(0.2, 4))
    assert [a - b for a, b in itertools.pairwise(shares)] == pytest.approx([0.2] * 4)


def test_geometric_keeps_the_same_share_each_time() -> None:
    shares = (1.0, *geometric(0.15, 6))
    assert [b / a for a, b in itertools.pairwise(shares)] == pytest.approx([0.15 ** (1 / 6)] * 6)


def test_agp_is_cubic_and_removes_ever_less() -> None:
    shares = (1.0, *agp(0.3, 4))
    removed = [a - b for a, b in itertools.pairwise(shares)]
    assert removed == sorted(removed, reverse=True)
    assert shares[2] == pytest.approx(0.3 + 0.7 * 0.125)


def test_a_schedule_gives_the_constraints_of_each_round() -> None:
    assert schedule("linear", 4, {"macs": "20%"}) == [{"macs": share} for share in ("80%", "60%", "40%", "20%")]
    assert schedule("geometric", 2, {"params": "25%"}) == [{"params": "50%"}, {"params": "25%"}]
    assert schedule("agp", 1, {"macs": "30.5%"}) == [{"macs": "30.5%"}]
    assert schedule("linear", 2, {"macs": "60%", "params": "80%"})[0] == {"macs": "80%", "params": "90%"}


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="linear"):
        schedule("liner", 3, {"macs": "50%"})
    with pytest.raises(InputError, match="more than 0"):
        geometric(0.0, 3)
    with pytest.raises(InputError, match="at least one step"):
        schedule("agp", 0, {"macs": "50%"})
    for bound in ("half", 3e6, "3M", "0%"):
        with pytest.raises(InputError, match=r"macs: a schedule leads to a share|more than 0"):
            schedule("agp", 2, {"macs": bound})  # type: ignore[dict-item]
