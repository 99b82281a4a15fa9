"""Budgets are met and used up, floors hold, the best units stay."""

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from secateur.core.budget import Budget
from secateur.core.graph import Graph
from secateur.core.layout import Along, Product, Whole
from secateur.core.profile import maximum, minimum
from secateur.errors import ConfigError, Infeasible, InputError
from secateur.search.allocate import allocate, keep_best
from secateur.search.allocations import ALLOCATIONS
from secateur.search.limits import Limits, restrict
from tests.handmade import chain, graph_of, heads, residual

EVERY = pytest.mark.parametrize("allocation", list(ALLOCATIONS))


def random_scores(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    shapes = {w.name: (w.size,) if w.outer is None else (graph[w.outer].size, w.size) for w in graph.free}
    return {name: generator.random(shape) for name, shape in shapes.items()}


def counts_of(graph: Graph, kept: dict[str, np.ndarray]) -> dict[str, int]:
    return graph.full() | {name: indices.shape[-1] for name, indices in kept.items()}


def fullness(graph: Graph, kept: dict[str, np.ndarray], budget: Budget) -> float:
    return float(budget.fullness(budget.costs(graph, counts_of(graph, kept))))


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)
NETWORKS = st.one_of(
    SIZES.map(lambda sizes: chain(*sizes)),
    st.tuples(
        st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=3), min_size=1, max_size=4), st.integers(1, 40)
    ).map(lambda drawn: residual(*drawn)),
)
BUDGETS = st.dictionaries(
    st.sampled_from(["macs", "params", "peak_activation_bytes", "flops"]),
    st.integers(3, 100).map("{}%".format),
    min_size=1,
    max_size=3,
)


@settings(deadline=None)
@given(NETWORKS, BUDGETS, st.sampled_from(list(ALLOCATIONS)), st.integers(1, 12), st.integers(0, 99))
def test_a_budget_is_never_exceeded_and_choices_are_respected(graph, bounds, allocation, multiple_of, seed):
    space = restrict(graph, Limits(multiple_of=multiple_of))
    try:
        budget = Budget.of(bounds, graph)
    except ConfigError:  # a few per cent of a handful of bytes: less than one
        reject()
    least = budget.costs(graph, minimum(space))
    if not budget.satisfied(least):
        with pytest.raises(Infeasible) as refused:
            allocate(space, random_scores(graph, seed), budget, allocation=allocation)
        missed = refused.value
        assert least[missed.metric] == missed.reachable > missed.bound == budget.bounds[missed.metric]
        return
    kept = allocate(space, random_scores(graph, seed), budget, allocation=allocation)
    assert budget.satisfied(budget.costs(graph, counts_of(graph, kept)))
    for width in space.free:
        assert counts_of(graph, kept)[width.name] in width.choices
    graph.plan(kept)  # raises for indices that are unsorted, repeated or out of range


@settings(deadline=None)
@given(SIZES.filter(lambda sizes: math.prod(sizes) <= 4000), st.integers(5, 99), st.sampled_from(list(ALLOCATIONS)))
def test_small_networks_fill_the_budget_to_one_per_cent_wherever_any_choice_does(sizes, percent, allocation):
    graph = chain(*sizes)
    budget = Budget.of({"macs": f"{percent}%"}, graph)
    assume(budget.satisfied(budget.costs(graph, minimum(graph))))
    found = fullness(graph, allocate(graph, random_scores(graph), budget, allocation=allocation), budget)
    names = [w.name for w in graph.widths]
    reachable = [
        float(budget.fullness(budget.costs(graph, dict(zip(names, counts, strict=True)))))
        for counts in itertools.product(*(w.choices for w in graph.widths))
    ]
    best = max(used for used in reachable if used <= 1)
    assert found >= (0.99 if best >= 0.99 else best - 0.01)


