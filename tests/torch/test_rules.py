"""Every operator rule, through the conformance kit: narrowed samples compute what masked ones do, and cost what was foretold."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from conformance import operators_seen
from extra_samples import EXTRA

from secateur.errors import InputError
from secateur.testing import Check, check_rule
from secateur.testing.rules import RuleCase, SampleModule
from secateur.torch.rules import FUNCTION_RULES, RULES, Sample, rule, samples

torch.set_num_threads(1)

SHIPPED = {
    f"{made.__module__.rpartition('.')[2]}{made.__name__}": made() for many in samples().values() for made in many
}
ALL = {**SHIPPED, **EXTRA}
# Shipped samples whose literal sizes leave nothing to narrow; EXTRA has one of each kind that does.
LITERAL = {
    "convolution_conv": "conv2d",
    "convolution_depthwise": "depthwise",
    "convolution_transposed": "transposed",
    "convolution_one_dimensional": "conv1d",
    "indexing_index": "indexed",
    "joining_cat": "three way cat",
    "norms_group_norm": "group norm",
    "shape_view": "views",
    "shape_pixel_shuffle": "pixel shuffle",
    "shape_im2col": "unfold to columns",
    "slicing_split": "uneven split",
    "slicing_unbind": "unbind",
}
NOTHING_FREE = {
    "channel shuffle": "the number of groups is a literal",
    "memory format": "the sizes are literals",
    "cropped": "how much is cropped is a literal",
    "orders": "every dimension is ordered",
    "corners": "makes tensors of integers only",
    "mixture of experts": "the kernel wants multiples of eight",
    "attention by a kernel": "the kernel's other outputs are taken for constants",
}


@cache
def case(name: str) -> RuleCase:
    return RuleCase(ALL[name])


@cache
def operators(name: str) -> frozenset[object]:
    with operators_seen() as seen:
        _ = RuleCase(ALL[name]).graph
    return frozenset(seen)


@pytest.mark.parametrize("name", ALL)
def test_a_narrowed_sample_computes_what_the_masked_one_does(name: str) -> None:
    case(name).narrowed_computes_what_masked_does()


@pytest.mark.parametrize("name", ALL)
def test_a_narrowed_sample_costs_what_was_foretold(name: str) -> None:
    case(name).costs_what_was_foretold()


@pytest.mark.parametrize("name", ALL)
def test_a_sample_leaves_something_to_narrow(name: str) -> None:
    if name not in NOTHING_FREE:
        case(LITERAL.get(name, name)).leaves_something_to_narrow()


def test_most_samples_compare_an_exact_width() -> None:
    vacuous = [name for name in ALL if not any(v.compared for v in case(name).verifications)]
    unexplained = set(vacuous) - set(LITERAL) - set(NOTHING_FREE)
    assert len(unexplained) <= 8, unexplained


def test_every_rule_is_exercised_by_a_sample() -> None:
    """Operators that share a rule (copies, kernels of other devices, aliases) are exercised by one of them."""
    ran = {operator for name in ALL for operator in operators(name)}
    by_rule: dict[object, list[object]] = {}
    ours = {o: f for o, f in {**RULES, **FUNCTION_RULES}.items() if f.__module__.startswith("secateur.")}
    for operator, function in ours.items():
        by_rule.setdefault(function, []).append(operator)
    lacking = [f"{f.__module__}.{f.__name__}" for f, ruled in by_rule.items() if not ran.intersection(ruled)]
    assert lacking == ["secateur.torch.rules.slicing.narrow"], "narrow decomposes into slice before a rule is asked"


@pytest.mark.parametrize(
    ("name", "frees"),
    [
        ("two convolutions", 4),
        ("views", 4),
        ("three way cat", 4),
        ("uneven split", 3),
        ("group norm", 3),
        ("attention", 6),
        ("linear layers", 5),
        ("depthwise", 2),
        ("distances", 3),
        ("batch norm", 2),
    ],
)
def test_a_rule_frees_what_is_free(name: str, frees: int) -> None:
    assert len(case(name).graph.free) >= frees


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("layer norm", 6),
        ("padded with ones", 4),
        ("log softmax", 4),
        ("shifted, then summed", 4),
        ("ones, then summed", 4),
        ("biased then summed", 5),
        ("filled by position, then summed", 6),
        ("scattered number, then summed", 6),
        ("RMS norm", 6),
    ],
)
def test_a_sum_over_what_is_not_zero_is_inexact(name: str, width: int) -> None:
    inexact = [w.size for w in case(name).graph.free if not w.exact]
    assert width in inexact


def test_a_second_rule_for_an_operator_is_refused_and_names_both_owners() -> None:
    with pytest.raises(InputError, match=r"matmul\.mm; .*mine cannot be a second one"):

        @rule("mm")
        def mine(trace: object, out: object, *args: object) -> None: ...


def failing(checks: list[Check]) -> dict[str, str]:
    told: dict[str, str] = {}
    for check in checks:
        try:
            check()
        except AssertionError as error:
            told[check.name] = str(error)
    return told


def test_a_public_check_holds_for_a_rule_of_ours() -> None:
    assert failing(check_rule(Sample(lambda x, w: (x @ w).relu(), (3, 5), (5, 4)))) == {}


def test_a_sample_that_shows_nothing_is_told_so() -> None:
    nothing = failing(check_rule(Sample(lambda x: x.sort(1)[0].sort(0)[0], (3, 5))))
    assert set(nothing) == {"leaves_something_to_narrow", "compares_an_exact_width"}


def test_an_operator_without_a_rule_is_named() -> None:
    with torch.library._scoped_library("nobody", "FRAGMENT") as library:
        library.define("knows(Tensor x) -> Tensor")
        library.impl("knows", lambda x: x * 2, "CompositeExplicitAutograd")
        told = failing(check_rule(Sample(lambda x: torch.ops.nobody.knows(x), (3, 5))))
    assert "nobody::knows" in told["every_operator_has_a_rule"]


def test_the_kit_itself_catches_a_wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.torch.rules import registry

    def shifted(trace, out, x, shifts, dims=()) -> None:  # type: ignore[no-untyped-def]
        trace.put(out, trace.spaces(x), trace.zero(x))  # as if the positions stayed where they are

    monkeypatch.setitem(RULES, torch.ops.aten.roll, shifted)
    registry._FOUND.clear()
    try:
        told = failing(check_rule(Sample(lambda x, w: x.roll(1, 1) @ w, (3, 5), (5, 4))))
    finally:
        registry._FOUND.clear()
    assert set(told) == {"narrowed_computes_what_masked_does"}
    assert "changes what" in told["narrowed_computes_what_masked_does"]


def test_a_sample_runs_as_a_module() -> None:
    for name, sample in ALL.items():
        assert SampleModule(sample)() is not None, name
