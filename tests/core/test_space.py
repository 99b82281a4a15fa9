"""Laws of the algebra of dimensions, on random sequences of operations."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secateur.core.layout import Along, Axis, Product, Sum, Whole, alongs_of, kept_indices, size_of
from secateur.core.space import (
    Form,
    Space,
    concat,
    constant,
    cut,
    factors,
    freeze,
    is_frozen,
    leaves,
    mark_inexact,
    merge,
    parts,
    split,
    unify,
    window,
)

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24)


def axis_of(space: Space) -> Axis:
    """The axis a settled space is, with a width for each free leaf, named by identity."""
    top = space.root()
    if top.form is Form.LEAF:
        return Whole(top.size) if top.frozen or top.size < 2 else Along(str(id(top)), top.size)
    children = tuple(axis_of(child) for child in top.children)
    return Product(children) if top.form is Form.PRODUCT else Sum(children)


def keep_at(axes: list[Axis], seed: int) -> dict[str, object]:
    """A kept set for every width in these axes."""
    generator = np.random.default_rng(seed)
    kept: dict[str, object] = {}
    for axis in axes:
        for unit in alongs_of(axis):
            if unit.width not in kept:
                count = int(generator.integers(1, unit.size + 1))
                kept[unit.width] = np.sort(generator.choice(unit.size, count, replace=False))
    return kept


def kept_at(space: Space, kept: dict[str, object]) -> list[int]:
    return kept_indices(axis_of(space), kept).tolist()  # type: ignore[arg-type]


def factorings(size: int) -> st.SearchStrategy[tuple[int, ...]]:
    divisors = [d for d in range(2, size) if size % d == 0]
    two = st.sampled_from(divisors).map(lambda d: (d, size // d)) if divisors else st.just((size,))
    return st.one_of(two, st.just((size,)), two.flatmap(lambda t: _longer(t)))


def _longer(two: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    first, last = two[0], two[-1]
    divisors = [d for d in range(2, last) if last % d == 0]
    return st.sampled_from(divisors).map(lambda d: (first, d, last // d)) if divisors else st.just(two)


@st.composite
def spaces(draw: st.DrawFn, size: int, depth: int = 2) -> Space:
    """A space of a size: a leaf, a product or a sum, sometimes frozen or inexact in places."""
    form = draw(st.sampled_from(["leaf", "leaf", "product", "sum", "frozen"])) if depth and size > 1 else "leaf"
    if form == "product":
        sizes = draw(factorings(size))
        return merge([draw(spaces(n, depth - 1)) for n in sizes])
    if form == "sum":
        at = draw(st.integers(1, size - 1))
        return concat([draw(spaces(at, depth - 1)), draw(spaces(size - at, depth - 1))])
    return constant(size, "a reason") if form == "frozen" or size == 1 else Space(size)


@st.composite
def several(draw: st.DrawFn, count: int) -> list[Space]:
    size = draw(st.sampled_from(SIZES[1:]))
    return [draw(spaces(size)) for _ in range(count)]


def check(space: Space, size: int) -> None:
    """What must hold of every space, whatever happened to it."""
    top = space.root()
    assert top.size == size == space.size
    if top.form is Form.PRODUCT:
        assert math.prod(c.root().size for c in top.children) == size
    if top.form is Form.SUM:
        assert sum(c.root().size for c in top.children) == size
    for child in top.children:
        check(child, child.size)


def consistent(*them: Space, seed: int = 0) -> None:
    """Whatever is kept, the kept indices are as many as the sizes say, ascending, in range."""
    axes = [axis_of(space) for space in them]
    kept = keep_at(axes, seed)
    counts = {name: len(indices) for name, indices in kept.items()}  # type: ignore[arg-type]
    for axis in axes:
        found = kept_indices(axis, kept).tolist()  # type: ignore[arg-type]
        assert len(found) == size_of(axis, counts)
        assert found == sorted(set(found))
        assert all(0 <= i < axis.size for i in found)


@QUICK
@given(several(2), st.integers(0, 5))
def test_unified_spaces_keep_the_same_indices(pair: list[Space], seed: int) -> None:
    a, b = pair
    size = a.size
    unify(a, b)
    check(a, size)
    check(b, size)
    kept = keep_at([axis_of(a), axis_of(b)], seed)
    assert kept_at(a, kept) == kept_at(b, kept)
    consistent(a, b, seed=seed)


@QUICK
@given(several(2), st.integers(0, 5))
def test_unify_is_idempotent(pair: list[Space], seed: int) -> None:
    a, b = pair
    once = unify(a, b)
    before = (axis_of(a), axis_of(b))
    assert unify(a, b).root() is once.root()
    assert unify(b, a).root() is once.root()
    assert unify(a, a) is a.root()
    assert (axis_of(a), axis_of(b)) == before


def gave_up(*them: Space) -> bool:
    """Whether some equation met views that were incompatible by what was known then: freezing all of it is sound, but early."""
    return any("incompatible" in (leaf.frozen or "") for space in them for leaf in leaves(space))


def replayed(seeds: list[int], size: int) -> list[Space]:
    """The same spaces again, made by fixed recipes: a leaf, products and sums of it."""
    made: list[Space] = []
    for seed in seeds:
        divisors = [d for d in range(2, size) if size % d == 0]
        kind = seed % 4
        if kind == 1 and divisors:
            d = divisors[seed // 4 % len(divisors)]
            made.append(merge([Space(d), Space(size // d)]))
        elif kind == 2:
            at = 1 + seed // 4 % (size - 1)
            made.append(concat([Space(at) if at > 1 else constant(1, "one"), Space(size - at)]))
        elif kind == 3:
            made.append(constant(size, "frozen"))
        else:
            made.append(Space(size))
    return made


RECIPES = st.tuples(st.sampled_from(SIZES[3:]), st.lists(st.integers(0, 99), min_size=3, max_size=3))


def kept_sets(space: Space) -> set[tuple[int, ...]]:
    """Every set of indices that may be kept of a small space: its meaning."""
    axis = axis_of(space)
    sizes = {unit.width: unit.size for unit in alongs_of(axis)}
    choices = [[np.array(c) for k in range(1, n + 1) for c in combinations(range(n), k)] for n in sizes.values()]
    return {tuple(kept_indices(axis, dict(zip(sizes, chosen, strict=True))).tolist()) for chosen in product(*choices)}


@settings(max_examples=80, deadline=None)
@given(RECIPES.filter(lambda r: r[0] <= 8))
def test_unify_is_commutative_up_to_kept_indices(recipe: tuple[int, list[int]]) -> None:
    size, seeds = recipe
    a, b, _ = replayed(seeds, size)
    c, d, _ = replayed(seeds, size)
    one, other = unify(a, b), unify(d, c)
    assert is_frozen(one) == is_frozen(other)
    assert size_of(axis_of(one), {}) == size_of(axis_of(other), {})
    assert kept_sets(one) == kept_sets(other)


@settings(max_examples=60, deadline=None)
@given(RECIPES.filter(lambda r: r[0] <= 8))
def test_unify_is_associative_up_to_kept_indices(recipe: tuple[int, list[int]]) -> None:
    size, seeds = recipe
    a, b, c = replayed(seeds, size)
    unify(unify(a, b), c)
    d, e, f = replayed(seeds, size)
    unify(d, unify(e, f))
    if gave_up(a) or gave_up(d):
        return
    assert is_frozen(a) == is_frozen(d)
    assert kept_sets(a) == kept_sets(d)


@QUICK
@given(several(1), st.data())
def test_split_then_merge_is_the_identity(one: list[Space], data: st.DataObject) -> None:
    (space,) = one
    sizes = data.draw(factorings(space.size))
    pieces = split(space, sizes)
    if pieces is None:
        return
    assert [p.size for p in pieces] == list(sizes)
    kept = keep_at([axis_of(space), axis_of(merge(pieces))], 1)
    assert kept_at(merge(pieces), kept) == kept_at(space, kept)
    check(space, space.size)


@QUICK
@given(several(1), st.data())
def test_cut_then_concat_is_the_identity(one: list[Space], data: st.DataObject) -> None:
    (space,) = one
    at = data.draw(st.integers(1, space.size - 1))
    left, right = cut(space, at)
    assert (left.size, right.size) == (at, space.size - at)
    whole = concat([left, right])
    kept = keep_at([axis_of(space), axis_of(whole)], 2)
    assert kept_at(whole, kept) == kept_at(space, kept)


@QUICK
@given(several(1), st.data())
def test_a_window_keeps_what_the_whole_keeps_there(one: list[Space], data: st.DataObject) -> None:
    (space,) = one
    start = data.draw(st.integers(0, space.size - 1))
    stop = data.draw(st.integers(start + 1, space.size))
    part = window(space, start, stop)
    assert part.size == stop - start
    kept = keep_at([axis_of(space), axis_of(part)], 3)
    inside = [i - start for i in kept_at(space, kept) if start <= i < stop]
    assert kept_at(part, kept) == inside


@QUICK
@given(several(2))
def test_frozen_is_contagious(pair: list[Space]) -> None:
    a, b = pair
    freeze(a, "because")
    unify(a, b)
    # one unit has to stay anyway
    assert all(leaf.frozen for space in (a, b) for leaf in leaves(space) if leaf.size > 1)


@QUICK
@given(several(2))
def test_inexact_is_contagious(pair: list[Space]) -> None:
    a, b = pair
    mark_inexact(a, "because")
    unify(a, b)
    assert all(leaf.inexact or leaf.frozen or leaf.size == 1 for leaf in leaves(b))


@QUICK
@given(several(1))
def test_the_first_reason_stays(one: list[Space]) -> None:
    (space,) = one
    freeze(space, "first")
    reasons = {leaf.frozen for leaf in leaves(space)}
    freeze(space, "second")
    assert {leaf.frozen for leaf in leaves(space)} == reasons
    assert "second" not in reasons


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["unify", "split", "cut", "merge", "concat", "freeze", "window"]), st.integers(0, 10**6)),
    min_size=1,
    max_size=14,
)


@settings(max_examples=300, deadline=2000)
@given(OPERATIONS)
def test_no_sequence_of_operations_loops_or_changes_a_size(operations: list[tuple[str, int]]) -> None:
    pool = [Space(12), Space(12), Space(6), Space(4), Space(24), constant(6, "frozen")]
    born = [space.size for space in pool]
    frozen_before: list[bool] = []
    for name, number in operations:
        frozen_before = [is_frozen(space) for space in pool]
        new = operate(pool, name, number)
        pool += new
        born += [space.size for space in new]
        for space, size, was in zip(pool, born, frozen_before, strict=False):
            assert space.root().size == size
            assert is_frozen(space) or not was, "a frozen space became free"
    for space, size in zip(pool, born, strict=True):
        check(space, size)
    consistent(*pool)


def operate(pool: list[Space], name: str, number: int) -> list[Space]:
    """One operation on spaces of the pool, chosen by a number; what it made."""
    a, b = pool[number % len(pool)], pool[number // 7 % len(pool)]
    match name:
        case "unify" if a.size == b.size:
            return [unify(a, b)]
        case "split":
            divisors = [d for d in range(2, a.size) if a.size % d == 0]
            return (split(a, (d := divisors[number % len(divisors)], a.size // d)) or []) if divisors else []
        case "cut" if a.size > 1:
            return list(cut(a, 1 + number % (a.size - 1)))
        case "merge" if a.size * b.size <= 96:
            return [merge([a, b])]
        case "concat" if a.size + b.size <= 96:
            return [concat([a, b])]
        case "freeze" if number % 5 == 0:
            freeze(a, "frozen")
        case "window" if a.size > 2:
            return [window(a, 1, a.size - 1)]
    return []


def test_a_dimension_that_contains_itself_is_frozen() -> None:
    inner = Space(4)
    outer = merge([Space(1), inner])
    assert outer.root() is inner
    part, whole = Space(4), Space(8)
    unify(whole, concat([part, Space(4)]))
    unify(part, concat([Space(2), Space(2)]))
    check(whole, 8)
    looped = Space(6)
    total = merge([Space(1), concat([looped])])
    assert unify(total, looped).root() is looped.root()


def test_incompatible_views_freeze_both() -> None:
    a, b = merge([Space(2), Space(9)]), concat([Space(5), Space(13)])
    unify(a, b, "somewhere")
    assert is_frozen(a)
    assert is_frozen(b)
    assert any("incompatible views (somewhere)" in (leaf.frozen or "") for leaf in leaves(a))


def test_different_sizes_cannot_be_equal() -> None:
    with pytest.raises(ValueError, match="a dimension of 3 cannot be one of 4"):
        unify(Space(3), Space(4), "add")
    with pytest.raises(ValueError, match="cannot split 12"):
        split(Space(12), (5, 2))
    with pytest.raises(ValueError, match="cut at 4 of a dimension of 4"):
        cut(Space(4), 4)


def test_stacked_parts_become_one_width() -> None:
    """Three projections side by side, seen as (3, features): q, k and v must keep the same features."""
    q, k, v = Space(8), Space(8), Space(8)
    pieces = split(concat([q, k, v]), (3, 8))
    assert pieces is not None
    assert pieces[0].frozen == "stacked parts"
    assert q.root() is k.root() is v.root() is pieces[1].root()


def test_parts_that_share_an_inner_factor_stay_apart_outside() -> None:
    """cat of 2 and 3 heads of 4, seen as (5, 4): the heads are a sum, the head width is one."""
    a, b = Space(8), Space(12)
    pieces = split(concat([a, b]), (5, 4))
    assert pieces is not None
    assert [p.size for p in parts(pieces[0])] == [2, 3]
    assert factors(a)[1].root() is factors(b)[1].root() is pieces[1].root()


def test_a_product_unifies_with_a_finer_one() -> None:
    fine, coarse = merge([Space(2), Space(3), Space(4)]), merge([Space(6), Space(4)])
    unify(fine, coarse)
    kept = keep_at([axis_of(fine), axis_of(coarse)], 0)
    assert kept_at(fine, kept) == kept_at(coarse, kept)
    assert not is_frozen(fine)


def test_every_second_index_is_the_outer_factor_of_a_product() -> None:
    space = Space(12)
    outer, inner = split(space, (6, 2))
    freeze(inner, "interleaved")
    kept = {str(id(outer.root())): [0, 3]}
    found = kept_indices(axis_of(space), {k: np.asarray(v) for k, v in kept.items()})
    assert found.tolist() == [0, 1, 6, 7]
    assert found[::2].tolist() == [0, 6]
