"""The best of several plans for one budget, each measured whole.

    thresholds, after few and after all evaluations ─┐
    global, uniform                                  ├──► score, and agreement with the whole network ──► the best
                                                     ┘
Losses of single widths do not add up, and with few evaluations most are guessed; a plan's own score is neither. But the best
of many scores on the same samples is partly luck: where other samples are at hand, how far a plan agrees with the whole
network on those counts as much.

Invariant: the plan that comes back was measured as it is, and no other has both a better score and more agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from secateur.core.graph import Graph
from secateur.core.plan import Plan, digest_of
from secateur.search.candidates import Candidate
from secateur.search.measured import Measured, check_scored

Agreements = Callable[[Mapping[str, Plan]], Mapping[str, float | None]]


def best_of(
    plans: Mapping[str, Plan],
    measured: Measured,
    graph: Graph,
    *,
    whole: float | None = None,
    agreements: Agreements | None = None,
) -> tuple[str, Plan, tuple[Candidate, ...]]:
    """The name and plan of the one that loses least, the first of several; and all of them as candidates, best first.

    ``whole`` is the score of the whole network, which says how much a loss of score is beside one of agreement. Raises
    InputError where none has a score.
    """
    keys = {name: f"plan {digest_of(plan)[:16]}" for name, plan in plans.items()}
    first = {key: name for name, key in reversed(list(keys.items()))}
    named = {name: plans[name] for name in plans if first[keys[name]] == name}
    scores = measured({keys[name]: plan for name, plan in named.items()}).values()
    check_scored(score.value for score in scores)
    agreed = {} if agreements is None else agreements(named)
    found = [
        Candidate(
            index=index,
            name=name,
            score=score.value,
            share=score.share,
            macs=int(graph.cost("macs", plan.sizes)),
            sizes={width.name: plan.sizes[width.name] for width in graph.free},
            agreement=agreed.get(name),
        )
        for index, ((name, plan), score) in enumerate(zip(named.items(), scores, strict=True))
    ]
    ordered = _ordered(found, whole)
    return ordered[0].name, named[ordered[0].name], ordered


def _ordered(found: Sequence[Candidate], whole: float | None) -> tuple[Candidate, ...]:
    """Best first: by the share of the score that is lost, and that of agreement where all have one."""
    if any(one.agreement is None for one in found):
        found = [replace(one, agreement=None) for one in found]
    scores = [one.score for one in found if one.score is not None]
    best = max(scores, default=0.0) if whole is None else whole
    scale = max(map(abs, [best, *scores])) or 1.0

    def lost(one: Candidate) -> float:
        score = best if one.score is None else one.score
        return (best - score) / scale + 1 - (1.0 if one.agreement is None else one.agreement)

    return tuple(sorted(found, key=lambda one: (one.score is None, lost(one), one.index)))