@EVERY
@settings(deadline=None)
@given(st.lists(st.integers(32, 64), min_size=3, max_size=8), st.integers(15, 95), st.integers(0, 99))
def test_larger_networks_fill_the_budget_to_one_per_cent(allocation, sizes, percent, seed):
    graph = chain(*sizes)
    budget = Budget.of({"macs": f"{percent}%", "params": "97%"}, graph)
    kept = allocate(graph, random_scores(graph, seed), budget, allocation=allocation)
    least = 0.99 if len(sizes) > 4 else 0.98  # of three or four widths one unit is two or three per cent of all
    assert least <= fullness(graph, kept, budget) <= 1


@EVERY
@pytest.mark.parametrize("percent", [30, 45, 60, 75])
def test_coarse_choices_fill_the_budget_by_exchanging_steps(allocation, percent):
    graph = residual([[64, 64]] * 3 + [[128, 128]] * 3, 256)
    space = restrict(graph, Limits(multiple_of=32))
    budget = Budget.of({"macs": f"{percent}%"}, graph)
    kept = allocate(space, random_scores(graph), budget, allocation=allocation)
    assert 0.99 <= fullness(graph, kept, budget) <= 1


@EVERY
def test_the_best_units_stay_and_ties_go_to_the_lower_index(allocation):
    graph = chain(8, 8)
    scores = {"conv0.out": np.array([3, 1, 3, 1, 3, 1, 3, 1.0]), "conv1.out": np.arange(8.0)}
    kept = allocate(graph, scores, Budget.of({"macs": "40%"}, graph), allocation=allocation)
    for name, indices in kept.items():
        order = sorted(range(8), key=lambda unit: (-scores[name][unit], unit))
        assert indices.tolist() == sorted(order[: len(indices)]), name


@EVERY
def test_a_generous_budget_keeps_everything(allocation):
    graph = chain(8, 16)
    assert allocate(graph, random_scores(graph), Budget.of({"macs": "100%"}, graph), allocation=allocation) == {}


@EVERY
def test_the_same_input_gives_the_same_plan(allocation):
    graph = residual([[16, 24], [16, 32]], 48)
    scores = {name: np.round(values, 1) for name, values in random_scores(graph).items()}  # many ties
    budget = Budget.of({"macs": "50%"}, graph)
    first = allocate(graph, scores, budget, allocation=allocation)
    second = allocate(graph, {name: scores[name] for name in reversed(scores)}, budget, allocation=allocation)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@EVERY
def test_the_16_32_64_chain_is_narrowed_in_proportion_where_all_layers_are_alike(allocation):
    """A peer that ranks isomorphic layers together makes 16-32-8 of this."""
    graph = chain(16, 32, 64)
    scores = {f"conv{i}.out": np.linspace(0.01, 1, size) for i, size in enumerate((16, 32, 64))}
    counts = counts_of(graph, allocate(graph, scores, Budget.of({"params": "30%"}, graph), allocation=allocation))
    if allocation == "per_cost":
        assert counts["conv0.out"] <= counts["conv1.out"] <= counts["conv2.out"]
        return
    shares = [counts[f"conv{i}.out"] / size for i, size in enumerate((16, 32, 64))]
    assert max(shares) - min(shares) <= 1 / 16
    assert 0.4 < shares[0] < 0.7


def test_uniform_keeps_the_same_fraction_whatever_the_scores():
    graph = chain(20, 40, 60)
    scores = {name: values * 10.0**i for i, (name, values) in enumerate(random_scores(graph).items())}
    counts = counts_of(graph, allocate(graph, scores, Budget.of({"macs": "50%"}, graph), allocation="uniform"))
    assert np.ptp([counts[w.name] / w.size for w in graph.widths]) <= 0.05


def test_global_takes_from_the_weak_layer_first_and_local_does_not():
    graph = chain(200, 200, 200)
    scores = {name: 0.5 + values for name, values in random_scores(graph).items()}
    scores["conv1.out"] = scores["conv1.out"] * 0.01
    budget = Budget.of({"macs": "70%"}, graph)
    weak = {a: counts_of(graph, allocate(graph, scores, budget, allocation=a)) for a in ("global", "local")}
    assert weak["global"]["conv0.out"] == 200
    assert weak["global"]["conv1.out"] < weak["local"]["conv1.out"]


