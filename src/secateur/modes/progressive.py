"""``mode="progressive"``: remove a little, give back what can be given back, look again. Recommended to whoever has data.

    6 × ( score (∂L/∂gate)² per MAC saved ──► narrow to a geometric share ──► re-fit every contraction by least squares )

What is left after each round computes nearly what the original did, so the next scores are those of a working network.

Invariant: no label is needed but for the loss that scores; no weight is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from secateur.core.plan import Plan
from secateur.modes.journalled import remembered
from secateur.modes.task import MODES, AllocationOption, CriterionOption, Mode, Task
from secateur.torch.criteria.protocol import make


@MODES.add("progressive")
class Progressive(Mode):
    """Options of the progressive mode: those of all modes with other defaults, the criterion, and the allocation.

    Each round scores on ``scoring_samples`` of the data; ``checkpoint`` is a folder or file for the journals of scores, one a
    round: a search that was interrupted goes on with these, and one with another constraint shares the first.
    """

    criterion: CriterionOption = "gate_gradient"
    allocation: AllocationOption = "per_cost"
    compensate: Literal["none", "bias", "least_squares"] = "least_squares"
    steps: int = Field(default=6, ge=1)
    scoring_samples: int = Field(default=256, ge=1)
    checkpoint: str | Path | None = None

    def search(self, task: Task) -> Plan:
        """One round: score what is there now, and allocate."""
        data = None if task.data is None else task.data.limited(task.model, self.scoring_samples)
        criterion = remembered(make(self.criterion, data), self, task, data)
        task.tell(0.2, f"round {task.step + 1}: scoring with {criterion.name}")
        return self.allocated(task, criterion, self.allocation)
