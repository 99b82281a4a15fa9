"""What is recorded of a graph, of a plan and of a narrowed model.

    graph    every width, attribute and cost; costs at random counts, too
    layouts  how axes are made of widths: told by what random plans keep of every tensor, whatever the classes are called
    plan     kept sets, sizes, edits; neither provenance nor fingerprint

Equations are told by the edits that random plans bring, or by their being refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from . import calls, digests
from .digests import Record, Section

NUM_COUNTS = 8  # networks that costs are evaluated for at once
PROBES = (True, False, True)  # random plans; True: inner widths keep another set for each index of the outer one


def of_graph(graph: Any) -> Record:
    """Widths, attributes, costs."""
    rows = calls.rows(graph)
    return {
        "widths": {"(names in order)": digests.brief([row.name for row in rows]), **{r.name: _width(r) for r in rows}},
        "attributes of the code": digests.section(_lasting(calls.attributes(graph))),
        "costs": _costs(graph),
        "names": digests.section(
            {
                "parameters": calls.parameters(graph),
                "module types": calls.module_types(graph),
                "number of notes": calls.num_notes(graph),
            }
        ),
    }


def of_plan(plan: Any) -> Record:
    """Kept sets, sizes and edits."""
    return {
        "kept": digests.section(calls.kept(plan)),
        "sizes": digests.section(calls.sizes(plan)),
        "edits": digests.section(calls.edits(plan)),
    }


def of_layouts(graph: Any, plans: Sequence[Any]) -> Section:
    """For each tensor what several plans keep of every axis."""
    whole = calls.plan_of(graph, {})
    found: Section = {}
    for name in calls.tensors(whole):
        said = [[calls.shape(plan, name), calls.indices(plan, name)] for plan in [whole, *plans]]
        found[name] = f"{list(calls.shape(whole, name))} {digests.brief(said)}"
    return found


def of_pruned(model: nn.Module, result: calls.Pruned) -> Record:
    """A result of `prune` with the model it left."""
    told = {name: value for name, value in result._asdict().items() if name != "plan"}
    return {**of_plan(result.plan), "result": digests.section(told), **digests.of_model(model)}


def random_plans(graph: Any) -> list[Any]:
    """Plans with random kept sets of every free width; None for one that the graph refuses."""
    return [_random_plan(graph, seed, ragged) for seed, ragged in enumerate(PROBES)]


def random_counts(graph: Any, seed: int, num: int) -> dict[str, Any]:
    """Counts of every free width for several networks. They depend on a width's name, not on its place."""
    rows = [row for row in calls.rows(graph) if row.free]
    return {row.name: _generator(seed, row.name).choice(row.choices, num).astype(np.int64) for row in rows}


def values_at_edits(model: nn.Module, plan: Any) -> Section:
    """What the edited attributes of a narrowed model hold, also inside its configuration."""
    return digests.section({place: _value_at(model, place) for place in calls.edits(plan)})


def _width(row: calls.Row) -> str:
    free = "free" if row.free else "frozen"
    exact = "exact" if row.exact else "inexact"
    outer = f" in {row.outer}" if row.outer else ""
    ends = f"{len(row.choices)} choices {digests.brief(row.choices)}"
    return f"{row.kind} {row.size} {free} {exact}{outer} ×{row.multiplier}; {ends}; uses {digests.brief(row.uses)}"


def _lasting(attributes: Mapping[str, int]) -> dict[str, int]:
    """The attributes without hashes of texts, which transformers keeps and which are others in every process."""
    return {place: value for place, value in attributes.items() if not place.endswith("_hash")}


def _costs(graph: Any) -> Section:
    many = random_counts(graph, 7, NUM_COUNTS)
    one = {name: int(counts[0]) for name, counts in many.items()}
    found: Section = {}
    for metric in calls.metrics(graph):
        found[metric] = digests.brief(int(calls.cost(graph, metric)))
        found[f"{metric} of one network"] = digests.brief(int(calls.cost(graph, metric, one)))
        found[f"{metric} of {NUM_COUNTS} networks"] = digests.brief(
            np.asarray(calls.cost(graph, metric, many)).tolist()
        )
    return found


def _random_plan(graph: Any, seed: int, ragged: bool) -> Any | None:
    counts = random_counts(graph, seed, 1)
    size = {row.name: row.size for row in calls.rows(graph)}
    outer: Mapping[str, str | None] = {row.name: row.outer if ragged else None for row in calls.rows(graph)}
    kept = {
        name: _random_kept(_generator(seed + 100, name), size[name], int(count[0]), size.get(outer[name] or ""))
        for name, count in counts.items()
    }
    try:
        return calls.plan_of(graph, kept)
    except calls.Refused:
        return None


def _random_kept(generator: np.random.Generator, size: int, count: int, num_rows: int | None) -> Any:
    def draw() -> list[int]:
        return sorted(generator.choice(size, count, replace=False).tolist())

    return draw() if num_rows is None else [draw() for _ in range(num_rows)]


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _value_at(model: nn.Module, place: str) -> Any:
    """The value at ``layer.0.attn.num_heads`` or ``layer.0.sizes[1]``."""
    value: Any = model
    for step in place.replace("[", ".[").lstrip(".").split("."):
        if step.startswith("["):
            value = value[int(step[1:-1])]
        elif isinstance(value, nn.Module) and step in value._modules:
            value = value._modules[step]
        else:
            value = getattr(value, step)
    return value
