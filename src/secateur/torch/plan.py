"""`plan`: from a graph, a criterion and constraints to what is kept.

    Graph ──limits──► search space ──score──► scores ──allocate──► kept indices ──► Plan

Invariant: a plan meets its constraints, or there is none; what it was made with stands in its provenance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.core.budget import Budget
from secateur.core.given import check_given
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.errors import InputError
from secateur.search.allocate import Scores
from secateur.search.limits import Limits
from secateur.search.planned import plan_for
from secateur.search.ranked import Given, Judge
from secateur.torch.criteria.judge import judge_of
from secateur.torch.criteria.protocol import Criterion, make


def plan(
    graph: Graph,
    criterion: str | Criterion | Scores = "l1",
    constraints: Budget | Mapping[str, Any] | None = None,
    *,
    allocation: str = "global",
    sizes: Mapping[str, int] | None = None,
    limits: Limits | Mapping[str, Any] | None = None,
) -> Plan:
    """Choose what to keep of each width so that the constraints are met.

    ``criterion`` is a name, an object, or scores made before. ``constraints`` are upper bounds, ``{"macs": "60%"}`` or
    several; ``sizes`` fixes the counts of some widths by hand, with or without constraints for the others. ``allocation``
    is "global", "local", "uniform" or "per_cost". ``limits`` narrow the search space: ``multiple_of``, ``exclude`` and what
    else `Limits` has, as a dict or a `Limits`.

    Raises InputError for an argument that cannot be used, Infeasible where no network is small enough.
    """
    check_given("plan", "graph", graph, Graph)
    budget = None if constraints is None else Budget.of(constraints, graph)
    judge = _judge(graph, criterion)
    return plan_for(graph, judge, budget, allocation=allocation, sizes=sizes, limits=Limits.read(limits))


def _judge(graph: Graph, criterion: str | Criterion | Scores) -> Judge:
    if isinstance(criterion, Mapping):
        return Given(criterion)
    made = make(criterion)
    model = getattr(graph.example, "model", None)
    if model is None:
        raise InputError("this graph was read from a file and has no model to judge; trace the model, or give scores")
    return judge_of(made, model)
