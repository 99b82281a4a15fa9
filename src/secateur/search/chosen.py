"""The best of several plans for one budget, each measured whole.

    threshold, largest loss ─┐
    threshold, sum of losses ├──► measured as whole networks ──► the best
    global, uniform ─────────┘

Losses of single widths do not add up, and with few evaluations most are guessed; a plan's own score is neither.

Invariant: the plan that comes back has the best score of all, and was measured as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from secateur.core.graph import Graph
from secateur.core.plan import Plan, digest_of
from secateur.search.candidates import Candidate
from secateur.search.measured import Measured


def best_of(plans: Mapping[str, Plan], measured: Measured, graph: Graph) -> tuple[str, Plan, tuple[Candidate, ...]]:
    """The name and plan of the best score, the first of several; and all of them as candidates, best first."""
    keys = {name: f"plan {digest_of(plan)[:16]}" for name, plan in plans.items()}
    first = {key: name for name, key in reversed(list(keys.items()))}
    named = {name: plans[name] for name in plans if first[keys[name]] == name}
    scores = measured({keys[name]: plan for name, plan in named.items()}).values()
    found = [
        Candidate(
            index=index,
            name=name,
            score=score.value,
            share=score.share,
            macs=int(graph.cost("macs", plan.sizes)),
            sizes={width.name: plan.sizes[width.name] for width in graph.free},
        )
        for index, ((name, plan), score) in enumerate(zip(named.items(), scores, strict=True))
    ]
    ordered = sorted(found, key=lambda one: (one.score is None, -(one.score or 0.0), one.index))
    return ordered[0].name, named[ordered[0].name], tuple(ordered)
