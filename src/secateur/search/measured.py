"""Evaluations of whole networks: read from the journal, or made, and in the journal before anything else happens.

    measured = Measured(journal, measure)
    measured({"conv1=8": plan, "conv1=16": plan})  ->  {"conv1=8": Evaluation(value=0.93), …}

Every search that evaluates does so here, whether one plan at a time or several side by side.

Invariant: with a journal on disk a finished evaluation is never lost, and never made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.core.plan import Plan
from secateur.errors import ArtifactError, InputError
from secateur.search.journal import Journal, is_number
from secateur.search.ranks import ALONE, Ranks

Running = tuple[tuple[float, float], ...]  # (share of the data, score so far), shares ascending


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """``value`` over ``share`` of the data (1.0 unless abandoned), higher is better; None where it is not a number."""

    value: float | None
    share: float = 1.0
    running: Running = ()

    @property
    def finished(self) -> bool:
        """Whether all of the data was seen, and the value is a number."""
        return self.share >= 1 and self.value is not None


def check_scored(scores: Iterable[float | None]) -> None:
    """Raise InputError where none of these networks has a score, so that nothing tells one from another."""
    if (found := list(scores)) and all(score is None for score in found):
        raise InputError(
            "score_func gives no finite number for any of the candidates, so that none is better than another: look at what "
            "it gives for one, score_func(model)"
        )


Measure = Callable[[Mapping[str, Plan], Sequence[Running]], Iterator[tuple[str, Evaluation]]]


class Measured:
    """What was measured so far. State, because evaluations are counted: those made now, and those read."""

    def __init__(self, journal: Journal, measure: Measure, ranks: Ranks = ALONE) -> None:
        self._journal, self._measure, self._ranks = journal, measure, ranks
        self.num_made = self.num_read = 0

    def __call__(self, plans: Mapping[str, Plan], rivals: Sequence[Running] = ()) -> dict[str, Evaluation]:
        """A evaluation for each plan; one that yields running scores may be abandoned where it is behind ``rivals``.

        Raises ArtifactError where the journal has another network, or no evaluation, under the key of one of the plans.
        """
        known = {key: self._known(key, plan) for key, plan in plans.items()}
        found = {key: evaluation for key, evaluation in known.items() if evaluation is not None}
        self.num_read += len(found)
        missing = {key: plan for key, plan in plans.items() if key not in found}
        for key, evaluation in self._measure(missing, rivals):
            found[key] = self._over_ranks(evaluation)
            self._journal.record(key, _entry(plans[key], found[key]))
            self.num_made += 1
        return {key: found[key] for key in plans}

    def _known(self, key: str, plan: Plan) -> Evaluation | None:
        """What rank 0 has in its journal, which is the only one on disk."""
        entry = self._journal.get(key)
        mine = None if entry is None or self._ranks.number else _read(key, entry, plan)
        if self._ranks.size == 1:
            return mine
        value = None if mine is None else mine.value
        known, is_number, total = self._ranks.sum([float(mine is not None), float(value is not None), value or 0.0])
        return Evaluation(value=total if is_number else None) if known else None

    def _over_ranks(self, mine: Evaluation) -> Evaluation:
        """The mean over ranks, each of which has seen other data."""
        if self._ranks.size == 1:
            return mine
        numbers, total = self._ranks.sum([float(mine.value is not None), mine.value or 0.0])
        return Evaluation(value=total / self._ranks.size if numbers == self._ranks.size else None)


def _entry(plan: Plan, evaluation: Evaluation) -> dict[str, Any]:
    entry: dict[str, Any] = {"sizes": _sizes(plan), "score": evaluation.value}
    return {**entry, "share": evaluation.share, "running": evaluation.running} if evaluation.running else entry


def is_evaluation(key: str, entry: Mapping[str, object]) -> bool:
    """Whether an entry of a journal is what an evaluation is recorded as."""
    match {"share": 1.0, "running": [], **entry}:
        case {"sizes": dict() as sizes, "score": score, "share": share, "running": list() as running, **more}:
            numbers = [share, *sizes.values(), *([] if score is None else [score])]
            return not more and all(map(is_number, numbers)) and _is_share(share) and all(map(_is_pair, running))
    return False


def _read(key: str, entry: Mapping[str, Any], plan: Plan) -> Evaluation:
    if not is_evaluation(key, entry):
        raise ArtifactError(f"the journal's entry for {key!r} is no evaluation. {_WAY_OUT}")
    if entry["sizes"] != _sizes(plan):
        raise ArtifactError(
            f"the journal's entry for {key!r} is of another network than this version of Secateur proposes. {_WAY_OUT}"
        )
    running = tuple((share, value) for share, value in entry.get("running", ()))
    return Evaluation(value=entry["score"], share=entry.get("share", 1.0), running=running)


_WAY_OUT = "Choose another path, to search anew"


def _is_pair(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(map(is_number, entry)) and _is_share(entry[0])


def _is_share(value: Any) -> bool:
    return 0 < value <= 1


def _sizes(plan: Plan) -> dict[str, int]:
    return {name: plan.sizes[name] for name in plan.kept}
