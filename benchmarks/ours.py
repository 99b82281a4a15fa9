"""Secateur's side of the speed comparison: what the README calls, `secateur.prune`, in place.

The tracing self-check is part of it, as it is for everybody; the final verification is switched off, since the peer has
none, and a request with ``"checks": true`` times the same call with it.
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
    config = {"verify": bool(request.get("checks"))}
    start = time.perf_counter()
    _, result = secateur.prune(model, "magnitude", budget, inputs, config)
    seconds = time.perf_counter() - start
    steps = result.seconds
    if request.get("checks"):
        return {"self_check": steps["self_check"], "verify": steps["verify"]}
    return {"seconds": seconds, "steps": {name: steps[name] for name in ("trace", "plan", "apply")}}


if __name__ == "__main__":
    serve(measure)
