"""``mode="progressive"``: remove a little, give back what can be given back, look again. Recommended to whoever has data.

    6 × ( score (∂L/∂gate)² per MAC saved ──► narrow to a geometric share ──► re-fit every contraction by least squares )

What is left after each round computes nearly what the original did, so the next scores are those of a working network.

Invariant: no label is needed but for the loss that scores; no weight is trained.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from secateur.core.plan import Plan
from secateur.search.allocations import ALLOCATIONS
from secateur.torch.criteria.protocol import CRITERIA, make
from secateur.torch.modes.mode import MODES, Mode, Task
from secateur.torch.planning import plan


@MODES.add("progressive")
class Progressive(Mode):
    """Options of the progressive mode: those of all modes with other defaults, the criterion, and the allocation.

    Each round scores on ``scoring_samples`` of the data.
    """

    criterion: Any = "gate_gradient"
    allocation: str = "per_cost"
    compensate: Literal["none", "bias", "least_squares"] = "least_squares"
    steps: int = Field(default=6, ge=1)
    scoring_samples: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        _ = ALLOCATIONS[self.allocation]
        if isinstance(self.criterion, str):
            _ = CRITERIA[self.criterion]
        return self

    def search(self, task: Task) -> Plan:
        """One round: score what is there now, and allocate."""
        data = None if task.data is None else task.data.limited(task.model, self.scoring_samples)
        criterion = make(self.criterion, data)
        task.tell(0.2, f"round {task.step + 1}: scoring with {criterion.name}")
        return plan(
            task.graph,
            criterion,
            task.budget,
            allocation=self.allocation,
            multiple_of=self.multiple_of,
            keep=self.keep,
            only=self.only,
            floor=self.floor,
            ceiling=self.ceiling,
            rules=self.rules,
        )