def test_local_takes_the_same_share_of_each_score():
    graph = chain(50, 50)
    scores = {"conv0.out": np.linspace(0, 1, 50), "conv1.out": np.r_[np.full(25, 0.001), np.full(25, 1.0)]}
    kept = allocate(graph, scores, Budget.of({"params": "40%"}, graph), allocation="local")
    given_up = [1 - scores[name][kept[name]].sum() / scores[name].sum() for name in scores]
    assert abs(given_up[0] - given_up[1]) < 0.05


def test_per_cost_takes_expensive_units_first():
    layouts = {
        "a.weight": (Along("cheap", 200), Whole(3)), "b.weight": (Whole(10), Along("cheap", 200)),
        "c.weight": (Along("dear", 200), Whole(300)), "d.weight": (Whole(10), Along("dear", 200)),
    }  # fmt: skip
    graph = graph_of(layouts)
    scores = dict.fromkeys(("cheap", "dear"), np.linspace(1, 2, 200))
    counts = counts_of(graph, allocate(graph, scores, Budget.of({"macs": "60%"}, graph), allocation="per_cost"))
    assert counts["cheap"] == 200
    assert counts["dear"] < 120


def test_per_cost_counts_the_units_of_every_outer_index():
    """Each of the 16 dimensions of 8 heads stands for 8 units, which cost as much as 8 of the other width's."""
    axis = Product((Along("heads", 8), Along("head_dim", 16)))
    layouts = {
        "v.weight": (axis, Whole(10)), "o.weight": (Whole(10), axis),
        "up.weight": (Along("hidden", 128), Whole(10)), "down.weight": (Whole(10), Along("hidden", 128)),
    }  # fmt: skip
    graph = graph_of(layouts, changes={"head_dim": {"outer": "heads"}, "heads": {"choices": (8,), "frozen": "kept"}})
    scores = {"hidden": np.linspace(1, 2, 128), "head_dim": np.tile(np.linspace(1, 2, 16), (8, 1))}
    counts = counts_of(graph, allocate(graph, scores, Budget.of({"params": "60%"}, graph), allocation="per_cost"))
    assert abs(counts["head_dim"] / 16 - counts["hidden"] / 128) < 0.1


def test_equal_scores_everywhere_narrow_all_widths_alike():
    graph = residual([[32, 32]] * 4, 64)
    scores = {w.name: np.ones(w.size) for w in graph.widths}
    counts = counts_of(graph, allocate(graph, scores, Budget.of({"macs": "25%"}, graph), allocation="global"))
    assert np.ptp([counts[w.name] / w.size for w in graph.widths]) <= 1 / 32


class TestFloors:
    def test_no_width_falls_below_a_tenth_while_the_budget_can_be_met_so(self):
        graph = chain(40, 40, 40)
        scores = random_scores(graph)
        scores["conv1.out"] = scores["conv1.out"] * 1e-6
        kept = allocate(graph, scores, Budget.of({"macs": "14%"}, graph), allocation="global")
        assert counts_of(graph, kept)["conv1.out"] == 4
        assert counts_of(graph, kept)["conv0.out"] > 30

    def test_the_default_floor_gives_way_to_the_budget(self):
        graph = chain(40, 40, 40)
        kept = allocate(graph, random_scores(graph), Budget.of({"macs": "2%"}, graph), allocation="global")
        assert min(counts_of(graph, kept).values()) < 4

    @EVERY
    def test_a_floor_that_was_asked_for_does_not(self, allocation):
        space = restrict(chain(40, 40, 40), Limits(floor={"conv1.out": 0.5}))
        scores = random_scores(space) | {"conv1.out": np.full(40, 1e-9)}
        kept = allocate(space, scores, Budget.of({"macs": "30%"}, space), allocation=allocation)
        assert counts_of(space, kept)["conv1.out"] >= 20
        with pytest.raises(Infeasible):
            allocate(space, scores, Budget.of({"macs": "1%"}, space), allocation=allocation)

    @EVERY
    def test_a_ceiling_holds_even_where_the_budget_is_met_without(self, allocation):
        space = restrict(chain(40, 40), Limits(ceiling={"conv0.out": 10}))
        kept = allocate(space, random_scores(space), Budget.of({"macs": "100%"}, space), allocation=allocation)
        assert counts_of(space, kept) == {"conv0.out": 10, "conv1.out": 40}


