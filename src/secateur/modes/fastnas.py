"""``mode="fastnas"``: measure what narrowing each width costs, then go down everywhere to one common loss.

    for each width, the others whole:  narrow ──► batch norm measured again ──► score_func ──► drop of the score
    drops by count ──► curves that never rise ──► the smallest threshold that meets the budget ──► plans ──► the best

Recommended for vision models where there is a score to evaluate and time for some hundred evaluations.

Invariant: with a ``checkpoint`` a finished evaluation is never lost and never made again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pydantic import Field

from secateur.core.options import only_noted
from secateur.core.plan import Plan
from secateur.errors import ConfigError
from secateur.modes.journalled import journal_path, origin
from secateur.modes.task import MODES, CriterionOption, Mode, Task
from secateur.modes.thresholds import allocated_under, plan_under, ranked_for
from secateur.search.alive import check_alive
from secateur.search.chosen import Agreements, best_of
from secateur.search.evidence import Evidence, Found, Quality
from secateur.search.journal import Journal, name_of
from secateur.search.measured import Measured, is_evaluation
from secateur.search.ranked import Judge, Ranked
from secateur.search.sensitivity import EVENNESS, Sensitivity, curves
from secateur.search.survey import Grid, most_telling, surveyed
from secateur.search.threshold import Objective

_FEW = 20  # evaluations after which a search with more of them looks at its plans once before


@MODES.add("fastnas")
class FastNAS(Mode):
    """Options of the fastnas mode, beside those of all modes; ``score_func`` is needed.

    Each candidate is given to ``score_func`` in evaluation mode, without gradients, its batch norm measured again. On top of
    ``max_evaluations`` come the whole network and at most ten plans: by the thresholds, those after 20 evaluations too, and
    by the criterion alone. The best is taken, by its score and, with data, its agreement with the whole network, so that
    the search does not follow the luck of its score's samples.
    """

    checkpoint: str | Path | None = None
    """A folder or file for the journal: an interrupted search goes on there, one with other constraints uses it."""
    max_evaluations: int | None = Field(default=None, ge=1)
    """How many networks are measured, where it tells most; None: all points of all widths."""
    most_points: int = Field(default=8, ge=1)
    """How many counts of a width are measured, evenly spaced, with the smallest; lines are drawn between."""
    batch_norm_samples: int = Field(default=256, ge=1)
    """How many samples batch norm is measured on again for each candidate, within num_batches."""
    reuse: bool = True
    """Compute once what a candidate shares with the whole network; False if score_func measures time."""
    criterion: CriterionOption = "l1"
    """What ranks the units of a width."""
    objective: Objective = "largest"
    """What is made small: the "largest" drop of the score by any width, or the "sum" of all."""
    seed: int = Field(default=0, ge=0)
    """What every evaluation begins with."""

    def search(self, task: Task) -> Found:
        """Measure sensitivities, find thresholds, and take the plan that scores best."""
        if self.score_func is None:
            raise ConfigError("config: fastnas needs a score_func(model) that gives a number, higher is better")
        task.tell(0.0, "ranking units")
        judge = task.frontend.judge(self.criterion, seed=self.seed)
        ranked = ranked_for(task, self, judge)
        with self._journal(task, judge) as journal:
            measure = task.frontend.evaluator(
                self.score_func, seed=self.seed, samples=self._samples(task), reuse=self.reuse
            )
            measured = Measured(journal, measure, task.frontend.ranks)
            grid = Grid.evenly(ranked.search_space, most=self.most_points)
            sensitivity = surveyed(ranked, grid, most_telling, measured, most=self.max_evaluations, tell=task.tell)
            task.tell(1.0, "weighing whole plans")
            plans = self._plans(task, ranked, sensitivity)
            if self.max_evaluations is None or self.max_evaluations > _FEW:
                # every point is noisy: the more are followed, the more a plan is shaped by that
                early = surveyed(ranked, grid, most_telling, measured, most=_FEW, tell=lambda share, word: None)
                plans |= {f"{name}, early": plan for name, plan in self._plans(task, ranked, early).items()}
            name, plan, candidates = best_of(
                plans, measured, task.graph, whole=sensitivity.whole, agreements=self._agreements(task)
            )
        if self.compensate == "none":  # else what comes of it is looked at once it is compensated
            self._check_alive(task, sensitivity.whole, candidates[0].score)
        made = {"mode": "fastnas", "chosen": name, "score": candidates[0].score, "whole": sensitivity.whole}
        evidence = Evidence(
            method="fastnas",
            sensitivity=sensitivity,
            curves=curves(ranked.search_space, sensitivity),
            sizes=plan.sizes,
            candidates=candidates,
            quality=Quality(measure="score_func", whole=sensitivity.whole, narrowed=candidates[0].score),
            num_measured=measured.num_made,
            num_read=measured.num_read,
        )
        return Found(plan=replace(plan, provenance={**plan.provenance, **made}), evidence=evidence)

    def _plans(self, task: Task, ranked: Ranked, sensitivity: Sensitivity) -> dict[str, Plan]:
        """What could be done under the budget: by the thresholds, the objective's first, and without looking at them."""

        def planned(objective: Objective, evenness: float) -> Plan:
            return plan_under(ranked, lambda space: curves(space, sensitivity, evenness), task, objective, {})

        objectives = sorted(get_args(Objective), key=lambda objective: objective != self.objective)
        plans = {objective: planned(objective, 0.0) for objective in objectives}
        plans |= {f"{objective}, evened": planned(objective, EVENNESS) for objective in objectives}
        return plans | {name: allocated_under(ranked, task, name) for name in ("global", "uniform")}

    def _agreements(self, task: Task) -> Agreements | None:
        """How far plans give the whole network's answers on the data, which the score need not have seen."""
        agreement = task.frontend.agreement()
        if agreement is None:
            return None
        measure = task.frontend.evaluator(agreement, seed=self.seed, samples=self._samples(task), reuse=False)
        whole = {"": task.graph.plan({})}  # what is looked at first is what is agreed with

        def measured(plans: Mapping[str, Plan]) -> dict[str, float | None]:
            return {name: found.value for name, found in measure({**whole, **plans}, ())}

        return measured

    def _check_alive(self, task: Task, whole: float, score: float | None) -> None:
        tried = "" if self.max_evaluations is None else f", measure more (max_evaluations, now {self.max_evaluations})"
        check_alive(
            -math.inf if score is None else score,
            whole,
            lambda: task.frontend.constant_score(self.score_func, seed=self.seed),
            f'Give each width a floor (floor=0.2){tried}, give back what goes (compensate="least_squares"), or raise the bound.',
        )

    def _samples(self, task: Task) -> int | None:
        return self.batch_norm_samples if task.frontend.has_data else None

    def _journal(self, task: Task, judge: Judge) -> Journal:
        """The journal with all that an evaluation depends on; on disk for rank 0 alone."""
        if self.checkpoint is None:
            return Journal.open(None, {})
        with only_noted():
            header = {
                "method": "fastnas",
                **origin(task.graph, judge, task.frontend, seed=self.seed),
                "num_batches": self.num_batches,
                "batch_norm_samples": self.batch_norm_samples,
                "score_func": name_of(self.score_func),
                "seed": self.seed,
                "constraints": task.budget.to_json(),
            }
        path = None if task.frontend.ranks.number else journal_path(self.checkpoint, task.graph, self.steps)
        return Journal.open(path, header, may_differ={"constraints"}, fits=is_evaluation)
