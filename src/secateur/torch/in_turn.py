"""Several modes, one after the other, as one step.

    a copy ──► first mode ──► second mode ──► …        one plan for the original, and the weights of the copy

Invariant: the model itself is narrowed once, when all of them are through; until then it is only read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from secateur.core.compose import composed
from secateur.core.graph import Graph
from secateur.core.layout import Indices
from secateur.modes.result import PruneResult, result_of
from secateur.search.evidence import Evidence
from secateur.torch.apply import apply_fitted, verification_of
from secateur.torch.frontend import TorchFrontend
from secateur.torch.narrowing.history import history_of

Step = Callable[[nn.Module], PruneResult]  # narrows what it is given


def pruned_in_turn(model: nn.Module, graph: Graph, steps: Sequence[Step], *, verify: bool) -> PruneResult:
    """Narrow a model as these steps do one after the other.

    The result is that of the whole way: its plan and costs are of the model as it was given, its ``evidence`` has what each
    step saw, its ``compensation`` and ``latency`` are those of the last.
    """
    working = TorchFrontend(model, graph, None).copied()
    kept: dict[str, Indices] = {}
    results: list[PruneResult] = []
    for step in steps:
        results.append(step(working.model))
        kept = composed(graph, kept, results[-1].plan)
    last = results[-1]
    plan = graph.plan({name: np.asarray(units) for name, units in kept.items()}, last.plan.provenance)
    apply_fitted(model, plan, working.weights(), verify=verify)
    verification = verification_of(model)
    assert verification is not None
    return result_of(
        graph, plan, _evidence(results), verification, compensation=last.compensation,
        history=history_of(model), seconds=_seconds(results), latency=last.latency,
    )  # fmt: skip


def _evidence(results: Sequence[PruneResult]) -> Evidence:
    """What the last saw, and all of them as its rounds; the whole network is worth what the first said, by the same measure."""
    first, last = results[0].evidence.quality, results[-1].evidence.quality
    if first is not None and last is not None and first.measure == last.measure:
        last = replace(last, whole=first.whole)
    return replace(results[-1].evidence, quality=last, rounds=tuple(result.evidence for result in results))


def _seconds(results: Sequence[PruneResult]) -> dict[str, float]:
    spent: dict[str, float] = {}
    for result in results:
        for name, seconds in result.seconds.items():
            spent[name] = spent.get(name, 0.0) + seconds
    return spent