class TestRaggedWidths:
    def test_each_outer_index_keeps_its_own_best_units(self):
        graph = heads(num_heads=4, head_dim=6)
        scores = random_scores(graph)
        kept = keep_best(graph, scores, {"head_dim": 2})["head_dim"]
        assert kept.shape == (4, 2)
        for row, own in zip(kept, scores["head_dim"], strict=True):
            assert set(row.tolist()) == set(np.argsort(-own)[:2].tolist())
            assert row[0] < row[1]

    @EVERY
    def test_rows_of_heads_that_go_are_still_valid(self, allocation):
        graph = heads(num_heads=8, head_dim=6)
        scores = random_scores(graph) | {"heads": np.array([0, 0, 0, 0, 1, 1, 1, 1.0])}
        kept = allocate(graph, scores, Budget.of({"macs": "30%"}, graph), allocation=allocation)
        assert {"heads", "head_dim"} <= kept.keys()
        assert kept["head_dim"].shape[0] == 8
        graph.plan(kept)

    def test_one_ranking_for_all_outer_indices_is_accepted(self):
        graph = heads(num_heads=4, head_dim=6)
        kept = keep_best(graph, {"head_dim": np.arange(6.0)}, {"head_dim": 2})
        assert kept["head_dim"].tolist() == [4, 5]


class TestRefusals:
    def test_an_unreachable_budget_names_what_is_reachable_and_what_would_help(self):
        space = restrict(chain(20, 40, 30), Limits(multiple_of=32, exclude=["conv2.out"]))
        with pytest.raises(Infeasible) as refused:
            allocate(space, random_scores(space), Budget.of({"macs": "50%"}, space))
        least = space.cost("macs", minimum(space))
        assert refused.value.metric == "macs"
        assert refused.value.reachable == least
        assert refused.value.bound == space.macs // 2
        said = str(refused.value)
        assert said.startswith("cannot reach macs ≤ ")
        assert "Allow conv1.out fewer than 32 of its 40 units" in said
        assert "free " in said
        assert "free conv2.out (excluded (conv2.out))" in said or "free conv0.out (no other choice" in said

    def test_of_several_bounds_the_one_missed_most_is_named(self):
        space = restrict(chain(20, 40), Limits(floor=0.9))
        with pytest.raises(Infeasible) as refused:
            allocate(space, random_scores(space), Budget.of({"macs": "70%", "params": "1%"}, space))
        assert refused.value.metric == "params"

    def test_a_network_that_cannot_be_narrowed_at_all_says_so(self):
        space = restrict(graph_of({"a.weight": (Whole(4), Whole(3))}), Limits())
        with pytest.raises(Infeasible, match="nothing else can be narrowed"):
            allocate(space, {}, Budget.of({"macs": "50%"}, space))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_scores_that_are_not_finite_are_refused_by_name(self, bad):
        graph = chain(4, 4)
        scores = random_scores(graph)
        scores["conv1.out"][2] = bad
        with pytest.raises(InputError, match=r"conv1\.out are not all finite"):
            allocate(graph, scores, Budget.of({"macs": "50%"}, graph))

    @pytest.mark.parametrize("shape", [(3,), (5,), (2, 4), (1, 4), ()])
    def test_scores_of_the_wrong_shape_are_refused_by_name(self, shape):
        graph = chain(4, 4)
        with pytest.raises(InputError, match=r"conv1\.out have shape"):
            allocate(graph, random_scores(graph) | {"conv1.out": np.ones(shape)}, Budget.of({"macs": "50%"}, graph))

    def test_missing_scores_are_refused_by_name(self):
        graph = chain(4, 4)
        with pytest.raises(InputError, match=r"no scores for the width 'conv1\.out'\. Did you mean 'conv0\.out'"):
            allocate(graph, {"conv0.out": np.ones(4)}, Budget.of({"macs": "50%"}, graph))

    def test_an_unknown_allocation_names_the_nearest(self):
        graph = chain(4, 4)
        with pytest.raises(ConfigError, match=r"no allocation is called 'globl'. Did you mean 'global'"):
            allocate(graph, random_scores(graph), Budget.of({"macs": "50%"}, graph), allocation="globl")


