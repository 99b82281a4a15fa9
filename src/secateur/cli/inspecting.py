"""What ``secateur inspect`` finds and says.

Invariant: the data and the text say the same; both come from one Graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from secateur.cli.inputs import example_for
from secateur.core.json import Json
from secateur.core.json.graph import choices_data
from secateur.core.profile import search_space_size
from secateur.core.show import graph_summary, profile
from secateur.errors import TraceError
from secateur.scenario.models import build

if TYPE_CHECKING:
    from secateur.core.graph import Graph


def trace_spec(spec: str, inputs: Sequence[str], options: Mapping[str, object]) -> Graph:
    """Build an architecture by name and trace it; without inputs, on the one it says it takes."""
    from secateur.torch.trace import trace

    model = build(spec, options=options)
    example = example_for(model, spec, inputs)
    try:
        return trace(model, example)
    except TraceError:
        if not any(p.is_meta for p in model.parameters()):
            raise
    # some models look at values while they run: these need real weights, even if random ones
    return trace(build(spec, "cpu", options), example)


def inspect_text(graph: Graph, everything: bool) -> str:
    """The summary as tables, and how long it took."""
    summary = graph_summary(graph, limit=None) if everything else graph_summary(graph)
    timings = ", ".join(f"{step.replace('_', '-')} {seconds:.2f} s" for step, seconds in graph.seconds.items())
    return f"{summary}\n{timings}" if timings else summary


def inspect_data(graph: Graph) -> dict[str, Json]:
    """The summary as JSON values."""
    return {
        "configurable": len(graph.configurable),
        "search_space": str(search_space_size(graph)),
        "profile": profile(graph),
        "widths": [
            {
                "name": w.name,
                "kind": w.kind,
                "size": w.size,
                "choices": choices_data(w.choices),
                "exact": w.exact,
                "frozen": w.frozen,
            }
            for w in graph.widths
        ],
        "notes": list(graph.notes),
        "seconds": dict(graph.seconds),
    }
