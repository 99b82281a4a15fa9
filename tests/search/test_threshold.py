"""The smallest threshold that fits, nothing above a bound, nothing left over that could be used; what is measured first."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secateur.core.budget import Budget
from secateur.core.graph import Graph
from secateur.core.profile import maximum, minimum
from secateur.errors import Infeasible, InputError
from secateur.search.limits import Limits, restrict
from secateur.search.sensitivity import Sensitivity, curves
from secateur.search.survey import Grid, most_telling
from secateur.search.threshold import choose, monotone
from tests.handmade import chain, residual

NETWORKS = st.one_of(
    st.lists(st.integers(1, 12), min_size=1, max_size=4).map(lambda sizes: chain(*sizes)),
    st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=2), min_size=1, max_size=2).map(lambda b: residual(b, 6)),
)
BUDGETS = st.dictionaries(
    st.sampled_from(["macs", "params", "flops"]), st.integers(3, 100).map("{}%".format), min_size=1, max_size=3
)


def random_curves(space: Graph, seed: int, levels: int = 1000) -> dict[str, dict[int, float]]:
    """Losses that fall with the count, with ties where there are few levels, and some steps the wrong way."""
    generator = np.random.default_rng(seed)
    return {
        w.name: {c: float(generator.integers(levels) * (1 - c / w.size)) for c in w.choices if c < w.size}
        | ({w.size: 0.0} if w.size in w.choices else {})
        for w in space.free
    }


def largest(losses: dict[str, dict[int, float]], counts: dict[str, int]) -> float:
    return max((losses[name][counts[name]] for name in losses), default=0.0)


@settings(deadline=None)
@given(NETWORKS, BUDGETS, st.integers(0, 999), st.sampled_from([1, 3, 1000]), st.integers(1, 4))
def test_no_choice_that_meets_the_budget_has_a_smaller_largest_loss(graph, bounds, seed, levels, multiple_of):
    space = restrict(graph, Limits(multiple_of=multiple_of))
    budget = Budget.of(bounds, graph)
    assume(budget.satisfied(budget.costs(space, minimum(space))))
    losses = random_curves(space, seed, levels)
    counts = choose(space, losses, budget)
    assert budget.satisfied(budget.costs(space, counts))
    assert all(counts[w.name] in w.choices for w in space.free)
    steady = {name: monotone(curve) for name, curve in losses.items()}
    every = itertools.product(*(w.choices for w in space.free))
    for some in itertools.islice(every, 2000):
        other = maximum(space) | dict(zip((w.name for w in space.free), some, strict=True))
        if budget.satisfied(budget.costs(space, other)):
            assert largest(steady, counts) <= largest(steady, other)


@pytest.mark.parametrize("objective", ["largest", "sum"])
@settings(deadline=None)
@given(graph=NETWORKS, bounds=BUDGETS, seed=st.integers(0, 999))
def test_no_width_can_go_up_any_more(objective, graph, bounds, seed):
    budget = Budget.of(bounds, graph)
    assume(budget.satisfied(budget.costs(graph, minimum(graph))))
    counts = choose(graph, random_curves(graph, seed), budget, objective)
    assert budget.satisfied(budget.costs(graph, counts))
    for width in graph.free:
        if counts[width.name] < width.size:
            assert not budget.satisfied(budget.costs(graph, counts | {width.name: counts[width.name] + 1}))


def test_the_smallest_and_the_whole_network_are_candidates() -> None:
    graph = chain(8, 8)
    losses = random_curves(graph, 0)
    smallest = graph.cost("macs", minimum(graph))
    assert choose(graph, losses, Budget.of({"macs": smallest}, graph)) == minimum(graph)
    assert choose(graph, losses, Budget.of({"macs": "100%"}, graph)) == maximum(graph)
    with pytest.raises(Infeasible) as refusal:
        choose(graph, losses, Budget.of({"macs": smallest - 1}, graph))
    assert refusal.value.reachable == smallest


def test_the_smaller_sum_of_losses_is_found_by_its_objective() -> None:
    graph = chain(10, 10)
    # narrowing conv0 costs little more than a shared threshold allows for, and saves as much as both together
    losses = {
        "conv0.out": {c: 1.0 * (c < 10) for c in range(1, 11)},
        "conv1.out": {c: 0.9 * (c < 10) for c in range(1, 11)},
    }
    budget = Budget.of({"macs": "70%"}, graph)
    total = {o: sum(losses[n][choose(graph, losses, budget, o)[n]] for n in losses) for o in ("largest", "sum")}
    assert total["sum"] < 1.9
    assert total["sum"] <= total["largest"]


def test_widths_that_lose_nothing_go_first() -> None:
    graph = chain(16, 16)
    losses = {"conv0.out": dict.fromkeys(range(1, 17), 0.0), "conv1.out": {c: (16 - c) / 16 for c in range(1, 17)}}
    counts = choose(graph, losses, Budget.of({"macs": "50%"}, graph))
    assert counts["conv1.out"] == 16
    assert counts["conv0.out"] < 16


def test_several_bounds_hold_at_once() -> None:
    graph = chain(20, 30, 40)
    losses = random_curves(graph, 3)
    for bounds in ({"macs": "50%", "params": "30%"}, {"macs": "20%", "params": "90%"}):
        budget = Budget.of(bounds, graph)
        counts = choose(graph, losses, budget)
        assert budget.satisfied(budget.costs(graph, counts))
        assert budget.fullness(budget.costs(graph, counts)) > 0.97


@pytest.mark.parametrize("damage", ["no curve", "a gap", "not a number"])
def test_a_curve_that_says_too_little_is_refused(damage: str) -> None:
    graph = chain(4, 4)
    losses = random_curves(graph, 0)
    if damage == "no curve":
        del losses["conv1.out"]
    elif damage == "a gap":
        del losses["conv1.out"][2]
    else:
        losses["conv1.out"][2] = float("nan")
    with pytest.raises(InputError, match=r"conv1\.out"):
        choose(graph, losses, Budget.of({"macs": "50%"}, graph))


def seen(drops: dict[str, dict[int, float]]) -> Sensitivity:
    scores = {name: {count: 1 - drop for count, drop in found.items()} for name, found in drops.items()}
    return Sensitivity(whole=1.0, scores=scores)


def measured(grid: Grid, truth, most: int = 10**6) -> dict[str, dict[int, float]]:
    drops: dict[str, dict[int, float]] = {}
    for _ in range(most):
        point = most_telling(grid, seen(drops))
        if point is None:
            break
        name, count = point
        assert count not in drops.get(name, {})
        drops.setdefault(name, {})[count] = truth(name, count)
    return drops


def test_a_width_with_many_choices_is_measured_at_a_few_of_them_and_always_the_smallest() -> None:
    graph = restrict(chain(500, 6, 64), Limits(multiple_of=2))
    grid = Grid.evenly(graph, most=8)
    assert [len(points) for points in grid.points.values()] == [8, 2, 8]
    assert [points[0] for points in grid.points.values()] == [2, 2, 2]
    drops = measured(grid, lambda name, count: 1 / count)
    assert {name: set(found) for name, found in drops.items()} == {n: set(p) for n, p in grid.points.items()}
    found = curves(grid.search_space, seen(drops))
    a, b = grid.points["conv0.out"][2:4]
    middle = 2 * round((a + b) / 4)
    assert found["conv0.out"][middle] == pytest.approx(np.interp(middle, [a, b], [1 / a, 1 / b]))
    assert found["conv0.out"][500] == 0


def test_where_the_curve_is_flat_nothing_is_measured() -> None:
    grid = Grid.evenly(chain(64), most=9)
    drops = measured(grid, lambda name, count: 0.0 if count > 30 else 9e-6 if count > 20 else 0.5)["conv0.out"]
    assert 1 in drops
    assert sum(count > 20 for count in drops) <= 2
    assert max(curves(grid.search_space, seen({"conv0.out": drops}))["conv0.out"].values()) == 0.5


def test_the_costliest_width_is_measured_first_and_in_its_middle() -> None:
    grid = Grid.evenly(chain(8, 64, 8), most=9)
    assert most_telling(grid, seen({}))[0] == "conv1.out"
    _, count = most_telling(grid, seen({}))
    assert 20 < count < 45


def test_after_one_look_at_each_width_the_steepest_is_refined() -> None:
    grid = Grid.evenly(chain(32, 32, 32), most=9)
    drops = measured(grid, lambda name, count: (32 - count) * (1.0 if name == "conv1.out" else 0.001), most=9)
    assert len(drops["conv1.out"]) >= 4
    assert all(len(found) == 1 or name == "conv1.out" or min(found) == 1 for name, found in drops.items())


def test_a_larger_allowance_begins_with_the_evaluations_of_a_smaller_one() -> None:
    grid = Grid.evenly(chain(32, 16, 24), most=6)

    def truth(name: str, count: int) -> float:
        return len(name) / count

    every = measured(grid, truth)
    for most in range(sum(map(len, every.values()))):
        some = measured(grid, truth, most)
        assert sum(map(len, some.values())) == most
        assert all(found.items() <= every[name].items() for name, found in some.items())


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 12), st.integers(1, 5), st.integers(0, 99))
def test_any_number_of_evaluations_gives_usable_curves(sizes, most, multiple_of, seed):
    space = restrict(chain(*sizes), Limits(multiple_of=multiple_of))
    generator = np.random.default_rng(seed)
    grid = Grid.evenly(space, most=5)
    drops = measured(grid, lambda name, count: float(generator.normal()), most)
    found = curves(grid.search_space, seen(drops))
    for width in space.free:
        assert set(found[width.name]) == set(width.choices)
        assert found[width.name] == monotone(found[width.name])
    budget = Budget.of({"macs": "60%"}, space)
    if budget.satisfied(budget.costs(space, minimum(space))):
        assert budget.satisfied(budget.costs(space, choose(space, found, budget)))


def test_a_width_that_was_not_measured_to_its_end_is_thought_to_lose_more_there() -> None:
    grid = Grid.evenly(chain(32, 32), most=9)
    drops = measured(grid, lambda name, count: 0.4 * (1 - count / 32), most=2)
    for name, found in curves(grid.search_space, seen(drops)).items():
        (count,) = drops[name]
        assert found[1] > drops[name][count]


def test_what_was_not_measured_is_thought_to_cost_the_whole_score() -> None:
    """A redundant network loses nothing at first: what lies beyond must not be taken for free."""
    grid = Grid.evenly(chain(32, 32, 32), most=9)
    drops = measured(grid, lambda name, count: 0.0, most=2)
    found = curves(grid.search_space, seen(drops))
    (unseen,) = set(found) - set(drops)
    assert found[unseen][1] > 0.9
    for name in drops:
        (count,) = drops[name]
        assert found[name][count] == 0
        assert found[name][1] > 0.9
    budget = Budget.of({"macs": "60%"}, grid.search_space)
    assert min(choose(grid.search_space, found, budget).values()) >= 8
