"""Secateur's side of the speed comparison: trace + plan + apply, L2 norms of groups, every width alike.

The self-check and the verification are not part of it; a request with ``"checks": true`` times them by themselves.
"""

from __future__ import annotations

import time
from typing import Any

from torch import nn

import secateur
from benchmarks.models import Case
from benchmarks.serving import serve


def measure(case: Case, model: nn.Module, inputs: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Narrow in place to ``request["params"]`` parameters."""
    budget = {"params": request["params"] or round(case.share * sum(p.numel() for p in model.parameters()))}
    checks = bool(request.get("checks"))
    start = time.perf_counter()
    graph = secateur.trace(model, inputs, check=checks)
    traced = time.perf_counter()
    plan = secateur.plan(graph, "l2", budget, allocation="uniform")
    planned = time.perf_counter()
    secateur.apply(model, plan, in_place=True, verify=checks)
    applied = time.perf_counter()
    steps = {"trace": traced - start, "plan": planned - traced, "apply": applied - planned}
    if checks:
        return {"self_check": graph.seconds["self_check"], "verify_and_apply": applied - planned}
    return {"seconds": applied - start, "steps": steps}


if __name__ == "__main__":
    serve(measure)
