"""One-step pruning: measure many networks of the wanted cost, and take the best.

    pruner = OneStepPruner(model, dummy_input)
    pruner.search(None, (train_loader,), eval_fn, (val_loader,), num_subnet=100, removal_ratio=0.7, path="search")
    small = pruner.prune()                              the best; prune(3) is candidate number 3, prune(0) the first

Every candidate fills the budget; its batch norms are calibrated before it is judged (EagleEye, Li et al., ECCV 2020); and
from the third round on most candidates come from the best so far.

Invariant: same seed, same results, in however many processes and however often interrupted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.errors import ArtifactError, InputError
from secateur.progress import Tell, progress
from secateur.search.journal import Journal
from secateur.search.limits import Limits, restrict
from secateur.search.proposals import Proposer, round_of
from secateur.search.ranked import Ranked, budget_of, judged, planned
from secateur.torch.apply import apply
from secateur.torch.criteria.protocol import Criterion, make
from secateur.torch.evaluating.processes import Measure, Trial, measuring
from secateur.torch.evaluating.score import EvalFn, Running, check_args
from secateur.torch.running.digests import described, digest_of_weights
from secateur.torch.trace import trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One network that was measured.

    ``index`` counts candidates from 0; ``share`` of the data was seen (1.0, or less where it was abandoned); ``score`` is
    None where it was no number; ``sizes`` are the counts of the narrowed widths; ``macs`` what it costs.
    """

    index: int
    score: float | None
    share: float
    macs: int
    sizes: Mapping[str, int]
    running: Running = ()

    @property
    def finished(self) -> bool:
        """Whether it was judged on all of the data, and the score is a number."""
        return self.share >= 1 and self.score is not None


