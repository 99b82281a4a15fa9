"""``mode="magnitude"``: keep the units whose weights are largest. Needs no data, unless its criterion does.

    score every unit (L1 by default) ──► allocate under the budget ──► plan

Recommended where there is no data to look at, and as the baseline of every comparison.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from secateur.modes.task import MODES, AllocationOption, CriterionOption, Mode, Task
from secateur.search.evidence import Evidence, Found


@MODES.add("magnitude")
class Magnitude(Mode):
    """Options of the magnitude mode, beside those of all modes."""

    criterion: CriterionOption = "l1"
    """What scores a unit: a name, a criterion, or scores made before."""
    allocation: AllocationOption = "global"
    """How the budget is shared out between widths."""
    sizes: dict[str, int] = Field(default_factory=dict)
    """Counts to take for some widths, in place of what the budget would give them."""

    @property
    def asked(self) -> Mapping[str, int]:
        """``sizes``."""
        return self.sizes

    def search(self, task: Task) -> Found:
        """Score once, allocate once."""
        judge = task.frontend.judge(self.criterion)
        task.tell(0.2, f"scoring with {judge.described['name']}")
        plan = self.allocated(task, judge, self.allocation, self.sizes)
        return Found(plan=plan, evidence=Evidence(method="magnitude"))
