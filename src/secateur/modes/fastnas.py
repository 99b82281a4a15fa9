"""``mode="fastnas"``: measure what narrowing each width costs, then go down everywhere to one common loss.

    for each width, the others whole:  narrow ──► batch norm measured again ──► score_func ──► drop of the score
    drops by count ──► curves that never rise ──► the smallest threshold that meets the budget ──► plan

Recommended for vision models where there is a score to evaluate and time for some hundred evaluations.

Invariant: with a ``checkpoint`` a finished evaluation is never lost and never made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from rich.console import Console

from secateur.compat.modelopt import modelopt_spelling
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.show import text_table
from secateur.core.text import visible
from secateur.errors import Coincidence
from secateur.modes.curves import plan_under, ranked_for
from secateur.modes.journalled import journal_path, origin
from secateur.modes.task import MODES, CriterionOption, Mode, Task
from secateur.search.journal import Journal
from secateur.search.ranked import Ranked
from secateur.search.sensitivity import Survey, curves, next_point
from secateur.search.threshold import Objective
from secateur.torch.criteria.protocol import make
from secateur.torch.evaluating.evaluator import Scorer
from secateur.torch.running.digests import name_of
from secateur.torch.running.distributed import rank, reduce_sum, world_size
from secateur.torch.running.randomness import seeded

WHOLE = "whole"


@MODES.add("fastnas")
class FastNAS(Mode):
    """Options of the fastnas mode.

    ``score_func(model)`` gives a number, higher is better; each candidate is given in evaluation mode, without gradients.
    Batch norm is measured again for each on ``num_batches`` (or ``max_iter_data_loader``) of the ``data_loader``, or on
    fewer that hold ``batch_norm_samples``. What a candidate computes as the whole network does is computed once (``reuse``;
    give ``reuse=False`` if ``score_func`` measures time).
    ``checkpoint`` is a folder or file for the journal: a search that was interrupted goes on there, and one with other
    constraints, limits or ``max_evaluations`` uses what is there. ``most_points`` counts of a width are measured, evenly
    spaced with the smallest, and lines drawn between; ``max_evaluations`` (that of the whole network comes on top) are
    spent where they tell most. ``criterion`` ranks the units of a width; ``objective`` is what is made small, the
    ``"largest"`` drop or the ``"sum"`` of all; ``seed`` is what every evaluation begins with. Module types beside the
    options are ``rules``.
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

    _spelling = model_validator(mode="before")(modelopt_spelling)

    def search(self, task: Task) -> Plan:
        """Measure sensitivities, then find the threshold."""
        task.tell(0.0, "ranking units")
        with seeded(self.seed):
            ranked = ranked_for(task, self, make(self.criterion, task.data))
        scorer = Scorer(
            task.model, task.data, self.score_func, self.seed, samples=self.batch_norm_samples, reuse=self.reuse
        )
        path = None if self.checkpoint is None or rank() > 0 else journal_path(self.checkpoint, task, self.steps)
        with Journal.open(path, self._header(task, ranked), may_differ={"constraints"}) as journal:
            analysis = _Analysis(task, ranked, scorer, journal)
            survey, drops = analysis.run(self.most_points, self.max_evaluations)
        made = {"mode": "fastnas", "score": analysis.whole, "evaluations": analysis.num_evaluations}
        plan = plan_under(ranked, lambda space: curves(_in(survey, space), drops), task, self.objective, made)
        if self.verbose:
            Console().print(_table(survey, drops, plan), markup=False, highlight=False)
        return plan

    def _header(self, task: Task, ranked: Ranked) -> dict[str, Any]:
        """What an evaluation depends on."""
        if self.checkpoint is None:
            return {}
        return {
            "method": "fastnas",
            **origin(task, task.data, ranked.made_by, self.seed),
            "num_batches": self.num_batches,
            "batch_norm_samples": self.batch_norm_samples,
            "score_func": name_of(self.score_func),
            "seed": self.seed,
            "constraints": task.budget.to_json(),
        }


class _Analysis:
    """The sensitivity analysis; it has state because evaluations are counted and remembered as they are made."""

    def __init__(self, task: Task, ranked: Ranked, scorer: Scorer, journal: Journal) -> None:
        self.task, self.ranked, self.scorer, self.journal = task, ranked, scorer, journal
        self.whole = 0.0
        self.num_evaluations = 0

    def run(self, most_points: int, most: int | None) -> tuple[Survey, dict[str, dict[int, float]]]:
        """Measure until nothing more can be learnt, or the allowance is spent."""
        survey = Survey.of(self.ranked.space, most=most_points)
        drops: dict[str, dict[int, float]] = {}
        self.whole = self._score(WHOLE, self.task.graph.plan({}))
        allowed = survey.num_points if most is None else min(most, survey.num_points)
        while self.num_evaluations <= allowed and (point := next_point(survey, drops)) is not None:
            name, count = point
            self.task.tell(self.num_evaluations / (allowed + 1), f"{visible(name)} = {count}")
            try:
                plan = self.task.graph.plan(self.ranked.kept({name: count}))
            except Coincidence:  # the code tells this size apart from another one
                survey = survey.without(name, count)
                continue
            drops.setdefault(name, {})[count] = self.whole - self._score(f"{name}={count}", plan)
        return survey, drops

    def _score(self, key: str, plan: Plan) -> float:
        """The score under this key: from the journal, or measured, then in the journal; one for all ranks."""
        self.num_evaluations += 1
        found = self.journal.get(key)
        known = torch.tensor([0.0, 0.0] if found is None or rank() else [1.0, found["score"]], dtype=torch.float64)
        reduce_sum([known])
        if known[0]:
            return float(known[1])
        score = torch.tensor([self.scorer(plan, key)], dtype=torch.float64)
        reduce_sum([score])
        mean = float(score) / world_size()
        self.journal.record(key, {"score": mean})
        return mean


def _in(survey: Survey, space: Graph) -> Survey:
    return replace(survey, space=space)


def _table(survey: Survey, drops: Mapping[str, Mapping[int, float]], plan: Plan) -> str:
    """What was measured of each width, and what was chosen of it."""
    found = curves(survey, drops)
    rows = [
        (
            name,
            ", ".join(f"{count}: {drop:.4g}" for count, drop in sorted(drops.get(name, {}).items())) or "-",
            f"{plan.sizes[name]} of {survey.space[name].size}",
            f"{found[name][plan.sizes[name]]:.4g}",
        )
        for name in survey.points
    ]
    return text_table("Sensitivity", ("Width", "count: measured drop of the score", "chosen", "its drop"), rows)
