"""A plan as JSON, and back, equal.

    {"format_version": 1, "fingerprint": "…", "kept": {"conv1.out_channels": [0, 2, 5]}, "sizes": {…},
     "layouts": {"conv2.weight": [64, ["conv1.out_channels", 8], 3, 3]}, "edits": […], …}

Everything that can be known of a plan without its model is checked while reading: kept sets are integers, in range,
sorted and unique, empty only for what is no axis of a tensor (a block), sizes count them, edits name plain attributes.

Invariant: a plan that was read satisfies the invariant of `Plan`; `plan_from_json(plan_to_json(p)) == p`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainValidator, StringConstraints

from secateur.core.depth import Passes
from secateur.core.equations import Attribute
from secateur.core.json import Json
from secateur.core.json.strict import check_version, fit, read_json, write_json
from secateur.core.layout import Along, Axis, Layout, Product, Sum, alongs_of, from_json, to_json
from secateur.core.plan import Edit, KeptSet, Plan, check_kept
from secateur.core.text import visible
from secateur.errors import PlanError

FORMAT_VERSION = 1


STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


Name = Annotated[str, StringConstraints(max_length=4096)]


Fingerprint = Annotated[str, StringConstraints(min_length=1, max_length=256)]


Size = Annotated[int, Field(ge=0, lt=2**63)]


Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]


_SEGMENT = re.compile(r"""(?!__)[A-Za-z_]\w*(\[[0-9]{1,6}\]|\["(?!__)[A-Za-z_]\w*"\])*""")


def _kept_set(value: object) -> KeptSet:
    if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        if len({len(row) for row in value}) > 1:
            raise ValueError("each row of a kept matrix must keep the same number")
        if not value[0]:
            raise ValueError("a row of a kept matrix is a list of integers, never empty")
        return tuple(map(_row, value))
    return _row(value)


def _row(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        raise ValueError("a kept set is a list of integers, or a list of such lists")
    if value and not -(2**63) <= min(value) <= max(value) < 2**63:
        raise ValueError("a kept index is out of range")
    return tuple(value)


def _path(value: object) -> str:
    """An attribute path that can only ever name data: no dunder, no call, no import."""
    if isinstance(value, str) and len(value) < 512 and all(map(_SEGMENT.fullmatch, value.split("."))):
        return value
    raise ValueError("an edit's path is made of plain attribute names")


KeptField = Annotated[KeptSet, PlainValidator(_kept_set)]


AxisField = Annotated[Axis, PlainValidator(from_json)]


PathField = Annotated[str, PlainValidator(_path)]


class PlanDocument(BaseModel):
    """The schema of a plan."""

    model_config = STRICT

    format_version: Literal[1]
    fingerprint: Fingerprint
    kept: dict[Name, KeptField]
    sizes: dict[Name, Size]
    layouts: dict[Name, list[AxisField]]
    edits: list[EditDocument]
    provenance: dict[Name, JsonValue]
    standing: dict[Name, PassesDocument] = {}
    stays: list[NumberDocument] = []


class PassesDocument(BaseModel):
    """The schema of what a module gives on that stands in the place of a block."""

    model_config = STRICT

    pairs: list[Annotated[list[Annotated[int, Field(ge=0, lt=2**16)]], Field(min_length=2, max_length=2)]]
    zeros: bool
    values: Annotated[int, Field(ge=1, lt=64)] | None


class EditDocument(BaseModel):
    """The schema of one attribute to rewrite."""

    model_config = STRICT

    module: Name
    path: PathField
    old: Integer
    new: Integer


class NumberDocument(BaseModel):
    """The schema of one attribute that is to be what it is."""

    model_config = STRICT

    module: Name
    path: Name
    value: Integer


PlanDocument.model_rebuild()


def plan_to_json(plan: Plan) -> str:
    """The plan as JSON text. Raises PlanError where its provenance holds what JSON cannot."""
    return write_json(plan_to_data(plan), "the plan", PlanError)


def plan_from_json(text: str | bytes) -> Plan:
    """The plan that `plan_to_json` wrote. Raises PlanError, naming the place, for anything else."""
    return plan_from_data(read_json(text, "the plan", PlanError))


def plan_to_data(plan: Plan) -> dict[str, Json]:
    """The plan as plain lists and dicts."""
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": plan.fingerprint,
        "kept": {name: plain(kept, f"kept → {name}") for name, kept in plan.kept.items()},
        "sizes": {name: int(size) for name, size in plan.sizes.items()},
        "layouts": {name: [to_json(axis) for axis in layout] for name, layout in plan.layouts.items()},
        "edits": [{"module": e.module, "path": e.path, "old": e.old, "new": e.new} for e in plan.edits],
        "provenance": plain(dict(plan.provenance), "provenance"),
        **(
            {"standing": {name: _passes_data(passes) for name, passes in plan.standing.items()}}
            if plan.standing
            else {}
        ),
        "stays": [{"module": a.module, "path": a.path, "value": n} for a, n in plan.stays.items()],
    }


def _passes_data(passes: Passes) -> Json:
    return {"pairs": [list(pair) for pair in passes.pairs], "zeros": passes.zeros, "values": passes.values}


def plan_from_data(data: object, what: str = "the plan") -> Plan:
    """The plan from plain lists and dicts, checked."""
    check_version(data, FORMAT_VERSION, what, PlanError)
    document = fit(PlanDocument, data, what, PlanError)
    plan = Plan(
        kept=document.kept,
        sizes=document.sizes,
        layouts={name: tuple(axes) for name, axes in document.layouts.items()},
        edits=tuple(Edit(module=e.module, path=e.path, old=e.old, new=e.new) for e in document.edits),
        fingerprint=document.fingerprint,
        provenance=document.provenance,
        standing={
            name: Passes(tuple((out, into) for out, into in each.pairs), each.zeros, each.values)
            for name, each in document.standing.items()
        },
        stays={Attribute(each.module, each.path): each.value for each in document.stays},
    )
    check_plan(plan)
    return plan


def check_plan(plan: Plan) -> None:
    """Raise PlanError unless the plan is consistent in itself."""
    sizes = _unit_sizes(plan.layouts)
    for name, kept in plan.kept.items():
        array = np.asarray(kept, dtype=np.int64)
        if array.size or name in sizes:
            check_kept(visible(name), sizes.get(name, int(array.max(initial=0)) + 1), array)
        if plan.sizes.get(name) != array.shape[-1]:
            raise PlanError(
                f"{visible(name)}: {array.shape[-1]} indices are kept, its size says {plan.sizes.get(name)}"
            )
    for name, size in plan.sizes.items():
        if name not in plan.kept and sizes.get(name, size) != size:
            raise PlanError(f"{visible(name)}: nothing is removed, yet {size} of {sizes[name]} would stay")
    for name, passes in plan.standing.items():
        places = range(passes.values or 1)
        if name not in plan.drops or not passes.pairs or any(out not in places for out, _ in passes.pairs):
            raise PlanError(f"{visible(name)}: what stands in its place is no block that goes, or gives on nothing")
    _check_rows(plan)
    places = [(e.module, e.path) for e in plan.edits]
    if len(set(places)) != len(places):
        raise PlanError("an attribute is edited twice")


def plain(value: object, place: str) -> Json:
    """The value with tuples as lists and numpy numbers as numbers; what else JSON lacks is refused with its place."""
    match value:
        case np.generic():
            return value.item()
        case None | bool() | int() | float() | str():
            return value
        case dict():
            return {str(key): plain(item, f"{place} → {key}") for key, item in value.items()}
        case list() | tuple():
            return [plain(item, place) for item in value]
        case _:
            kind = type(value).__name__
            raise PlanError(f"{visible(place)}: a {kind} cannot be written as JSON; use numbers and strings")


def _unit_sizes(layouts: Mapping[str, Layout]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for tensor, layout in layouts.items():
        for unit in (unit for axis in layout for unit in alongs_of(axis)):
            if sizes.setdefault(unit.width, unit.size) != unit.size:
                other = sizes[unit.width]
                raise PlanError(f"{visible(tensor)}: {visible(unit.width)} has {unit.size} units, elsewhere {other}")
    return sizes


def _check_rows(plan: Plan) -> None:
    """A kept matrix has one row for each index of the factor just outside its width."""
    rows = {name: len(kept) for name, kept in plan.kept.items() if kept and isinstance(kept[0], tuple)}
    if not rows:
        return
    for axis in (axis for layout in plan.layouts.values() for axis in layout):
        for outer, inner in _neighbours(axis):
            if isinstance(inner, Along) and rows.get(inner.width, outer.size) != outer.size:
                num_rows = rows[inner.width]
                raise PlanError(f"{visible(inner.width)}: {num_rows} kept sets for {outer.size} outer units")


def _neighbours(axis: Axis) -> Iterator[tuple[Axis, Axis]]:
    match axis:
        case Product():
            yield from zip(axis.factors, axis.factors[1:], strict=False)
            for factor in axis.factors:
                yield from _neighbours(factor)
        case Sum():
            for part in axis.parts:
                yield from _neighbours(part)
        case _:
            return
