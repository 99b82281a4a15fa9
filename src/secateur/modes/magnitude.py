"""``mode="magnitude"``: keep the units whose weights are largest. Needs no data, unless its criterion does.

    score every unit (L1 by default) ──► allocate under the budget ──► plan

Recommended where there is no data to look at, and as the baseline of every comparison.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from secateur.core.plan import Plan
from secateur.modes.task import MODES, AllocationOption, CriterionOption, Mode, Task
from secateur.torch.criteria.protocol import make


@MODES.add("magnitude")
class Magnitude(Mode):
    """Options of the magnitude mode; see `secateur.plan` for what each does."""

    criterion: CriterionOption = "l1"
    allocation: AllocationOption = "global"
    sizes: dict[str, int] = Field(default_factory=dict)

    def search(self, task: Task) -> Plan:
        """Score once, allocate once."""
        criterion = self.criterion if isinstance(self.criterion, Mapping) else make(self.criterion, task.data)
        task.tell(0.2, f"scoring with {getattr(criterion, 'name', 'scores')}")
        return self.allocated(task, criterion, self.allocation, self.sizes or None)
