"""Search among whole networks of one cost: propose a round of candidates, measure them, learn, propose the next.

    Proposer ──counts──► plans ──measured──► candidates ──scores──► Proposer …          best first in the end

Members of a round do not wait for each other, so that they can be measured side by side and in any order.

Invariant: the same seed gives the same candidates, however often the search is interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.progress import Tell
from secateur.search.measured import Evaluation, Measured, Running, check_scored
from secateur.search.proposals import Proposer, round_of
from secateur.search.ranked import Ranked, planned


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One network that was measured.

    ``index`` counts candidates from 0; ``share`` of the data was seen (1.0, or less where it was abandoned); ``score`` is
    None where it was no number; ``sizes`` are the counts of the free widths; ``macs`` what it costs; ``name`` how it was
    made, where candidates are made in different ways; ``agreement`` how far it gives the whole network's answers, where that
    was looked at.
    """

    index: int
    score: float | None
    share: float
    macs: int
    sizes: Mapping[str, int]
    running: Running = ()
    name: str = ""
    agreement: float | None = None

    @property
    def finished(self) -> bool:
        """Whether it was judged on all of the data, and the score is a number."""
        return self.share >= 1 and self.score is not None

    def plan(self, ranked: Ranked, graph: Graph) -> Plan:
        """The plan of this candidate for the graph that the search space was made of."""
        record = {"method": "one step", "index": self.index, "score": self.score, "macs": self.macs}
        plan = planned(ranked, lambda search_space: self.sizes, graph)
        return graph.plan(plan.kept, record)


def searched(
    ranked: Ranked, proposer: Proposer, measured: Measured, num_candidates: int, tell: Tell
) -> tuple[Candidate, ...]:
    """So many candidates, best first; fewer where the search space has no more. Raises InputError where none has a score."""
    found: list[Candidate] = []
    while len(found) < num_candidates:
        tell(len(found) / num_candidates, f"candidate {len(found)} of {num_candidates}")
        wanted = range(len(found), min(round_of(len(found)).stop, num_candidates))
        plans = _proposed(ranked, proposer, wanted, found)
        rivals = [candidate.running for candidate in found if candidate.finished]
        scores = measured({str(index): plan for index, plan in plans.items()}, rivals)
        found += [_candidate(ranked, index, plan, scores[str(index)]) for index, plan in plans.items()]
        if len(plans) < len(wanted):
            break
    check_scored(candidate.score for candidate in found)
    return tuple(sorted(found, key=_best_first))


def _proposed(ranked: Ranked, proposer: Proposer, indices: range, found: list[Candidate]) -> dict[int, Plan]:
    earlier = [candidate.sizes for candidate in found]
    scores = [candidate.score if candidate.finished else None for candidate in found]
    plans: dict[int, Plan] = {}
    for index in indices:
        counts = proposer.propose(index, earlier, scores)
        if counts is None:
            break
        plans[index] = planned(ranked, partial(_at_most, counts))
        earlier = [*earlier, _sizes(ranked, plans[index])]
    return plans


def _candidate(ranked: Ranked, index: int, plan: Plan, evaluation: Evaluation) -> Candidate:
    sizes = _sizes(ranked, plan)
    return Candidate(
        index=index,
        score=evaluation.value,
        share=evaluation.share,
        macs=int(ranked.search_space.cost("macs", sizes)),
        sizes=sizes,
        running=evaluation.running,
    )


def _sizes(ranked: Ranked, plan: Plan) -> dict[str, int]:
    return {width.name: plan.sizes[width.name] for width in ranked.search_space.free}


def _at_most(counts: Mapping[str, int], search_space: Graph) -> dict[str, int]:
    """The largest choices that are not above these counts."""
    return {w.name: max((c for c in w.choices if c <= counts[w.name]), default=w.choices[0]) for w in search_space.free}


def _best_first(candidate: Candidate) -> tuple[bool, float, int]:
    score = candidate.score if candidate.score is not None else -math.inf
    return not candidate.finished, -score, candidate.index