class OneStepPruner:
    """Search for the best network of a given cost. ``dummy_input`` is an example input.

    ``criterion`` says which units of a width stay; ``exclude`` are names or patterns of what is left whole;
    ``multiple_of`` rounds widths. It has state because `search` fills ``results`` (best first) and `prune` reads them.
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        *,
        criterion: str | Criterion = "l1",
        exclude: Collection[str] = (),
        multiple_of: int = 1,
    ) -> None:
        self.model = model
        self.graph = trace(model, dummy_input)
        self.results: tuple[Candidate, ...] = ()
        self._criterion = make(criterion)
        self._limits = Limits(exclude=exclude, multiple_of=multiple_of)
        self._ranked: Ranked | None = None
        self._trial: Trial | None = None

    def search(
        self,
        calibration_fn: Callable[..., Any] | None,
        calib_args: Sequence[Any],
        eval_fn: EvalFn,
        eval_args: Sequence[Any],
        num_subnet: int,
        removal_ratio: float,
        *,
        path: str | Path | None = None,
        seed: int = 0,
        num_processes: int = 1,
    ) -> tuple[Candidate, ...]:
        """Measure ``num_subnet`` networks with ``removal_ratio`` of the MACs removed; the results, best first.

        ``calibration_fn(model, *calib_args)`` runs the model in training mode so that batch norms see data; None takes
        ``calib_args[0]`` for a data loader, and nothing where there is none. ``eval_fn(model, *eval_args)`` gives a score,
        higher is better; as a generator of (share of the data, score so far) it is abandoned where it falls behind.
        ``path`` (a file or a folder) keeps every result: nothing finished is measured twice; a larger ``num_subnet`` goes
        on. ``num_processes`` above 1 needs functions and arguments that can be pickled.

        Fewer networks come back where the search space has no more. Raises InputError for arguments that cannot be used,
        Infeasible where no network is small enough, ArtifactError where the file is of another search.
        """
        _check_counts(num_subnet, num_processes)
        check_args(calib_args, "calib_args")
        check_args(eval_args, "eval_args")
        budget = budget_of(removal_ratio, self.graph)
        ranked = judged(restrict(self.graph, self._limits), self._criterion, self.model)
        proposer = Proposer(graph=ranked.space, budget=budget, removal_ratio=removal_ratio, seed=seed)
        trial = Trial(
            model=self.model,
            calibration_fn=calibration_fn,
            calib_args=tuple(calib_args),
            eval_fn=eval_fn,
            eval_args=tuple(eval_args),
            seed=seed,
        )
        header = {
            "method": "one step",
            "model": self.graph.fingerprint,
            "weights": digest_of_weights(self.model),
            "constraints": {"removal_ratio": removal_ratio},
            "criterion": [self._criterion.name, described(self._criterion)],
            "limits": described(asdict(self._limits)),
            "seed": seed,
            "data": [described(part) for part in (calibration_fn, trial.calib_args, eval_fn, trial.eval_args)],
        }
        with (
            Journal.open(path, header) as journal,
            measuring(trial, num_processes) as measure,
            progress("search") as tell,
        ):
            found = _Hunt(ranked, proposer, journal, measure).run(num_subnet, tell)
        self._ranked, self._trial = ranked, trial
        self.results = tuple(sorted(found, key=_best_first))
        if path is not None:
            _write_results(Path(path), self.results)
        return self.results

    def prune(self, index: int | None = None) -> nn.Module:
        """The network of a candidate, narrowed and calibrated: a new model. None is the best, 0 the first.

        Raises InputError where there was no search, or no such candidate.
        """
        narrowed = apply(self.model, self.plan(index))
        assert self._trial is not None
        self._trial.calibrate(narrowed)
        return narrowed

    def plan(self, index: int | None = None) -> Plan:
        """The plan of a candidate; None is the best, 0 the first. Raises InputError where there is none."""
        if self._ranked is None or not self.results:
            raise InputError("nothing was searched yet: call search(…) first")
        if index is None:
            index = self.results[0].index
        by_index = {candidate.index: candidate for candidate in self.results}
        if isinstance(index, bool) or index not in by_index:
            raise InputError(f"there is no candidate {index!r}: they have numbers from 0 to {max(by_index)}")
        candidate = by_index[index]
        record = {"method": "one step", "index": candidate.index, "score": candidate.score, "macs": candidate.macs}
        found = planned(self._ranked, lambda space: candidate.sizes)
        return replace(found, graph=self.graph, provenance=record)


class _Hunt:
    """One search: rounds of candidates whose members do not wait for each other."""

    def __init__(self, ranked: Ranked, proposer: Proposer, journal: Journal, measure: Measure) -> None:
        self.ranked, self.proposer, self.journal, self.measure = ranked, proposer, journal, measure

    def run(self, num_subnet: int, tell: Tell) -> list[Candidate]:
        found: list[Candidate] = []
        while len(found) < num_subnet:
            tell(len(found) / num_subnet, f"candidate {len(found)} of {num_subnet}")
            wanted = range(len(found), min(round_of(len(found)).stop, num_subnet))
            plans = self._proposed(wanted, found)
            self._record(plans, found)
            found += [self._read(index, plan) for index, plan in plans.items()]
            if len(plans) < len(wanted):
                break
        return found

    def _proposed(self, indices: range, found: list[Candidate]) -> dict[int, Plan]:
        earlier = [candidate.sizes for candidate in found]
        scores = [candidate.score if candidate.finished else None for candidate in found]
        plans: dict[int, Plan] = {}
        for index in indices:
            counts = self.proposer.propose(index, earlier, scores)
            if counts is None:
                break
            plans[index] = planned(self.ranked, partial(_at_most, counts))
            earlier = [*earlier, self._sizes(plans[index])]
        return plans

    def _record(self, plans: Mapping[int, Plan], found: list[Candidate]) -> None:
        rivals = [candidate.running for candidate in found if candidate.finished]
        missing = {index: plan for index, plan in plans.items() if str(index) not in self.journal}
        for index, score in self.measure(missing, rivals):
            self.journal.record(str(index), {"sizes": self._sizes(plans[index]), **asdict(score)})

    def _read(self, index: int, plan: Plan) -> Candidate:
        known, sizes = self.journal.get(str(index)), self._sizes(plan)
        assert known is not None
        if known["sizes"] != sizes:
            raise ArtifactError(
                f"candidate {index} of the journal is another network than this version of Secateur proposes: "
                "choose another path to search anew"
            )
        return Candidate(
            index=index,
            score=known["value"],
            share=known["share"],
            macs=int(self.ranked.space.cost("macs", sizes)),
            sizes=sizes,
            running=tuple((share, score) for share, score in known["running"]),
        )

    def _sizes(self, plan: Plan) -> dict[str, int]:
        return {width.name: plan.sizes[width.name] for width in self.ranked.space.free}


def _at_most(counts: Mapping[str, int], space: Graph) -> dict[str, int]:
    """The largest choices that are not above these counts."""
    return {w.name: max((c for c in w.choices if c <= counts[w.name]), default=w.choices[0]) for w in space.free}


def _best_first(candidate: Candidate) -> tuple[bool, float, int]:
    score = candidate.score if candidate.score is not None else -math.inf
    return not candidate.finished, -score, candidate.index


def _write_results(journal: Path, results: Sequence[Candidate]) -> None:
    """The results beside their journal, best first, replaced at once."""
    place = journal / "results.json" if journal.is_dir() else journal.with_suffix(".results.json")
    temporary = place.with_name(place.name + ".new")
    temporary.write_text(json.dumps([asdict(candidate) for candidate in results], indent=1) + "\n", "utf-8")
    os.replace(temporary, place)


def _check_counts(num_subnet: Any, num_processes: Any) -> None:
    for name, count in (("num_subnet", num_subnet), ("num_processes", num_processes)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"{name} is a whole number, at least 1, not {count!r}")
