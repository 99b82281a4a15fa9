"""A graph as JSON, and back, equal: what a trace found can be kept beside a model and planned on without it.

Costs are stored as their terms, ``[coefficient, [axis, …], "module"]``. The example the trace ran on is not stored.

Invariant: ``graph_from_json(graph_to_json(g)) == g``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, PlainValidator

from secateur.core.cost import Cost, Peak, Polynomial, Term
from secateur.core.depth import Passes, Stack
from secateur.core.equations import (
    Attribute,
    Difference,
    Equation,
    Expression,
    expression_from_json,
    expression_to_json,
)
from secateur.core.graph import Graph, Use, Width
from secateur.core.json import Json
from secateur.core.json.plan import STRICT, AxisField, Fingerprint, Integer, Name
from secateur.core.json.strict import check_version, fit, read_json, write_json
from secateur.core.layout import from_json, to_json
from secateur.errors import InputError

FORMAT_VERSION = 2  # 1 had terms without their module


def _term(value: object) -> Term:
    match value:
        case [int() as coefficient, list() as axes, str() as module] if not isinstance(coefficient, bool):
            return Term(coefficient, tuple(map(from_json, axes)), module)
    raise ValueError('a cost term is [coefficient, [axis, …], "module"]')


def _choices(value: object) -> tuple[int, ...]:
    match value:
        case {"from": int() as first, "to": int() as last, "step": int() as step, **others} if not others:
            if 0 < first <= last < 2**31 and step > 0 and (last - first) // step < 2**20:
                return tuple(range(first, last + 1, step))
        case list() if value and all(type(n) is int and n >= 0 for n in value):
            return tuple(value)
    raise ValueError('choices are a list of counts, or {"from": …, "to": …, "step": …}')


def choices_data(choices: tuple[int, ...]) -> Json:
    """An arithmetic sequence by its ends: there may be thousands of choices."""
    if len(choices) > 4:
        first, last, step = choices[0], choices[-1], choices[1] - choices[0]
        if step > 0 and choices == tuple(range(first, last + 1, step)):
            return {"from": first, "to": last, "step": step}
    return list(choices)


ChoicesField = Annotated[tuple[int, ...], PlainValidator(_choices)]


TermField = Annotated[Term, PlainValidator(_term)]


ExpressionField = Annotated[Expression, PlainValidator(expression_from_json)]


Count = Annotated[int, Field(ge=1, lt=2**63)]


class WidthDocument(BaseModel):
    """The schema of a width; ``uses`` are pairs of tensor and axis."""

    model_config = STRICT

    name: Name
    kind: Name
    size: Count
    choices: ChoicesField
    exact: bool
    frozen: str | None
    inexact_reason: str | None
    outer: Name | None
    multiplier: Count
    uses: list[UseDocument]


class UseDocument(BaseModel):
    """The schema of a use."""

    model_config = STRICT

    tensor: Name
    axis: Annotated[int, Field(ge=0, lt=64)]


class EquationDocument(BaseModel):
    """The schema of an equation."""

    model_config = STRICT

    expression: ExpressionField
    axis: AxisField
    where: str


class DifferenceDocument(BaseModel):
    """The schema of two sizes that must go on to differ."""

    model_config = STRICT

    left: ExpressionField
    right: ExpressionField
    where: str


class AttributeDocument(BaseModel):
    """The schema of an attribute and the value it had while tracing."""

    model_config = STRICT

    module: Name
    path: Name
    value: Integer


class PlaceDocument(BaseModel):
    """The schema of the place of an attribute."""

    model_config = STRICT

    module: Name
    path: Name


class StackDocument(BaseModel):
    """The schema of a list of modules of which some may go whole."""

    model_config = STRICT

    name: Name
    entries: list[Name]
    passes: dict[Name, list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]]]
    numbered: list[AttributeDocument]
    counts: list[PlaceDocument]
    axis: Annotated[int, Field(ge=-1, lt=64)]
    zeros: list[Name] = []
    values: dict[Name, Annotated[int, Field(ge=1, lt=64)]] = {}
    in_place: bool = False
    others: list[Name] = []


class CostDocument(BaseModel):
    """The schema of a cost: a sum of terms, or the peak of a running total."""

    model_config = STRICT

    form: Literal["polynomial", "peak"]
    terms: list[TermField]


class GraphDocument(BaseModel):
    """The schema of a graph."""

    model_config = STRICT

    format_version: Literal[2]
    fingerprint: Fingerprint
    widths: list[WidthDocument]
    layouts: dict[Name, list[AxisField]]
    equations: list[EquationDocument]
    differences: list[DifferenceDocument]
    attributes: list[AttributeDocument]
    costs: dict[Name, CostDocument]
    module_types: dict[Name, list[Name]]
    parameters: list[Name]
    outputs: list[list[AxisField]]
    outputs_also: list[list[list[AxisField]]]
    notes: list[str]
    numbers: list[PlaceDocument]
    stacks: list[StackDocument] = []
    seconds: dict[Name, float]


_FORMS: dict[str, type[Polynomial | Peak]] = {"polynomial": Polynomial, "peak": Peak}


for _document in (WidthDocument, GraphDocument):
    _document.model_rebuild()


def graph_to_json(graph: Graph) -> str:
    """The graph as JSON text."""
    data = {
        "format_version": FORMAT_VERSION,
        "fingerprint": graph.fingerprint,
        "widths": [_width_data(width) for width in graph.widths],
        "layouts": {name: [to_json(axis) for axis in layout] for name, layout in graph.layouts.items()},
        "equations": [
            {"expression": expression_to_json(e.expression), "axis": to_json(e.axis), "where": e.where}
            for e in graph.equations
        ],
        "differences": [
            {"left": expression_to_json(d.left), "right": expression_to_json(d.right), "where": d.where}
            for d in graph.differences
        ],
        "attributes": [{"module": a.module, "path": a.path, "value": v} for a, v in graph.attributes.items()],
        "costs": {name: _cost_data(name, cost) for name, cost in graph.costs.items()},
        "module_types": {name: list(types) for name, types in graph.module_types.items()},
        "parameters": sorted(graph.parameters),
        "outputs": [[to_json(axis) for axis in layout] for layout in graph.outputs],
        "outputs_also": [[[to_json(axis) for axis in layout] for layout in each] for each in graph.outputs_also],
        "notes": list(graph.notes),
        "numbers": [{"module": a.module, "path": a.path} for a in sorted(graph.numbers, key=str)],
        **({"stacks": [_stack_data(stack) for stack in graph.stacks]} if graph.stacks else {}),
        "seconds": {name: float(value) for name, value in graph.seconds.items()},
    }
    return write_json(data, "the graph", InputError)


def graph_from_json(text: str | bytes) -> Graph:
    """The graph that `graph_to_json` wrote. Raises InputError, naming the place, for anything else."""
    data = read_json(text, "the graph", InputError)
    check_version(data, FORMAT_VERSION, "the graph", InputError)
    document = fit(GraphDocument, data, "the graph", InputError)
    return Graph(
        widths=tuple(_width(width) for width in document.widths),
        layouts={name: tuple(axes) for name, axes in document.layouts.items()},
        equations=tuple(Equation(e.expression, e.axis, e.where) for e in document.equations),
        differences=tuple(Difference(d.left, d.right, d.where) for d in document.differences),
        attributes={Attribute(a.module, a.path): a.value for a in document.attributes},
        costs={name: _FORMS[cost.form](tuple(cost.terms)) for name, cost in document.costs.items()},
        fingerprint=document.fingerprint,
        module_types={name: tuple(types) for name, types in document.module_types.items()},
        parameters=frozenset(document.parameters),
        outputs=tuple(map(tuple, document.outputs)),
        outputs_also=tuple(tuple(map(tuple, each)) for each in document.outputs_also),
        notes=tuple(document.notes),
        numbers=frozenset(Attribute(place.module, place.path) for place in document.numbers),
        stacks=tuple(_stack(stack) for stack in document.stacks),
        seconds=document.seconds,
    )


def _width_data(width: Width) -> dict[str, Json]:
    return {
        "name": width.name,
        "kind": width.kind,
        "size": width.size,
        "choices": choices_data(width.choices),
        "exact": width.exact,
        "frozen": width.frozen,
        "inexact_reason": width.inexact_reason,
        "outer": width.outer,
        "multiplier": width.multiplier,
        "uses": [{"tensor": use.tensor, "axis": use.axis} for use in width.uses],
    }


def _width(document: WidthDocument) -> Width:
    fields = {name: getattr(document, name) for name in WidthDocument.model_fields}
    uses = tuple(Use(tensor=use.tensor, axis=use.axis) for use in document.uses)
    return Width(**{**fields, "uses": uses})


def _stack_data(stack: Stack) -> dict[str, Json]:
    return {
        "name": stack.name,
        "entries": list(stack.entries),
        "passes": {key: [list(pair) for pair in passes.pairs] for key, passes in stack.passes.items()},
        "numbered": [{"module": a.module, "path": a.path, "value": v} for a, v in stack.numbered.items()],
        "counts": [{"module": a.module, "path": a.path} for a in stack.counts],
        "axis": stack.axis,
        "zeros": [key for key, passes in stack.passes.items() if passes.zeros],
        "values": {key: passes.values for key, passes in stack.passes.items() if passes.values is not None},
        "in_place": stack.in_place,
        "others": list(stack.others),
    }


def _stack(document: StackDocument) -> Stack:
    return Stack(
        name=document.name,
        entries=tuple(document.entries),
        passes={
            key: Passes(tuple((out, into) for out, into in pairs), key in document.zeros, document.values.get(key))
            for key, pairs in document.passes.items()
        },
        numbered={Attribute(a.module, a.path): a.value for a in document.numbered},
        counts=tuple(Attribute(a.module, a.path) for a in document.counts),
        axis=document.axis,
        in_place=document.in_place,
        others=tuple(document.others),
    )


def _cost_data(name: str, cost: Cost) -> dict[str, Json]:
    for form, kind in _FORMS.items():
        if isinstance(cost, kind):
            return {"form": form, "terms": [[n, [to_json(a) for a in axes], module] for n, axes, module in cost.terms]}
    raise InputError(
        f"the cost {name!r} is a {type(cost).__name__}, which no file can hold: leave it out of the graph, "
        "and add it again with graph.with_cost after reading"
    )
