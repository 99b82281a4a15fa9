"""Plans that were applied in turn are one plan: it leaves the same positions of every axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.compose import composed
from secateur.core.graph import Graph
from secateur.core.layout import Along, Axis, Product, Sum, Whole, kept_indices
from tests.handmade import graph_of

SIZES = {"channels": 6, "heads": 4, "head_dim": 5, "groups": 3, "in_group": 4}
OUTER = {"head_dim": "heads", "in_group": "groups"}


def network(sizes: Mapping[str, int]) -> Graph:
    """A plain width, heads with features of their own, and groups with channels of their own."""

    def unit(name: str) -> Along:
        return Along(name, sizes[name])

    heads, groups = Product((unit("heads"), unit("head_dim"))), Product((unit("groups"), unit("in_group")))
    layouts: dict[str, tuple[Axis, ...]] = {
        "in.weight": (unit("channels"), Whole(3)),
        "qkv.weight": (Product((Whole(3), unit("heads"), unit("head_dim"))), unit("channels")),
        "out.weight": (unit("channels"), heads),
        "conv.weight": (groups, heads),
        "last.weight": (Whole(2), Sum((unit("channels"), groups))),
    }
    return graph_of(layouts, changes={inner: {"outer": outer} for inner, outer in OUTER.items()})


@st.composite
def kept_sets(draw: st.DrawFn, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Any kept sets of a network of these sizes; inner ones alike under all outer indices, or each its own."""
    kept: dict[str, Any] = {}
    for name, size in sizes.items():
        if not draw(st.booleans()):
            continue
        count = draw(st.integers(1, size))
        rows = sizes[OUTER[name]] if name in OUTER and draw(st.booleans()) else 0
        sets = [sorted(draw(st.permutations(range(size)))[:count]) for _ in range(rows or 1)]
        kept[name] = np.array(sets if rows else sets[0], dtype=np.int64)
    return kept


def positions(graph: Graph, kept: Mapping[str, Any]) -> dict[tuple[str, int], np.ndarray]:
    return {
        (name, number): kept_indices(axis, kept)
        for name, layout in graph.layouts.items()
        for number, axis in enumerate(layout)
    }


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_composed_plan_leaves_the_positions_that_the_plans_leave_in_turn(data: st.DataObject) -> None:
    whole = network(SIZES)
    now, kept = whole, {}
    left = positions(whole, {})
    for _ in range(3):
        plan = now.plan(data.draw(kept_sets({w.name: w.size for w in now.widths})))
        step = positions(now, plan.arrays)
        left = {place: indices[step[place]] for place, indices in left.items()}
        kept = composed(whole, kept, plan)
        now = network(plan.sizes)
    final = whole.plan(kept)
    assert dict(final.sizes) == {w.name: w.size for w in now.widths}
    for place, indices in positions(whole, final.arrays).items():
        assert indices.tolist() == left[place].tolist(), place


def test_nothing_removed_twice_is_nothing_removed() -> None:
    graph = network(SIZES)
    assert composed(graph, {}, graph.plan({})) == {}


def test_what_the_second_plan_leaves_whole_is_as_the_first_left_it() -> None:
    graph = network(SIZES)
    first = {"channels": np.array([1, 4, 5]), "head_dim": np.array([[0, 1], [2, 3], [0, 4], [1, 2]])}
    again = composed(graph, first, network({**SIZES, "channels": 3, "head_dim": 2}).plan({}))
    assert again.keys() == first.keys()
    assert all(np.array_equal(again[name], first[name]) for name in first)


def test_the_first_plan_is_not_changed() -> None:
    graph = network(SIZES)
    first = {"heads": np.array([0, 2]), "head_dim": np.array([[0, 1, 2]] * 4)}
    before = {name: indices.copy() for name, indices in first.items()}
    second = network({**SIZES, "heads": 2, "head_dim": 3}).plan({"head_dim": [[0, 2], [1, 2]], "heads": [1]})
    kept = composed(graph, first, second)
    assert all(np.array_equal(first[name], before[name]) for name in first)
    assert kept["heads"].tolist() == [2]
    assert kept["head_dim"][2].tolist() == [1, 2]


@pytest.mark.parametrize("rows", [[[0, 1]], [[0, 1], [2, 4], [1, 3], [0, 4]]])
def test_alike_then_each_its_own_and_the_other_way_round(rows: list[list[int]]) -> None:
    graph = network(SIZES)
    first = {"head_dim": np.array(rows if len(rows) > 1 else rows[0])}
    now = network({**SIZES, "head_dim": 2})
    own = composed(graph, first, now.plan({"head_dim": [[0], [1], [0], [1]]}))["head_dim"]
    alike = composed(graph, first, now.plan({"head_dim": [1]}))["head_dim"]
    expected = rows * 4 if len(rows) == 1 else rows
    assert own.tolist() == [[expected[i][i % 2]] for i in range(4)]
    assert np.broadcast_to(alike, (4, 1)).tolist() == [[row[1]] for row in expected]
