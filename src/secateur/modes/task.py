"""What a mode is: a frozen, validated configuration that knows how to find a plan.

    Mode.read({"criterion": "l2"})  ->  Magnitude(criterion="l2", …)        unknown keys and wrong types are errors
    mode.search(Task(graph, frontend, budget, tell))  ->  Found(plan, evidence)

Invariant: a mode changes no network; only `apply` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from secateur.core.budget import Budget
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.registry import Registry
from secateur.modes.frontend import CompensationMethod, Frontend
from secateur.progress import Tell
from secateur.search.allocations import ALLOCATIONS
from secateur.search.evidence import Found
from secateur.search.limits import Limits
from secateur.search.planned import plan_for
from secateur.search.ranked import Judge


def _known_allocation(name: str) -> str:
    _ = ALLOCATIONS[name]
    return name


CriterionOption = Any  # a name, a criterion, or scores made before: the front-end knows which there are
AllocationOption = Annotated[str, AfterValidator(_known_allocation)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a search is given.

    ``graph`` is that of the ``frontend``'s network as it is now, in the ``step``-th round; ``budget`` has no bounds where
    the mode needs none and none was given; ``tell`` takes how far the search is (a fraction and a word).
    """

    graph: Graph
    frontend: Frontend
    budget: Budget
    step: int = 0
    tell: Tell


class Mode(Limits):
    """Options common to all modes.

    ``verify`` proves the result; ``on_mismatch="freeze"`` leaves the widths whole that the proof finds at fault, and searches
    again. Data: ``data_loader`` with ``collect_func`` (what of a batch the model takes; its first item by default), or
    ``forward_loop`` called as ``forward_loop(model)``; ``num_batches`` of it are used; ``loss_func(output, batch)``.
    What is found is scored, once: by ``score_func(model)``, higher is better, else by the loss on the data, else by its
    agreement with the whole network; one that answers as a constant would is an error.
    ``compensate`` re-fits what follows removed units on ``calibration_samples`` of the data, in ``steps`` rounds of prune
    and compensate; ``ridge`` holds weights where they are. With data, batch-norm
    statistics are measured again at the end. The rest narrows the search space as `Limits` says.
    """

    called = "config"

    verify: bool = True
    on_mismatch: Literal["raise", "freeze"] = "raise"
    verbose: bool = False
    data_loader: Any = None
    collect_func: Callable[[Any], Any] | None = None
    forward_loop: Callable[..., Any] | None = None
    loss_func: Callable[[Any, Any], Any] | None = None
    score_func: Callable[..., Any] | None = None
    num_batches: int = Field(default=50, ge=1)
    compensate: CompensationMethod = "none"
    ridge: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    calibration_samples: int = Field(default=1024, ge=1)
    steps: int = Field(default=1, ge=1, le=1000)

    @model_validator(mode="after")
    def _one_source_of_data(self) -> Self:
        if self.data_loader is not None and self.forward_loop is not None:
            raise ValueError("data_loader and forward_loop are both given: one of them")
        if self.compensate != "none" and self.data_loader is None and self.forward_loop is None:
            raise ValueError(f"compensate={self.compensate!r} needs a data_loader or a forward_loop")
        return self

    @property
    def needs_budget(self) -> bool:
        """False where the options themselves say how much goes."""
        return True

    def with_constraints(self, constraints: Mapping[str, Any] | None) -> tuple[Mode, Mapping[str, Any] | None]:
        """The mode that heeds these constraints, and those of them that are bounds on costs."""
        return self, constraints

    def allocated(self, task: Task, judge: Judge, allocation: str, sizes: Mapping[str, int] | None = None) -> Plan:
        """Score once and allocate once, within the limits of these options."""
        return plan_for(task.graph, judge, task.budget, allocation=allocation, sizes=sizes, limits=self.limits())

    def search(self, task: Task) -> Found:
        """Find what to keep. Raises Infeasible where no network meets the budget."""
        raise NotImplementedError


MODES: Registry[type[Mode]] = Registry("mode")
