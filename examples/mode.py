"""A mode, to copy: options, and a search that gives a plan and what it saw.

    python examples/mode.py        runs the checks that our own modes run

Registered by name, it is asked for as `secateur.prune(model, "shuffled", {"macs": "60%"}, x, {"seed": 3})`. What it needs of
PyTorch it asks of ``task.frontend``; everything else is arithmetic on a graph, so that it would serve another framework as well.
"""

from __future__ import annotations

from pydantic import Field

from secateur.criteria import Random
from secateur.modes import MODES, Evidence, Found, Mode, Task
from secateur.testing import check_mode


@MODES.add("shuffled")
class Shuffled(Mode):
    """Options of the mode, beside those that all modes have: the baseline that keeps units by lot."""

    seed: int = Field(default=0, ge=0)

    def search(self, task: Task) -> Found:
        """Score once, share the budget out, and say what was seen on the way. Nothing is changed here."""
        judge = task.frontend.judge(Random(seed=self.seed))
        task.tell(0.5, "drawing lots")
        plan = self.allocated(
            task, judge, allocation="global"
        )  # meets the budget within the limits, or raises Infeasible
        return Found(plan=plan, evidence=Evidence(method="shuffled"))


CHECKS = check_mode("shuffled")

if __name__ == "__main__":
    for check in CHECKS:
        check()
        print("holds:", check)
