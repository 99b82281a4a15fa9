"""``mode="progressive"``: remove a little, give back what can be given back, look again. Recommended to whoever has data.

    6 × ( score (∂L/∂gate)² per MAC saved ──► narrow to a geometric share ──► re-fit every contraction by least squares )
    then  fit all weights together, so that the answers are the original's

What is left after each round computes nearly what the original did, so the next scores are those of a working network. Each
fit starts from the original's weights. With nothing said of criterion or steps another way is tried as well, the brain surgeon in
one step, and the one taken that answers samples left out nearer to the original; the surgeon alone where a classifier answers
the samples with few of its classes.

Without labels the loss is that of the next token where the model is causal, else agreement with what the network answers.

Invariant: no label is needed, and none is fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from secateur.modes.frontend import CompensationMethod
from secateur.modes.journalled import journalled
from secateur.modes.task import MODES, AllocationOption, CriterionOption, Mode, Task
from secateur.search.evidence import Evidence, Found
from secateur.search.journal import journal_file


@MODES.add("progressive")
class Progressive(Mode):
    """Options of the progressive mode, beside those of all modes; some of these have other defaults here."""

    criterion: CriterionOption = "gate_gradient"
    """What scores a unit, anew in each round; where neither this nor steps is given, "brain_surgeon" in one step is tried too."""
    allocation: AllocationOption = "per_cost"
    """How the budget is shared out; per_cost weighs a score against what the unit costs."""
    compensate: CompensationMethod = "answers"
    """What is given back in each round, and at the end: "answers", "least_squares", "bias" or "none"."""
    steps: int = Field(default=6, ge=1, le=1000)
    """Rounds of score, narrow and re-fit, each with the same share of what is left."""
    scoring_samples: int = Field(default=256, ge=1)
    """How many samples each round scores on."""
    checkpoint: str | Path | None = None
    """A folder or file for the journals of scores, one a round; another constraint shares the first."""

    @property
    def ways(self) -> Sequence[Mode]:
        """Gate gradients in rounds, and the brain surgeon in one, which goes further where units make up for each other."""
        if self.model_fields_set & {"criterion", "steps"}:
            return (self,)
        beside = None if self.checkpoint is None else journal_file(self.checkpoint)
        journal = None if beside is None else beside.with_stem(f"{beside.stem}-surgeon")
        return self.model_copy(update={"criterion": "brain_surgeon", "steps": 1, "checkpoint": journal}), self

    @property
    def said(self) -> str:
        """The criterion and the rounds."""
        return f"{self.criterion}, steps={self.steps}"

    def search(self, task: Task) -> Found:
        """One round: score what is there now, and allocate."""
        frontend = task.frontend
        if frontend.has_data:
            frontend = frontend.limited(self.scoring_samples).with_a_loss()
        judge = journalled(self.criterion, frontend, task, self)
        task.tell(0.2, f"round {task.step + 1}: scoring with {judge.described['name']}")
        return Found(plan=self.allocated(task, judge, self.allocation), evidence=Evidence(method="progressive"))