def test_many_widths_with_a_single_choice_do_not_hinder_the_others():
    graph = chain(*[8] * 100)
    changes = {"conv0.out": (2, 8), "conv1.out": (3, 8), "conv50.out": (1, 8)}
    space = graph.with_widths(replace(w, choices=changes.get(w.name, (7,))) for w in graph.widths)
    budget = Budget.of({"macs": space.cost("macs", maximum(space)) - 1}, graph)
    counts = counts_of(graph, allocate(space, random_scores(space), budget))
    assert [counts[name] for name in changes] in ([2, 8, 8], [8, 3, 8], [8, 8, 1])
    assert set(counts.values()) <= {1, 2, 3, 7, 8}


def test_rounding_larger_than_what_is_left_is_not_silent():
    """A peer given 20 channels, 25 % and a multiple of 16 silently prunes nothing."""
    graph = chain(20)
    budget = Budget.of({"macs": "85%"}, graph)
    kept = allocate(restrict(graph, Limits(multiple_of=16)), random_scores(graph), budget)
    assert counts_of(graph, kept) == {"conv0.out": 16}
    with pytest.raises(Infeasible, match=r"Allow conv0.out fewer than 16 of its 20 units"):
        allocate(restrict(graph, Limits(multiple_of=16)), random_scores(graph), Budget.of({"macs": "25%"}, graph))
    with pytest.raises(Infeasible, match=r"Free conv0.out \(no other choice than all 20 \(multiple_of=32\)\)"):
        allocate(restrict(graph, Limits(multiple_of=32)), random_scores(graph), Budget.of({"macs": "85%"}, graph))


def test_scores_of_any_dtype_rank_as_numbers():
    graph = chain(4)
    for dtype in (np.uint8, np.int32, np.float16, bool):
        kept = keep_best(graph, {"conv0.out": np.array([1, 0, 1, 0], dtype)}, {"conv0.out": 2})
        assert kept["conv0.out"].tolist() == [0, 2]


def test_scores_below_zero_are_fine():
    graph = chain(16, 16)
    scores = {name: values - 5 for name, values in random_scores(graph).items()}
    for allocation in ALLOCATIONS:
        kept = allocate(graph, scores, Budget.of({"macs": "50%"}, graph), allocation=allocation)
        assert fullness(graph, kept, Budget.of({"macs": "50%"}, graph)) > 0.95


def test_scores_of_zero_everywhere_are_fine():
    graph = chain(100, 100)
    scores = {w.name: np.zeros(w.size) for w in graph.widths}
    for allocation in ALLOCATIONS:
        counts = counts_of(graph, allocate(graph, scores, Budget.of({"macs": "50%"}, graph), allocation=allocation))
        assert counts["conv0.out"] - counts["conv1.out"] in (-1, 0, 1)


def test_maximum_is_taken_without_looking_at_floors_when_it_fits():
    graph = chain(16, 16)
    assert counts_of(graph, allocate(graph, random_scores(graph), Budget.of({"macs": graph.macs}, graph))) == maximum(
        graph
    )


def test_a_hundred_and_fifty_widths_take_milliseconds():
    graph = residual([[256, 256, 256]] * 50, 512)
    scores, budget = random_scores(graph), Budget.of({"macs": "50%", "params": "60%"}, graph)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        allocate(graph, scores, budget)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.1, "about 0.015 s on a quiet core"
