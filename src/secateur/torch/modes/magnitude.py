"""``mode="magnitude"``: keep the units whose weights are largest. Needs no data, unless its criterion does.

    score every unit (L1 by default) ──► allocate under the budget ──► plan

Recommended where there is no data to look at, and as the baseline of every comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from secateur.core.plan import Plan
from secateur.search.allocations import ALLOCATIONS
from secateur.torch.criteria.protocol import CRITERIA, make
from secateur.torch.modes.mode import MODES, Mode, Task
from secateur.torch.planning import plan


@MODES.add("magnitude")
class Magnitude(Mode):
    """Options of the magnitude mode; see `secateur.plan` for what each does."""

    criterion: Any = "l1"
    allocation: str = "global"
    sizes: dict[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        _ = ALLOCATIONS[self.allocation]
        if isinstance(self.criterion, str):
            _ = CRITERIA[self.criterion]
        return self

    def search(self, task: Task) -> Plan:
        """Score once, allocate once."""
        criterion = self.criterion if isinstance(self.criterion, Mapping) else make(self.criterion, task.data)
        task.tell(0.2, f"scoring with {getattr(criterion, 'name', 'scores')}")
        return plan(
            task.graph,
            criterion,
            task.budget,
            allocation=self.allocation,
            sizes=self.sizes or None,
            multiple_of=self.multiple_of,
            keep=self.keep,
            only=self.only,
            floor=self.floor,
            ceiling=self.ceiling,
            rules=self.rules,
        )
