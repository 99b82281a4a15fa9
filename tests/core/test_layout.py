"""Kept indices of an axis follow from the kept sets of its widths, row by row where these differ."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.layout import (
    Along,
    Axis,
    Product,
    Sum,
    Whole,
    from_json,
    kept_indices,
    size_of,
    to_json,
    touches,
    widths_of,
)

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5}
UNITS = st.sampled_from([Along(name, size) for name, size in SIZES.items()])
WHOLES = st.integers(1, 4).map(Whole)


def composites(inner: st.SearchStrategy[Axis]) -> st.SearchStrategy[Axis]:
    some = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(some.map(Product), some.map(Sum))


AXES: st.SearchStrategy[Axis] = st.recursive(st.one_of(UNITS, WHOLES), composites, max_leaves=5)
KEPT = st.fixed_dictionaries(
    {},
    optional={
        name: st.sets(st.integers(0, size - 1), min_size=1).map(lambda s: np.array(sorted(s), dtype=np.int64))
        for name, size in SIZES.items()
    },
)


def counts(kept: dict) -> dict[str, int]:
    return {name: indices.shape[-1] for name, indices in kept.items()}


def by_hand(axis: Axis, kept: dict) -> list[bool]:
    """Which positions survive, from the definition: a position survives if all the units it is made of do."""
    match axis:
        case Whole():
            return [True] * axis.size
        case Along():
            return [axis.width not in kept or i in kept[axis.width] for i in range(axis.size)]
        case Product():
            alive = [True]
            for factor in axis.factors:
                alive = [outer and inner for outer in alive for inner in by_hand(factor, kept)]
            return alive
        case Sum():
            return [flag for part in axis.parts for flag in by_hand(part, kept)]


@given(AXES, KEPT)
def test_as_many_indices_are_kept_as_the_size_says(axis: Axis, kept: dict) -> None:
    assert len(kept_indices(axis, kept)) == size_of(axis, counts(kept))


@given(AXES, KEPT)
def test_kept_indices_are_the_positions_all_of_whose_units_survive(axis: Axis, kept: dict) -> None:
    assert kept_indices(axis, kept).tolist() == [i for i, alive in enumerate(by_hand(axis, kept)) if alive]


@given(AXES)
def test_nothing_pruned_keeps_everything(axis: Axis) -> None:
    assert kept_indices(axis, {}).tolist() == list(range(axis.size))
    assert size_of(axis, {}) == axis.size


@given(AXES, KEPT)
def test_an_axis_is_touched_exactly_where_it_holds_a_narrowed_width(axis: Axis, kept: dict) -> None:
    assert touches(axis, kept) == bool(set(widths_of(axis)) & set(kept))


@given(AXES)
def test_an_axis_survives_json(axis: Axis) -> None:
    assert from_json(json.loads(json.dumps(to_json(axis)))) == axis


@pytest.mark.parametrize(
    "data",
    [True, -1, None, "a", [], ["*"], ["*", 3], ["+", 3], ["a", 0], ["a", True], ["a", 2.0], ["*", 2, ["?"]], {"a": 1}],
)
def test_what_is_no_axis_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="not an axis"):
        from_json(data)


def test_a_product_is_laid_out_row_by_row() -> None:
    axis = Product((Along("heads", 3), Along("dim", 4)))
    kept = {"heads": np.array([0, 2]), "dim": np.array([1, 3])}
    assert kept_indices(axis, kept).tolist() == [1, 3, 9, 11]


def test_a_sum_is_laid_out_part_after_part() -> None:
    axis = Sum((Along("a", 2), Whole(3), Along("b", 3)))
    assert kept_indices(axis, {"a": np.array([1]), "b": np.array([0, 2])}).tolist() == [1, 2, 3, 4, 5, 7]


def test_an_inner_width_may_keep_another_set_under_each_outer_index() -> None:
    axis = Product((Along("groups", 3), Along("inside", 4)))
    rows = np.array([[0, 1], [2, 3], [0, 3]])
    assert kept_indices(axis, {"inside": rows}).tolist() == [0, 1, 6, 7, 8, 11]
    assert kept_indices(axis, {"inside": rows, "groups": np.array([0, 2])}).tolist() == [0, 1, 8, 11]


def test_a_factor_inside_a_ragged_one_is_repeated_under_each_row() -> None:
    axis = Product((Along("groups", 2), Along("inside", 3), Along("pair", 2)))
    rows = np.array([[0, 2], [1, 2]])
    assert kept_indices(axis, {"inside": rows, "pair": np.array([1])}).tolist() == [1, 5, 9, 11]


def test_a_ragged_width_under_a_whole_axis_in_front_keeps_its_rows() -> None:
    axis = Product((Whole(2), Along("groups", 2), Along("inside", 3)))
    rows = np.array([[0], [2]])
    assert kept_indices(axis, {"inside": rows}).tolist() == [0, 5, 6, 11]


def test_a_ragged_width_in_each_part_of_a_sum_keeps_its_rows() -> None:
    part = Product((Along("heads", 2), Along("dim", 3)))
    rows = np.array([[0, 1], [1, 2]])
    assert kept_indices(Sum((part, part)), {"dim": rows}).tolist() == [0, 1, 4, 5, 6, 7, 10, 11]
