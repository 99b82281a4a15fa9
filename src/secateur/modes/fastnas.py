"""``mode="fastnas"``: measure what narrowing each width costs, then go down everywhere to one common loss.

    for each width, the others whole:  narrow ──► batch norm measured again ──► score_func ──► drop of the score
    drops by count ──► curves that never rise ──► the smallest threshold that meets the budget ──► plan

Recommended for vision models where there is a score to evaluate and time for some hundred evaluations.

Invariant: with a ``checkpoint`` a finished evaluation is never lost and never made again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from secateur.core.graph import Graph
from secateur.modes.journalled import journal_path, origin
from secateur.modes.task import MODES, CriterionOption, Mode, Task
from secateur.modes.thresholds import plan_under, ranked_for
from secateur.search.evidence import Evidence, Found
from secateur.search.journal import Journal, name_of
from secateur.search.measured import Measured
from secateur.search.ranked import Judge, Ranked
from secateur.search.sensitivity import Sensitivity, curves
from secateur.search.survey import Grid, most_telling, surveyed
from secateur.search.threshold import Curves, Objective


@MODES.add("fastnas")
class FastNAS(Mode):
    """Options of the fastnas mode.

    ``score_func(model)`` gives a number, higher is better; each candidate is given in evaluation mode, without gradients.
    Batch norm is measured again for each on ``num_batches`` of the ``data_loader``, or on fewer that hold
    ``batch_norm_samples``. What a candidate computes as the whole network does is computed once (``reuse``; give
    ``reuse=False`` if ``score_func`` measures time).
    ``checkpoint`` is a folder or file for the journal: a search that was interrupted goes on there, and one with other
    constraints, limits or ``max_evaluations`` uses what is there. ``most_points`` counts of a width are measured, evenly
    spaced with the smallest, and lines drawn between; ``max_evaluations`` (that of the whole network comes on top) are
    spent where they tell most. ``criterion`` ranks the units of a width; ``objective`` is what is made small, the
    ``"largest"`` drop or the ``"sum"`` of all; ``seed`` is what every evaluation begins with.
    """

    score_func: Callable[..., Any]
    checkpoint: str | Path | None = None
    max_evaluations: int | None = Field(default=None, ge=1)
    most_points: int = Field(default=8, ge=1)
    batch_norm_samples: int = Field(default=256, ge=1)
    reuse: bool = True
    criterion: CriterionOption = "l1"
    objective: Objective = "largest"
    seed: int = 0

    def search(self, task: Task) -> Found:
        """Measure sensitivities, then find the threshold."""
        task.tell(0.0, "ranking units")
        judge = task.frontend.judge(self.criterion, seed=self.seed)
        ranked = ranked_for(task, self, judge)
        with self._journal(task, judge) as journal:
            measure = task.frontend.evaluator(
                self.score_func, seed=self.seed, samples=self.batch_norm_samples, reuse=self.reuse
            )
            measured = Measured(journal, measure, task.frontend.ranks)
            sensitivity = self._sensitivity(ranked, measured, task)
        return self._found(ranked, sensitivity, measured, task)

    def _sensitivity(self, ranked: Ranked, measured: Measured, task: Task) -> Sensitivity:
        grid = Grid.evenly(ranked.search_space, most=self.most_points)
        return surveyed(ranked, grid, most_telling, measured, most=self.max_evaluations, tell=task.tell)

    def _found(self, ranked: Ranked, sensitivity: Sensitivity, measured: Measured, task: Task) -> Found:
        def curves_in(search_space: Graph) -> Curves:
            return curves(search_space, sensitivity.drops)

        num_evaluations = measured.num_made + measured.num_read
        made = {"mode": "fastnas", "score": sensitivity.whole, "evaluations": num_evaluations}
        plan = plan_under(ranked, curves_in, task, self.objective, made)
        evidence = Evidence(
            method="fastnas",
            sensitivity=sensitivity,
            curves=curves_in(ranked.search_space),
            sizes=plan.sizes,
            num_measured=measured.num_made,
            num_read=measured.num_read,
        )
        return Found(plan=plan, evidence=evidence)

    def _journal(self, task: Task, judge: Judge) -> Journal:
        """The journal with all that an evaluation depends on; on disk for rank 0 alone."""
        if self.checkpoint is None:
            return Journal.open(None, {})
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
        return Journal.open(path, header, may_differ={"constraints"})
