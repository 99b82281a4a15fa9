"""Integers in a model's code that are really sizes: which attribute must become what when widths change.

    x.view(b, n, self.num_heads, self.head_dim)   ->   num_heads = size of one space, head_dim = size of another

While tracing, each such integer remembers the expression it came from; an `Equation` says that the expression equals the
size of an axis. After planning, `solve` gives every attribute its new value, or says which axes contradict each other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from secateur.core.json import Json
from secateur.core.layout import Along, Axis, Product, Sum, Whole, from_json, size_of, to_json, widths_of


@dataclass(frozen=True, slots=True)
class Attribute:
    """An integer held by a module: ``("layer.0.attn", "num_heads")``, ``("layer.0", "config.hidden_size")``."""

    module: str
    path: str

    def __str__(self) -> str:
        return f"{self.module}.{self.path}" if self.module else self.path


@dataclass(frozen=True, slots=True)
class Operation:
    """``left symbol right`` with one of ``+ - * // %``."""

    symbol: str
    left: Expression
    right: Expression


Expression = int | Attribute | Operation | Whole | Along | Product | Sum

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


@dataclass(frozen=True, slots=True)
class Equation:
    """``expression`` is the size of ``axis``; ``where`` says in which operator and module this was seen."""

    expression: Expression
    axis: Axis
    where: str


@dataclass(frozen=True, slots=True)
class Difference:
    """The code took a branch because these sizes differ: they must go on to differ. ``where`` says in which module."""

    left: Expression
    right: Expression
    where: str


class Contradiction(Exception):
    """No values of the attributes satisfy these equations."""

    def __init__(self, equations: list[Equation]) -> None:
        super().__init__("; ".join(e.where for e in equations))
        self.equations = equations


def attributes_of(expression: Expression) -> set[Attribute]:
    """The attributes an expression reads."""
    match expression:
        case Attribute():
            return {expression}
        case Operation():
            return attributes_of(expression.left) | attributes_of(expression.right)
        case _:
            return set()


def widths_in(difference: Difference, equations: Iterable[Equation]) -> list[str]:
    """The widths that the two sides of a difference depend on, directly or through attributes."""
    axes: list[Axis] = []
    wanted = attributes_of(difference.left) | attributes_of(difference.right)
    for side in (difference.left, difference.right):
        axes.extend(_axes_of(side))
    axes.extend(e.axis for e in equations if attributes_of(e.expression) & wanted)
    return list(dict.fromkeys(name for axis in axes for name in widths_of(axis)))


def _axes_of(expression: Expression) -> list[Axis]:
    match expression:
        case Operation():
            return _axes_of(expression.left) + _axes_of(expression.right)
        case Whole() | Along() | Product() | Sum():
            return [expression]
        case _:
            return []


def evaluate(expression: Expression, values: Mapping[Attribute, int], counts: Mapping[str, int]) -> int:
    """The value of an expression. Raises ZeroDivisionError where its code would."""
    match expression:
        case int():
            return expression
        case Attribute():
            return values[expression]
        case Operation():
            left = evaluate(expression.left, values, counts)
            return OPERATORS[expression.symbol](left, evaluate(expression.right, values, counts))
        case _:
            return int(size_of(expression, counts))


def solve(
    equations: Iterable[Equation], old: Mapping[Attribute, int], counts: Mapping[str, int]
) -> dict[Attribute, int]:
    """New values of all attributes for these widths. Raises `Contradiction` where there are none."""
    equations = list(equations)
    settled: dict[Attribute, Equation | None] = {}
    values = dict(old)
    # attributes that are a size by themselves come first: they are certain, and the rest is inverted from them
    for equation in equations:
        if isinstance(equation.expression, Attribute):
            _settle(equation.expression, int(size_of(equation.axis, counts)), equation, values, settled)
    pending = [e for e in equations if not isinstance(e.expression, Attribute)]
    while any(
        _infer(e, values, settled, counts) for e in pending
    ):  # each value found may leave another equation one open
        pass
    wrong = [e for e in pending if not _holds(e, values, counts)]
    if wrong:
        involved = {a for e in wrong for a in attributes_of(e.expression)}
        raise Contradiction(wrong + [e for a in involved if (e := settled.get(a)) is not None])
    return values


