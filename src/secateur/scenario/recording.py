"""What a pruning gave, as a record that outlives it.

    record_of(stage, result)  ->  Pruning: widths, layers, frozen and why, evidence, compensation, proof

Invariant: everything in the record is in the result; nothing is made up, rounded or left out but tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.record import LayerChange, Pruning, WidthChange
from secateur.modes.result import PruneResult
from secateur.scenario.schema import Prune
from secateur.scenario.scores import Scores
from secateur.search.evidence import finite


def record_of(stage: Prune, result: PruneResult, scores: Scores) -> Pruning:
    """The record of one pruning, with the scores of units where they are known."""
    graph = result.plan.graph
    assert graph is not None
    compensation = None if result.compensation is None else finite(result.compensation.as_dict())
    return Pruning(
        mode=stage.mode,
        constraints=stage.constraints,
        options=stage.compat if stage.compat is not None else stage.options,
        before=dict(result.before),
        after=dict(result.after),
        widths=tuple(_widths(graph, result.plan, scores)),
        layers=_layers(graph, result.plan),
        frozen=dict(result.frozen),
        notes=graph.notes,
        not_compared=result.verification.not_compared,
        verified=result.verification.passed,
        verification="; ".join(result.verification.lines),
        seconds=dict(result.seconds),
        evidence=json.loads(result.evidence.to_json()),
        compensation=compensation if isinstance(compensation, dict) else None,
    )


def _widths(graph: Graph, plan: Plan, scores: Scores) -> Iterator[WidthChange]:
    for width in graph.widths:
        if width.frozen is not None:
            continue
        change = WidthChange(name=width.name, kind=width.kind, was=width.size, becomes=int(plan.sizes[width.name]))
        kept = plan.kept[width.name]
        known = len(scores.get(width.name, ())) == width.size and all(isinstance(index, int) for index in kept)
        if known:
            marks = {
                "scores": scores[width.name],
                "kept": tuple(int(index) for index in kept if isinstance(index, int)),
            }
            change = change.model_copy(update=marks)
        yield change


def _layers(graph: Graph, plan: Plan) -> tuple[LayerChange, ...]:
    def shares(metric: str) -> tuple[Mapping[str, float], Mapping[str, float]]:
        return graph.cost_by_module(metric), graph.cost_by_module(metric, plan.sizes)

    macs, params = shares("macs"), shares("params")
    names = [name for name in dict.fromkeys([*params[0], *macs[0]]) if macs[0].get(name) or params[0].get(name)]
    return tuple(
        LayerChange(
            name=name,
            macs=(int(macs[0].get(name, 0)), int(macs[1].get(name, 0))),
            params=(int(params[0].get(name, 0)), int(params[1].get(name, 0))),
        )
        for name in names
    )
