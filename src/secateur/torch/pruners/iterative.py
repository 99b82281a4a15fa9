"""Iterative pruning: measure once how much each width matters, then prune to any size, in rounds with training between.

    pruner = IterativePruner(model, dummy_input)
    pruner.analyze(score_func, data_loader=loader)      every width alone at a few counts; once, resumable
    for share in ("70%", "50%", "40%"):
        model, result = pruner.mask({"macs": share})    masks; the same parameters, the same optimizer
        train(model)
    small, result = pruner.narrow()                     narrowed

Shares are of the original network, however many rounds there were.

Invariant: units once masked stay masked, so the kept sets of later rounds lie within those of earlier ones.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from secateur.core.budget import Budget
from secateur.core.given import check_given
from secateur.core.plan import Plan
from secateur.core.verification import Verification
from secateur.errors import ArtifactError, InputError, PlanError
from secateur.modes.result import PruneResult, result_of
from secateur.progress import progress
from secateur.search.evidence import Evidence, Found, Quality
from secateur.search.journal import Journal
from secateur.search.limits import Limits, restrict
from secateur.search.measured import Measured, is_evaluation
from secateur.search.ranked import Ranked, gives_back, judged, planned, within
from secateur.search.sensitivity import Sensitivity
from secateur.search.survey import WHOLE, Grid, in_turn, key_of, surveyed
from secateur.search.threshold import Objective, choose
from secateur.torch.apply import apply, verification_of
from secateur.torch.criteria.judge import judge_of
from secateur.torch.criteria.protocol import Criterion, make
from secateur.torch.evaluating.evaluator import Evaluator
from secateur.torch.evaluating.processes import measuring
from secateur.torch.evaluating.reading import ScoreFunc
from secateur.torch.evaluating.worth import quality_of
from secateur.torch.narrowing.beside import beside
from secateur.torch.narrowing.history import history_of
from secateur.torch.narrowing.masks import check_whole, mask_plan, without_masks
from secateur.torch.running.data import Data
from secateur.torch.running.digests import described, digest_of_weights
from secateur.torch.trace import trace

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Wish = Budget | float  # what the network may cost, or the largest loss that a width may have


class IterativePruner:
    """Prune a ``model`` in rounds. ``dummy_input`` is an example input; ``criterion`` says which units of a width go first.

    ``limits`` narrow the search space, as a dict or a `Limits`. It has state because the masks of one round bind the next:
    ``plan`` is what was decided last (None before), and ``sensitivity`` what `analyze` measured.
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: object,
        *,
        criterion: str | Criterion = "l1",
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.graph = trace(model, dummy_input)
        self.limits = Limits.read(limits)
        self.plan: Plan | None = None
        self.sensitivity: Sensitivity | None = None
        self._criterion = make(criterion)
        self._evaluator: Evaluator | None = None

    def analyze(
        self,
        score_func: ScoreFunc,
        *,
        ratios: Sequence[float] = RATIOS,
        data_loader: Iterable[Any] | Data | None = None,
        checkpoint: str | Path | None = None,
    ) -> Sensitivity:
        """Measure the score with each width alone narrowed.

        ``score_func(model)`` gives a number, higher is better; ``ratios`` are the shares of its units that each width loses.
        With a ``data_loader`` (a loader, or a `Data`) batch-norm statistics are measured again for each network. With a
        ``checkpoint`` (a file or a folder) every result is kept there: nothing finished is measured twice, in no later run.
        The model is not changed.

        Raises InputError for arguments that cannot be used, ArtifactError where the file is of another analysis.
        """
        _check_ratios(ratios)
        data = None if data_loader is None else Data.of(data_loader)
        header = {
            "method": "iterative",
            "model": self.graph.fingerprint,
            "criterion": [self._criterion.name, described(self._criterion)],
            "data": [described(score_func), described(data)],
        }
        with self._bare(), Journal.open(checkpoint, header, fits=_fits) as journal, progress("analyze") as tell:
            ranked = self._ranked()
            grid = Grid.nearest_to(ranked.search_space, ratios)
            self._check_weights(journal, grid)
            self._evaluator = evaluator = Evaluator(model=self.model, score_func=score_func, data=data)
            with measuring(evaluator) as measure:
                self.sensitivity = surveyed(ranked, grid, in_turn, Measured(journal, measure), tell=tell)
        return self.sensitivity

    def mask(
        self,
        constraints: Mapping[str, Any] | None = None,
        *,
        threshold: float | None = None,
        objective: Objective = "largest",
    ) -> tuple[nn.Module, PruneResult]:
        """Mask the model in place; it is returned to be trained further.

        ``constraints`` are what it is to meet; ``threshold``, in their place, the share of the score that each width may lose.
        ``objective`` is what is made small to meet them: the ``"largest"`` loss of any width, or the ``"sum"`` of all.

        Raises InputError for arguments that cannot be used, Infeasible where no network is small enough, DeadNetwork where
        what is left is no better than a constant; then nothing is masked.
        """
        started = time.perf_counter()
        with self._bare():
            before, found = self.plan, self._found(self._wish(constraints, threshold), objective)
            self.plan = found.plan
        if before is not None and before.sizes == found.plan.sizes:
            warnings.warn(
                "nothing more was masked: what earlier rounds masked meets this already, and stays masked. Ask for less than "
                "before, or begin again on a fresh model",
                stacklevel=2,
            )
        unproved = Verification.none_made("masked, not narrowed: narrow() compares the two")
        return self.model, self._result(found, unproved, plan=time.perf_counter() - started)

    def narrow(
        self,
        constraints: Mapping[str, Any] | None = None,
        *,
        threshold: float | None = None,
        objective: Objective = "largest",
    ) -> tuple[nn.Module, PruneResult]:
        """What is masked so far, narrowed: a new model.

        With ``constraints`` or a ``threshold`` and an ``objective`` what goes is first decided as in `mask`.
        The model and its masks stay as they are. Raises InputError where there is nothing to narrow, and as `mask`.
        """
        started = time.perf_counter()
        with self._bare():
            if constraints is None and threshold is None:
                found = Found(plan=self._masked(), evidence=self._evidence(self._masked()))
            else:
                found = self._found(self._wish(constraints, threshold), objective)
            planned = time.perf_counter()
            small = apply(self.model, found.plan)  # without masks: these are as wide as the whole network
        verification = verification_of(small)
        assert verification is not None
        seconds = {"plan": planned - started, "apply": time.perf_counter() - planned - verification.seconds}
        return small, self._result(found, verification, small, **seconds)

    def narrowed_state_dict(self) -> dict[str, torch.Tensor]:
        """The state dict that `narrow` would give (copies), for checkpoints while training goes on under masks.

        Nothing is verified here. Raises InputError where nothing was pruned.
        """
        with self._bare():
            state = beside(self.model, self._masked()).state_dict()
            for name, tensor in state.items():
                state[name] = tensor.clone() if isinstance(tensor, torch.Tensor) else tensor
            return state

    def resume(self, plan: Plan) -> nn.Module:
        """Put the masks of an earlier run's ``plan`` on, to load its weights and go on; the masked model.

        Raises PlanError where the plan is another model's, InputError where it would give units back.
        """
        check_given("resume", "plan", plan, Plan)
        if plan.fingerprint != self.graph.fingerprint:
            raise PlanError("the plan was made for another architecture: resume with the one that was pruned")
        restored = self.graph.plan(plan.kept, plan.provenance)
        if self.plan is not None and gives_back(restored, self.plan):
            raise InputError("the plan keeps units that are pruned here already: resume on a fresh model")
        with self._bare():
            self.plan = restored
        return self.model

    def _masked(self) -> Plan:
        if self.plan is None:
            raise InputError('nothing is pruned yet: call mask({"macs": "60%"}) first')
        return self.plan

    @contextmanager
    def _bare(self) -> Iterator[None]:
        """The model without masks, zeros where they were, for the length of a block; then with those of the plan."""
        if self.plan is not None:
            check_whole(self.model, self.plan)  # somebody may have narrowed it since
        with nullcontext() if self.plan is None else without_masks(self.model):
            try:
                yield
            finally:
                if self.plan is not None:
                    mask_plan(self.model, self.plan)

    def _ranked(self) -> Ranked:
        return judged(restrict(self.graph, self.limits), judge_of(self._criterion, self.model))

    def _wish(self, constraints: Mapping[str, Any] | None, threshold: float | None) -> Wish:
        if (constraints is None) == (threshold is None):
            raise InputError("give constraints or a threshold (of relative loss), one of them")
        if constraints is not None:
            return Budget.of(constraints, self.graph)
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not threshold >= 0:
            raise InputError(f"threshold is a relative loss of score, at least 0, not {threshold!r}")
        return float(threshold)

    def _found(self, wish: Wish, objective: Objective) -> Found:
        if objective not in get_args(Objective):
            raise InputError(f"objective is one of {', '.join(get_args(Objective))}, not {objective!r}")
        sensitivity, ranked = self._measured(), self._ranked()
        # without a curve nobody knows what narrowing it loses, and a guess of nothing would take it first
        others = [w.name for w in ranked.search_space.widths if w.name not in sensitivity.scores]
        ranked = replace(ranked, search_space=ranked.search_space.frozen(others, "not analysed"))
        if self.plan is not None:
            ranked = within(ranked, self.plan)
        if isinstance(wish, Budget):
            plan = planned(ranked, lambda space: choose(space, sensitivity.curves(space.free), wish, objective))
        else:
            plan = planned(ranked, lambda space: sensitivity.counts(space.free, wish))
        record = {
            "method": "iterative",
            "budget": wish.to_json() if isinstance(wish, Budget) else None,
            "costs": {metric: int(self.graph.cost(metric, plan.sizes)) for metric in self.graph.costs},
            "threshold": sensitivity.threshold(self.graph.free, plan.sizes),
        }
        made = replace(plan, graph=self.graph, provenance=record)
        return Found(plan=made, evidence=replace(self._evidence(made), quality=self._quality(made)))

    def _quality(self, plan: Plan) -> Quality | None:
        """What a plan is worth by the score of the analysis, asked once."""
        if self._evaluator is None:
            return None
        return quality_of(self._measured().whole, self._evaluator(plan).value, self._evaluator)

    def _measured(self) -> Sensitivity:
        if self.sensitivity is None:
            raise InputError("call analyze(score_func, …) first: it measures what each width is worth")
        return self.sensitivity

    def _evidence(self, plan: Plan) -> Evidence:
        if self.sensitivity is None:  # resumed, and narrowed without an analysis
            return Evidence(method="iterative")
        analysed = [width for width in self.graph.free if width.name in self.sensitivity.scores]
        curves = self.sensitivity.curves(analysed)
        return Evidence(method="iterative", sensitivity=self.sensitivity, curves=curves, sizes=plan.sizes)

    def _result(
        self, found: Found, verification: Verification, small: nn.Module | None = None, **seconds: float
    ) -> PruneResult:
        return result_of(
            self.graph,
            found.plan,
            found.evidence,
            verification,
            history=None if small is None else history_of(small),
            seconds={**self.graph.seconds, **seconds, "verify": verification.seconds},
        )

    def _check_weights(self, journal: Journal, grid: Grid) -> None:
        """A finished analysis serves later rounds, too; but one that is half done goes on with the weights it began with."""
        keys = [WHOLE, *(key_of((name, count)) for name, counts in grid.points.items() for count in counts)]
        missing = [key for key in keys if key not in journal]
        digest = {"sha256": digest_of_weights(self.model)}
        begun = journal.get("weights")
        if not missing:
            if begun is not None and dict(begun) != digest:
                warnings.warn(
                    "the analysis in this checkpoint was made with other weights, and is taken as it is: right for a later round "
                    "of the same network, trained on since. Choose another checkpoint to measure anew",
                    stacklevel=3,
                )
            return
        if begun is None:
            journal.record("weights", digest)
        elif dict(begun) != digest:
            raise ArtifactError(
                f"the analysis lacks {len(missing)} evaluations, {missing[0]} first, and was begun with other weights. "
                "Load those weights to finish it, or choose another checkpoint"
            )


def _fits(key: str, values: Mapping[str, object]) -> bool:
    """Whether this is what an analysis records: the weights that it was begun with, or an evaluation."""
    return list(values) == ["sha256"] if key == "weights" else is_evaluation(key, values)


def _check_ratios(ratios: Sequence[float]) -> None:
    given = isinstance(ratios, Sequence) and all(isinstance(r, Real) and 0 < r < 1 for r in ratios)
    if not given or not ratios:
        raise InputError(f"ratios are removal ratios between 0 and 1, at least one, not {ratios!r}")
