"""A measuring process: reads a request a line, answers with a line of JSON; the driver alternates between two of these.

    {"case": "resnet50", "params": 6920000, "threads": 2}  ->  {"seconds": {...}, "params": 6919000, "peak_bytes": ...}

Building the network is outside the clock, and nothing of one request is left when the next is served.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import resource
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.models import CASES, Case

Measure = Callable[[Case, torch.nn.Module, Any, dict[str, Any]], dict[str, Any]]


def serve(measure: Measure) -> None:
    """Answer requests until there are no more. ``measure`` returns what to report besides parameters and memory."""
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        request = json.loads(line)
        with contextlib.redirect_stdout(io.StringIO()):
            answer = _answer(measure, request)
        print(json.dumps(answer), flush=True)
        gc.collect()


def _answer(measure: Measure, request: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    case = CASES[request["case"]]
    model, inputs = case.build(), case.inputs()
    try:
        answer = measure(case, model, inputs, request)
        _run(model, inputs)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**answer, "params": sum(p.numel() for p in model.parameters()), "peak_bytes": peak}


@torch.no_grad()
def _run(model: torch.nn.Module, inputs: Any) -> None:
    model(**inputs) if isinstance(inputs, dict) else model(inputs)
