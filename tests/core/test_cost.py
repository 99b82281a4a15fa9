"""Costs are exact integers, the same for one candidate and for thousands."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.budget import Budget
from secateur.core.cost import Cost, Monomial, Peak, Polynomial
from secateur.core.layout import Along, Axis, Product, Sum, Whole, size_of
from secateur.errors import ConfigError, InputError
from tests.handmade import chain, counted, heads, residual

STEADY = settings(deadline=None)  # shared machines pause

A, B = Along("a", 8), Along("b", 5)


def axes(depth: int = 2) -> st.SearchStrategy[Axis]:
    leaf = st.one_of(st.builds(Whole, st.integers(1, 5)), st.sampled_from([A, B, Along("c", 3)]))
    if depth == 0:
        return leaf
    inner = st.lists(axes(depth - 1), min_size=2, max_size=3).map(tuple)
    return st.one_of(leaf, st.builds(Product, inner), st.builds(Sum, inner))


MONOMIALS = st.lists(st.tuples(st.integers(1, 10), st.lists(axes(), max_size=3).map(tuple)), max_size=6)
COUNTS = st.fixed_dictionaries({"a": st.integers(1, 8), "b": st.integers(1, 5), "c": st.integers(1, 3)})


def value_of(monomial: Monomial, counts: dict[str, int]) -> int:
    coefficient, factors = monomial
    for axis in factors:
        coefficient *= size_of(axis, counts)
    return coefficient


@STEADY
@given(MONOMIALS, COUNTS)
def test_a_polynomial_is_the_sum_of_its_monomials(monomials, counts):
    assert Polynomial.of(monomials).value(counts) == sum(value_of(m, counts) for m in monomials)


@STEADY
@given(MONOMIALS.flatmap(lambda ms: st.permutations([*ms, *[(-c, axes) for c, axes in ms]])), COUNTS)
def test_a_peak_is_the_largest_running_total(events, counts):
    running, highest = 0, 0
    for event in events:
        running += value_of(event, counts)
        highest = max(highest, running)
    assert Peak.of(events).value(counts) == highest


@STEADY
@given(MONOMIALS, st.lists(COUNTS, min_size=1, max_size=4))
def test_a_batch_costs_what_its_candidates_cost(monomials, candidates):
    batch = {name: np.array([c[name] for c in candidates]) for name in "abc"}
    for cost in (Polynomial.of(monomials), Peak.of(monomials)):
        together = np.broadcast_to(cost.value(batch), len(candidates))
        assert together.tolist() == [cost.value(candidate) for candidate in candidates]


@pytest.mark.parametrize(
    "graph", [chain(8, 16, 32), residual([[4, 4], [8]], 16), heads()], ids=["chain", "residual", "heads"]
)
@STEADY
@given(data=st.data())
def test_costs_of_networks_are_those_counted_by_hand(graph, data):
    counts = {w.name: data.draw(st.integers(1, w.size)) for w in graph.widths}
    for metric in ("macs", "params"):
        assert graph.cost(metric, counts) == counted(graph, counts, metric)


def test_integers_stay_exact_where_floats_do_not():
    huge = Polynomial.of([(2**61 + 1, (A,))])
    assert huge.value({"a": 1}) == 2**61 + 1
    assert huge.value({"a": 8}) == 8 * (2**61 + 1)
    assert huge.value({"a": np.array([1, 2])}).tolist() == [2**61 + 1, 2 * (2**61 + 1)]
    assert Peak.of([(2**61 + 1, (A,))]).value({"a": 1}) == 2**61 + 1


def test_narrow_integer_arrays_do_not_overflow():
    assert Polynomial.of([(1000, (A, B))]).value(
        {"a": np.array([8], np.int8), "b": np.array([5], np.uint8)}
    ).tolist() == [40000]


def test_a_width_that_is_not_named_is_whole():
    assert Polynomial.of([(1, (A, B))]).value({"a": 2}) == 10


def test_a_cost_of_nothing_is_zero():
    assert Polynomial.of([]).value({}) == 0
    assert Peak.of([]).value({}) == 0
    assert Peak.of([(-3, (A,))]).value({}) == 0


@pytest.mark.parametrize("count", [2.0, np.array([2.0]), "2", None])
def test_counts_that_are_no_integers_are_refused(count):
    with pytest.raises(InputError, match="a: a count must be an integer"):
        Polynomial.of([(1, (A,))]).value({"a": count})


def test_like_terms_are_collected_and_constants_folded():
    polynomial = Polynomial.of([(2, (A, Whole(3))), (4, (Product((A, Whole(1))),)), (1, (A, B)), (1, (B, A))])
    assert polynomial.terms == ((10, (A,), ""), (2, (A, B), ""))


PAID = st.lists(
    st.tuples(st.integers(1, 10), st.lists(axes(), max_size=3).map(tuple), st.sampled_from(["", "stem", "head"])),
    max_size=6,
)


@STEADY
@given(PAID.flatmap(lambda ms: st.permutations([*ms, *[(-c, axes, module) for c, axes, module in ms]])), COUNTS)
def test_the_shares_of_the_modules_sum_to_the_value(events, counts):
    for cost in (Polynomial.of([e for e in events if e[0] > 0]), Peak.of(events)):
        assert sum(cost.by_module(counts).values()) == cost.value(counts)


def test_a_term_is_paid_for_by_the_module_it_was_written_for():
    polynomial = Polynomial.of([(2, (A,), "stem"), (3, (A, B), "head"), (1, (A,), "head"), (5, (A,), "stem")])
    assert polynomial.terms == ((7, (A,), "stem"), (3, (A, B), "head"), (1, (A,), "head"))
    assert polynomial.by_module({"a": 2, "b": 3}) == {"stem": 14, "head": 20}


def test_a_peak_is_shared_by_what_is_held_when_it_is_highest():
    peak = Peak.of([(4, (A,), "stem"), (8, (B,), "body"), (-4, (A,), "stem"), (1, (B,), "head")])
    assert peak.by_module({"a": 8, "b": 5}) == {"stem": 32, "body": 40}
    assert peak.by_module({"a": 1, "b": 5}) == {"body": 40, "head": 5}


def test_an_event_of_no_bytes_hides_no_peak():
    """A rise that a release of nothing follows is as high as any other."""
    counts = {"a": 3, "b": 2}
    assert Peak.of([(4, (A,)), (0, (B,)), (-4, (A,)), (1, (B,))]).value(counts) == 12
    assert Peak.of([(4, (A,)), (-0, ()), (2, (B,)), (0, ()), (-4, (A,))]).value(counts) == 16


@STEADY
@given(MONOMIALS, st.integers(0, 5), COUNTS)
def test_a_peak_holds_with_idle_events_anywhere(events, place, counts):
    falling = [*events, *[(-c, axes) for c, axes in reversed(events)]]
    idle = [*falling[:place], (0, ()), *falling[place:]]
    assert Peak.of(idle).value(counts) == Peak.of(falling).value(counts)


def test_modules_do_not_make_a_value_dearer():
    one = Polynomial.of([(3, (A, B))])
    many = Polynomial.of([(1, (A, B), str(i)) for i in range(3)])
    assert many._sum == one._sum


def test_a_cost_says_whether_a_wider_network_never_costs_less():
    assert Polynomial.of([(1, (A,)), (2, (B,))]).monotone
    assert not Polynomial.of([(1, (A,)), (-2, (B,))]).monotone
    assert Peak.of([(1, (A,)), (2, (B,)), (-1, (A,))]).monotone
    assert not Peak.of([(-1, (A,)), (2, (B,))]).monotone


class Milliseconds:
    """A measured cost, as somebody else might write it."""

    monotone = True

    def value(self, counts):
        return 0.5 + 0.25 * counts.get("conv0.out", 16)

    def by_module(self, counts):
        return {"": 0.5, "conv0": 0.25 * counts.get("conv0.out", 16)}


def test_a_cost_of_ones_own_is_bounded_and_tabulated_like_the_others():
    graph = chain(8, 16, 32).with_cost("latency_ms", Milliseconds())
    assert isinstance(Milliseconds(), Cost)
    assert graph.cost("latency_ms", {"conv0.out": 2}) == 1.0
    assert graph.cost_by_module("latency_ms") == {"": 0.5, "conv0": 4.0}
    budget = Budget.of({"latency_ms": 3}, graph)
    assert budget.satisfied(budget.costs(graph, {"conv0.out": 10}))
    assert not budget.satisfied(budget.costs(graph, {"conv0.out": 11}))


def test_a_cost_that_falls_as_a_network_grows_cannot_be_bounded():
    falling = chain(8, 16, 32).with_cost("odd", Polynomial.of([(-1, (A,)), (10, (B,))]))
    with pytest.raises(ConfigError, match="odd cannot be bounded: a wider network may cost less"):
        Budget.of({"odd": 3}, falling)


def test_concatenations_share_their_beginnings():
    parts = [Along(f"w{i}", 4) for i in range(50)]
    polynomial = Polynomial.of([(1, (Sum(tuple(parts[:k])),)) for k in range(2, 51)])
    assert len(polynomial._sum[1].steps) == 49


def test_a_hundred_thousand_candidates_a_second():
    graph = residual([[64, 64]] * 16, 256)
    candidates = {w.name: np.random.default_rng(0).integers(1, w.size, 5000) for w in graph.widths}
    for metric in ("macs", "params", "peak_activation_bytes"):
        graph.cost(metric, candidates)
        seconds = min(_timed(lambda metric=metric: graph.cost(metric, candidates)) for _ in range(5))
        assert 5000 / seconds > 100_000, metric


def _timed(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
