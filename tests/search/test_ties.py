"""Ties: the same width of every block of a stack has one size."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from torch import nn

import secateur as sc
from secateur.core.budget import Budget
from secateur.search.blocks import one_left
from secateur.search.depths import depths_of
from secateur.search.grid import kept_share, proposed, weight
from secateur.search.limits import Limits, restrict
from secateur.search.ties import Tie, bound, counts_of, pattern_of, ties_of, uneven, uniform
from tests.search.stacks import Stack, example


def assert_best(
    found: Mapping[str, int], space: sc.Graph, ties: Sequence[Tie], scores: Mapping[str, Any], budget: Budget
) -> list[dict[str, int]]:
    """Nothing that meets the budget has a better prediction, by trying every combination; those that meet it."""

    def quality(chosen: Mapping[str, int]) -> float:
        places = {tie.name: tie.choices.index(chosen[tie.name]) for tie in ties}
        return sum(weight(space, tie) * float(np.log(kept_share(space, tie, scores)[places[tie.name]])) for tie in ties)

    every = (dict(zip([t.name for t in ties], c, strict=True)) for c in itertools.product(*(t.choices for t in ties)))
    fits = [one for one in every if budget.satisfied(budget.costs(space, counts_of(one, ties)))]
    assert quality(found) == pytest.approx(max(map(quality, fits)))
    return fits


@pytest.fixture
def graph() -> sc.Graph:
    return sc.trace(Stack(), example())


def test_names_lose_the_numbers_of_blocks_and_no_others() -> None:
    assert pattern_of("model.layers.11.mlp.up.out_features") == "model.layers.*.mlp.up.out_features"
    assert pattern_of("blocks.0.conv1.weight.1") == "blocks.*.conv1.weight.*"
    assert pattern_of("h.2.c_attn.out_features[0]") == "h.*.c_attn.out_features[0]"


def test_widths_of_sibling_blocks_are_tied(graph: sc.Graph) -> None:
    ties = {tie.name: tie for tie in ties_of(graph)}
    assert ties["blocks.*.up.out_features"].widths == tuple(f"blocks.{i}.up.out_features" for i in range(3))
    assert len(ties) == 2, "and the stream on its own"


def test_widths_of_another_size_are_not_tied() -> None:
    graph = sc.trace(Stack(widths=(8, 8, 12)), example())
    assert sorted(len(tie.widths) for tie in ties_of(graph)) == [1, 1, 2]


def test_a_width_is_left_whole_with_its_sibling(graph: sc.Graph) -> None:
    tied = uniform(restrict(graph, Limits(exclude=["blocks.1.up"])))
    reason = tied["blocks.0.up.out_features"].frozen
    assert reason is not None
    assert "blocks.1.up.out_features" in reason


def test_sizes_that_differ_within_a_stack_are_noticed(graph: sc.Graph) -> None:
    names = [f"blocks.{i}.up.out_features" for i in range(3)]
    assert uneven(graph.plan({name: range(4) for name in names})) is None
    assert uneven(graph.plan({names[0]: range(4), names[1]: range(4)})) == "blocks.*.up.out_features"


def test_bound_ties_keep_one_share() -> None:
    hidden = Tie(name="hidden", kind="embedding", size=64, choices=tuple(range(8, 65)), widths=("hidden",))
    heads = Tie(name="h.*.heads", kind="heads", size=8, choices=tuple(range(1, 9)), widths=("h.0.heads", "h.1.heads"))
    one = bound([hidden, heads])
    assert one.choices == tuple(range(1, 9))
    assert counts_of({one.name: 6}, [one]) == {"hidden": 48, "h.0.heads": 6, "h.1.heads": 6}


def test_tied_widths_have_the_choices_that_all_of_them_have(graph: sc.Graph) -> None:
    tied = uniform(restrict(graph, Limits(floor={"blocks.2.up*": 6})))
    assert tied["blocks.0.up.out_features"].choices == (6, 7, 8)


def test_nothing_that_meets_the_budget_has_a_better_prediction(graph: sc.Graph) -> None:
    space = uniform(graph)
    ties = ties_of(space)
    generator = np.random.default_rng(0)
    scores = {w.name: generator.random(w.size) for w in space.free}
    budget = Budget.of({"params": "55%"}, graph)
    (found,) = proposed(space, ties, scores, budget, top=1)
    assert budget.satisfied(budget.costs(graph, counts_of(found, ties)))

    assert_best(found, space, ties, scores, budget)


def test_too_many_combinations_are_thinned_out_and_the_budget_still_holds() -> None:
    graph = sc.trace(nn.Sequential(*(nn.Linear(40, 40) for _ in range(9))), example(40))
    space, budget = uniform(graph), Budget.of({"params": "30%"}, graph)
    scores = {w.name: np.arange(w.size) + 1.0 for w in space.free}
    ties = tuple(tie for tie in ties_of(space))
    for found in proposed(space, ties, scores, budget, top=5):
        assert budget.satisfied(budget.costs(graph, counts_of(found, ties)))


def test_layers_are_a_size_of_the_grid_and_nothing_that_meets_the_budget_has_a_better_prediction() -> None:
    graph = sc.trace(Stack(), example(), depth=True)
    generator = np.random.default_rng(1)
    scores = {w.name: generator.random(w.size) + 0.1 for w in graph.free}
    space = one_left(uniform(graph), scores)
    ties = (*ties_of(space), *depths_of(space, scores))
    budget = Budget.of({"params": "45%"}, graph)
    (found,) = proposed(space, ties, scores, budget, top=1)
    assert budget.satisfied(budget.costs(graph, counts_of(found, ties)))

    fits = assert_best(found, space, ties, scores, budget)
    assert {one["blocks"] for one in fits} == {1, 2, 3}


def test_of_fewer_layers_those_with_the_lowest_scores_are_gone() -> None:
    graph = sc.trace(Stack(), example(), depth=True)
    (tie,) = depths_of(graph, {"blocks.0": [0.5], "blocks.1": [0.1], "blocks.2": [0.9]})
    assert tie.choices == (1, 2, 3)
    assert counts_of({"blocks": 2}, [tie]) == {"blocks.1": 0, "blocks.0": 1, "blocks.2": 1}
    assert counts_of({"blocks": np.array([1, 3])}, [tie])["blocks.0"].tolist() == [0, 1]


def test_ties_of_one_pattern_and_several_sizes_have_names_of_their_own() -> None:
    space = sc.trace(Stack(widths=(8, 8, 12, 12)), example())
    ties = [tie for tie in ties_of(space) if len(tie.widths) > 1]
    assert [tie.name for tie in ties] == [f"blocks.*.up.out_features ({size} features)" for size in (8, 12)]
    budget = Budget.of({"macs": "50%"}, space)
    ones = {width.name: np.ones(width.size) for width in space.widths}
    found = proposed(uniform(space), ties, ones, budget, top=2)
    assert_best(found[0], uniform(space), ties, ones, budget)
