"""One-step pruning: measure many networks of the wanted cost, and take the best.

    pruner = OneStepPruner(model, dummy_input)
    pruner.search(score_func, {"macs": "30%"}, num_candidates=100, data_loader=train_loader, checkpoint="search")
    small, result = pruner.prune()                      the best; prune(3) is candidate number 3, prune(0) the first

Every candidate fills the budget; its batch norms are calibrated before it is judged (EagleEye, Li et al., ECCV 2020); and
from the third round on most candidates come from the best so far.

Invariant: same seed, same results, in however many processes and however often interrupted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core.budget import Budget
from secateur.core.given import check_seed
from secateur.core.options import whole_number
from secateur.core.plan import Plan
from secateur.errors import InputError
from secateur.modes.result import PruneResult, result_of
from secateur.progress import progress
from secateur.search.candidates import Candidate, searched
from secateur.search.evidence import Evidence, Quality
from secateur.search.journal import Journal
from secateur.search.limits import Limits, restrict
from secateur.search.measured import Evaluation, Measured, is_evaluation
from secateur.search.proposals import Proposer
from secateur.search.ranked import Ranked, judged, plain
from secateur.torch.apply import apply, verification_of
from secateur.torch.criteria.judge import judge_of
from secateur.torch.criteria.protocol import Criterion, make
from secateur.torch.evaluating.evaluator import Evaluator
from secateur.torch.evaluating.processes import measuring
from secateur.torch.evaluating.reading import ScoreFunc
from secateur.torch.evaluating.worth import quality_of
from secateur.torch.narrowing.history import history_of
from secateur.torch.running.data import Data
from secateur.torch.running.digests import described, digest_of_weights
from secateur.torch.trace import trace


@dataclass(frozen=True, slots=True, kw_only=True)
class _Searched:
    """What a search leaves behind for pruning."""

    ranked: Ranked
    evaluator: Evaluator
    evidence: Evidence


class OneStepPruner:
    """Search for the best network of a given cost, made from ``model``. ``dummy_input`` is an example input.

    ``criterion`` says which units of a width stay; ``limits`` narrow the search space, as a dict or a `Limits`; ``seed``
    gives the same candidates again; ``num_processes`` measure them. It has state because `search` fills
    ``results`` (best first) and `prune` reads them.
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: object,
        *,
        criterion: str | Criterion = "l1",
        limits: Limits | Mapping[str, Any] | None = None,
        seed: int = 0,
        num_processes: int = 1,
    ) -> None:
        _check_count("num_processes", num_processes)
        seed = whole_number(seed)
        check_seed("OneStepPruner", seed)
        self.model = model
        self.graph = trace(model, dummy_input)
        self.limits = Limits.read(limits)
        self.results: tuple[Candidate, ...] = ()
        self._criterion, self._seed, self._num_processes = make(criterion), seed, num_processes
        self._searched: _Searched | None = None
        self._whole: Evaluation | None = None

    @property
    def plan(self) -> Plan | None:
        """The plan of the best candidate; None before a search."""
        return self.plan_of() if self.results else None

    def search(
        self,
        score_func: ScoreFunc,
        constraints: Mapping[str, object],
        *,
        num_candidates: int = 100,
        data_loader: Iterable[Any] | Data | None = None,
        checkpoint: str | Path | None = None,
    ) -> tuple[Candidate, ...]:
        """Measure networks that meet the ``constraints``; the results, best first. ``num_candidates`` is how many.

        ``score_func(model)`` gives a score, higher is better; as a generator of (share of the data, score so far) it is
        abandoned where it falls behind. With a ``data_loader`` (a loader, or a `Data`) batch-norm statistics are measured
        again for each network. ``checkpoint`` (a file or a folder) keeps every result: nothing finished is measured twice;
        a larger ``num_candidates`` goes on. More than one process needs functions and data that can be pickled.

        Fewer networks come back where the search space has no more. Raises InputError for arguments that cannot be used,
        Infeasible where no network is small enough, ArtifactError where the file is of another search.
        """
        num_candidates = whole_number(num_candidates)
        _check_count("num_candidates", num_candidates)
        started, budget = time.perf_counter(), Budget.of(constraints, self.graph)
        # units are ranked once: candidates differ in how many stay of each width, never in which of them are better
        ranked = judged(restrict(self.graph, self.limits), judge_of(self._criterion, self.model))
        proposer = Proposer(graph=ranked.search_space, budget=budget, removal_ratio=_removed(budget), seed=self._seed)
        data = None if data_loader is None else Data.of(data_loader)
        evaluator = Evaluator(model=self.model, score_func=score_func, data=data, seed=self._seed)
        with (
            Journal.open(checkpoint, self._header(budget, evaluator), fits=is_evaluation) as journal,
            measuring(evaluator, self._num_processes) as measure,
            progress("search") as tell,
        ):
            measured = Measured(journal, measure)
            self.results = searched(ranked, proposer, measured, num_candidates, tell)
        evidence = Evidence(
            method="one step",
            candidates=self.results,
            num_measured=measured.num_made,
            num_read=measured.num_read,
            seconds=time.perf_counter() - started,
        )
        self._whole = None
        self._searched = _Searched(ranked=ranked, evaluator=evaluator, evidence=evidence)
        if checkpoint is not None:
            _write_results(Path(checkpoint), self.results)
        return self.results

    def prune(self, index: int | None = None) -> tuple[nn.Module, PruneResult]:
        """The network of candidate ``index``, narrowed and calibrated: a new model. None is the best, 0 the first.

        Raises InputError where there was no search, or no such candidate, DeadNetwork where it is no better than a constant.
        """
        plan, found = self.plan_of(index), self._found()
        evidence = replace(found.evidence, quality=self._quality(plan, found.evaluator))
        small = apply(self.model, plan)
        found.evaluator.calibrate(small)  # the statistics it was judged with; the whole network's would be worth less
        verification = verification_of(small)
        assert verification is not None
        seconds = {**self.graph.seconds, "plan": found.evidence.seconds, "verify": verification.seconds}
        history = history_of(small)
        return small, result_of(self.graph, plan, evidence, verification, history=history, seconds=seconds)

    def plan_of(self, index: int | None = None) -> Plan:
        """The plan of candidate ``index``; None is the best, 0 the first. Raises InputError where there is none."""
        found = self._found()
        by_index = {candidate.index: candidate for candidate in self.results}
        index = self.results[0].index if index is None else index
        if isinstance(index, bool) or index not in by_index:  # True would pass for candidate number 1
            raise InputError(f"there is no candidate {index!r}: they have numbers from 0 to {max(by_index)}")
        return by_index[index].plan(found.ranked, self.graph)

    def _quality(self, plan: Plan, evaluator: Evaluator) -> Quality:
        """What a candidate is worth beside the whole network, which is measured the first time."""
        if self._whole is None:
            self._whole = evaluator(self.graph.plan({}))
        return quality_of(self._whole.value, plan.provenance["score"], evaluator)

    def _found(self) -> _Searched:
        if self._searched is None or not self.results:
            raise InputError("nothing was searched yet: call search(score_func, constraints, …) first")
        return self._searched

    def _header(self, budget: Budget, evaluator: Evaluator) -> dict[str, Any]:
        return {
            "method": "one step",
            "model": self.graph.fingerprint,
            "weights": digest_of_weights(self.model),
            "constraints": budget.to_json(),
            "criterion": [self._criterion.name, described(self._criterion)],
            "limits": plain(dict(self.limits)),
            "seed": self._seed,
            "data": [described(evaluator.score_func), described(evaluator.data)],
        }


def _removed(budget: Budget) -> float:
    """The share that the tightest bound removes, which is what random candidates are spread around."""
    return round(max(1 - bound.most / max(bound.whole, 1) for bound in budget.entries), 4)


def _write_results(journal: Path, results: Sequence[Candidate]) -> None:
    """The results beside their journal, best first, replaced at once."""
    place = journal / "results.json" if journal.is_dir() else journal.with_suffix(".results.json")
    temporary = place.with_name(place.name + ".new")
    # written aside and put in its place: nobody ever reads half a list
    temporary.write_text(json.dumps([asdict(candidate) for candidate in results], indent=1) + "\n", "utf-8")
    os.replace(temporary, place)


def _check_count(name: str, count: object) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"{name} is a whole number, at least 1, not {count!r}")