def _settle(
    attribute: Attribute,
    value: int,
    equation: Equation,
    values: dict[Attribute, int],
    settled: dict[Attribute, Equation | None],
) -> None:
    earlier = settled.get(attribute)
    if earlier is not None and values[attribute] != value:
        raise Contradiction([earlier, equation])
    values[attribute] = value
    settled.setdefault(attribute, equation)


def _holds(equation: Equation, values: Mapping[Attribute, int], counts: Mapping[str, int]) -> bool:
    try:
        return evaluate(equation.expression, values, counts) == size_of(equation.axis, counts)
    except ZeroDivisionError:
        return False


def _infer(
    equation: Equation,
    values: dict[Attribute, int],
    settled: dict[Attribute, Equation | None],
    counts: Mapping[str, int],
) -> bool:
    """Settle the only open attribute of an equation; whether anything was learnt."""
    open_ones = [a for a in attributes_of(equation.expression) if a not in settled]
    if len(open_ones) != 1:
        return False
    value = _invert(equation.expression, int(size_of(equation.axis, counts)), open_ones[0], values, counts)
    if value is None or value < 1:  # no size: left as it was, so that the equation is reported as not holding
        return False
    settled[open_ones[0]] = equation
    values[open_ones[0]] = value
    return True


def _invert(
    expression: Expression,
    target: int,
    unknown: Attribute,
    values: Mapping[Attribute, int],
    counts: Mapping[str, int],
) -> int | None:
    """The value of ``unknown`` that makes the expression equal ``target``; None where it is not determined."""
    if expression == unknown:
        return target
    if not isinstance(expression, Operation):
        return None
    on_left = unknown in attributes_of(expression.left)
    if on_left and unknown in attributes_of(expression.right):  # d // d: any value would do
        return None
    branch, other_branch = (expression.left, expression.right) if on_left else (expression.right, expression.left)
    try:
        other = evaluate(other_branch, values, counts)
    except ZeroDivisionError:
        return None
    needed: int | None = None
    match expression.symbol:
        case "+":
            needed = target - other
        case "-":
            needed = target + other if on_left else other - target
        case "*":
            needed = target // other if other and target % other == 0 else None
        case "//" if on_left:
            needed = target * other  # of all that divide to the target, the one that leaves no remainder in the code
        case "//":
            needed = other // target if target and other % target == 0 else None
        case _:
            needed = None
    return None if needed is None else _invert(branch, needed, unknown, values, counts)


def expression_to_json(expression: Expression) -> Json:
    """``5``, ``{"attribute": [module, path]}``, ``{"size": axis}`` or ``{"*": [left, right]}``."""
    match expression:
        case int():
            return expression
        case Attribute():
            return {"attribute": [expression.module, expression.path]}
        case Operation():
            return {expression.symbol: [expression_to_json(expression.left), expression_to_json(expression.right)]}
        case _:
            return {"size": to_json(expression)}


def expression_from_json(data: object) -> Expression:
    """The expression that `expression_to_json` wrote. Raises ValueError for anything else."""
    match data:
        case bool():
            pass
        case int():
            return data
        case {"attribute": [str() as module, str() as path]}:
            return Attribute(module, path)
        case {"size": axis}:
            return from_json(axis)
        case dict() if len(data) == 1 and next(iter(data)) in OPERATORS:
            ((symbol, sides),) = data.items()
            if isinstance(sides, list) and len(sides) == 2:
                return Operation(symbol, expression_from_json(sides[0]), expression_from_json(sides[1]))
        case _:
            pass
    raise ValueError(f"not an expression: {str(data)[:80]}")
