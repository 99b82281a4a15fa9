"""``mode="gradnas"``: what a unit is worth from the gradient of the loss at its gate; a few backward passes, no evaluation.

    score of a unit = mean of (∂L/∂gate)²       loss of a width at a count = sum of the scores of the units it gives up
    losses by count ──► the counts with the smallest sum of losses that meet the budget ──► plan

Recommended for language models, and wherever evaluating is slow. Every model that traces will do: heads, features, channels.

How widths compare: to second order, and with the Fisher information for the Hessian, closing gates changes the loss by half
the sum of their scores, whatever width they are in. So scores are all in one unit, that of the loss, and need no
normalisation; but then it is their sum over the network that must be small, each width giving up what is worth least for
what it costs. The original makes the largest sum of any width small, as ``objective="largest"`` does: a narrow width that
costs much then gives up as much loss as a wide one that costs little.

Invariant: the same data in any order gives the same plan, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field

from secateur.core.graph import Graph
from secateur.errors import InputError
from secateur.modes.journalled import journalled
from secateur.modes.task import MODES, CriterionOption, Mode, Task
from secateur.modes.thresholds import plan_under, ranked_for
from secateur.search.evidence import Evidence, Found
from secateur.search.threshold import Curves, Objective


@MODES.add("gradnas")
class GradNAS(Mode):
    """Options of the gradnas mode, beside those of all modes; it needs a loss.

    Of causal language models that is the loss of the next token where the data bring no other.
    """

    num_batches: int = Field(default=128, ge=1)
    """How many batches of the data_loader the scores are made on."""
    criterion: CriterionOption = "gate_gradient"
    """What scores a unit; its scores must add up to a loss."""
    objective: Objective = "sum"
    """What is made small: the "sum" of the losses of all widths, or the "largest" of them."""
    seed: int = Field(default=0, ge=0)
    """What scoring begins with."""
    checkpoint: str | Path | None = None
    """A folder or file for the journal of scores: made once, also for other constraints and limits."""

    def search(self, task: Task) -> Found:
        """Score units by backward passes, then choose counts."""
        task.tell(0.1, "backward passes")
        judge = journalled(self.criterion, task.frontend.with_a_loss(agreement=False), task, self, seed=self.seed)
        ranked = ranked_for(task, self, judge)

        def curves_in(search_space: Graph) -> Curves:
            return degradation(search_space, ranked.scores)

        plan = plan_under(ranked, curves_in, task, self.objective, {"mode": "gradnas"})
        evidence = Evidence(method="gradnas", curves=curves_in(ranked.search_space), sizes=plan.sizes)
        return Found(plan=plan, evidence=evidence)


def degradation(search_space: Graph, scores: Mapping[str, object]) -> Curves:
    """The sum of the scores of the units that go, the least first, at each choice of each free width."""
    found: dict[str, dict[int, float]] = {}
    for width in search_space.free:
        values = np.atleast_2d(np.asarray(scores[width.name], dtype=np.float64))
        if values.min() < 0:
            raise InputError(f"the scores of {width.name} do not add up to a loss: {values.min():.3g} is negative")
        gone = np.concatenate([[0.0], np.cumsum(np.sort(values, axis=-1).sum(axis=0))])
        found[width.name] = {count: float(gone[width.size - count]) for count in width.choices}
    return found
