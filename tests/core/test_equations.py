"""Integers in a model's code follow from its widths, or it is said which sizes contradict each other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.equations import (
    OPERATORS,
    Attribute,
    Contradiction,
    Difference,
    Equation,
    Expression,
    Operation,
    attributes_of,
    evaluate,
    expression_from_json,
    expression_to_json,
    solve,
    widths_in,
)
from secateur.core.layout import Along, Product, Sum, Whole

HEADS, DIM, HIDDEN, RATIO = (Attribute("attn", name) for name in ("num_heads", "head_dim", "hidden", "ratio"))
H, D = Along("heads", 8), Along("dim", 16)
OLD = {HEADS: 8, DIM: 16, HIDDEN: 128, RATIO: 2}


def solved(*equations: Equation, heads: int = 4, dim: int = 12) -> dict[Attribute, int]:
    return solve(equations, OLD, {"heads": heads, "dim": dim})


def equation(expression: Expression, axis: object) -> Equation:
    return Equation(expression, axis, "view in attn")  # type: ignore[arg-type]


def test_an_attribute_becomes_the_size_of_its_axis() -> None:
    assert solved(equation(HEADS, H), equation(DIM, D)) == {**OLD, HEADS: 4, DIM: 12}


def test_an_attribute_becomes_the_product_of_two_widths() -> None:
    assert solved(equation(HIDDEN, Product((H, D))))[HIDDEN] == 48


def test_an_attribute_that_no_equation_names_stays() -> None:
    assert solved(equation(HEADS, H))[RATIO] == 2


def test_an_equation_holds_beside_the_attributes_it_uses() -> None:
    both = Operation("*", HEADS, DIM)
    assert solved(equation(both, Product((H, D))), equation(HEADS, H), equation(DIM, D))[DIM] == 12


@pytest.mark.parametrize(
    ("expression", "target", "found"),
    [
        (Operation("*", HEADS, DIM), 48, 12),
        (Operation("*", DIM, HEADS), 48, 12),
        (Operation("+", DIM, HEADS), 48, 44),
        (Operation("-", DIM, HEADS), 48, 52),
        (Operation("-", 60, DIM), 48, 12),
        (Operation("//", DIM, HEADS), 3, 12),
        (Operation("//", 48, DIM), 4, 12),
        (Operation("*", 2, Operation("*", HEADS, Operation("+", DIM, 4))), 128, 12),
    ],
)
def test_the_only_open_attribute_of_an_expression_is_worked_out(
    expression: Expression, target: int, found: int
) -> None:
    assert solved(equation(HEADS, H), equation(expression, Whole(target)))[DIM] == found


@pytest.mark.parametrize(
    ("expression", "target"),
    [
        (Operation("*", HEADS, DIM), 50),  # 4 × what is 50?
        (Operation("%", DIM, HEADS), 2),  # many answers
        (Operation("-", HEADS, DIM), 48),  # a negative one
        (Operation("*", DIM, DIM), 144),  # twice on both sides: not worked out
    ],
)
def test_what_cannot_be_worked_out_is_a_contradiction(expression: Expression, target: int) -> None:
    with pytest.raises(Contradiction, match="view in attn"):
        solved(equation(HEADS, H), equation(expression, Whole(target)))


def test_a_chain_of_equations_is_followed() -> None:
    values = solved(
        equation(Operation("*", HEADS, DIM), Product((H, D))),
        equation(Operation("*", RATIO, HIDDEN), Whole(96)),
        equation(Operation("-", HIDDEN, DIM), Whole(36)),
        equation(HEADS, H),
    )
    assert (values[DIM], values[HIDDEN], values[RATIO]) == (12, 48, 2)


def test_one_attribute_for_two_widths_that_differ_is_a_contradiction_that_names_both() -> None:
    with pytest.raises(Contradiction) as caught:
        solved(equation(HEADS, H), Equation(HEADS, D, "split in mlp"))
    assert [e.where for e in caught.value.equations] == ["view in attn", "split in mlp"]
    assert str(caught.value) == "view in attn; split in mlp"


def test_an_equation_without_attributes_must_hold_by_itself() -> None:
    assert solved(equation(48, Product((H, D)))) == OLD
    with pytest.raises(Contradiction):
        solved(equation(47, Product((H, D))))
    with pytest.raises(Contradiction):
        solved(equation(Operation("//", 8, 0), H))


def test_the_old_values_solve_the_old_sizes() -> None:
    equations = [equation(HEADS, H), equation(DIM, D), equation(Operation("*", HEADS, DIM), Product((H, D)))]
    assert solve(equations, OLD, {}) == OLD


def test_a_difference_names_the_widths_it_depends_on() -> None:
    difference = Difference(HIDDEN, Sum((D, Whole(3))), "if in attn")
    assert widths_in(difference, [equation(HIDDEN, Product((H, D)))]) == ["dim", "heads"]


EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    st.one_of(st.integers(0, 50), st.sampled_from([HEADS, DIM, HIDDEN]), st.sampled_from([H, Product((H, D))])),
    lambda inner: st.builds(Operation, st.sampled_from(sorted(OPERATORS)), inner, inner),
    max_leaves=5,
)


@given(EXPRESSIONS)
def test_an_expression_survives_json(expression: Expression) -> None:
    assert expression_from_json(json.loads(json.dumps(expression_to_json(expression)))) == expression


@given(EXPRESSIONS, st.integers(1, 8), st.integers(1, 16))
def test_solving_either_finds_values_that_hold_or_contradicts(expression: Expression, heads: int, dim: int) -> None:
    counts = {"heads": heads, "dim": dim}
    made = Equation(expression, Product((H, D)), "here")
    try:
        values = solve([made], OLD, counts)
    except Contradiction:
        return
    assert evaluate(expression, values, counts) == heads * dim
    assert all(value >= 1 for value in values.values())
    assert all(values[a] == OLD[a] for a in OLD if a not in attributes_of(expression))


@pytest.mark.parametrize(
    "data", [True, None, "a", [], {}, {"?": [1, 2]}, {"+": [1]}, {"attribute": ["a"]}, {"size": "x"}]
)
def test_what_is_no_expression_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="not a"):
        expression_from_json(data)
