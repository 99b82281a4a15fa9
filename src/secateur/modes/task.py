"""What a mode is: a frozen, validated configuration that knows how to find a plan.

    Mode.read({"criterion": "l2"})  ->  Magnitude(criterion="l2", …)        unknown keys and wrong types are errors
    mode.search(Task(graph, frontend, budget, tell))  ->  Found(plan, evidence)

Invariant: a mode changes no network; only `apply` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from secateur.core.budget import Budget
from secateur.core.depth import Depth
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.registry import Registry
from secateur.errors import ConfigError
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

    With data (a ``data_loader`` or a ``forward_loop``) batch-norm statistics are measured again at the end. What is found is
    scored, once: by ``score_func``, else by the loss on the data, else by its agreement with the whole network; one that
    answers as a constant would is an error.
    """

    called = "config"

    verify: bool = True
    """Prove the result: narrowed compared with masked."""
    on_mismatch: Literal["raise", "freeze"] = "raise"
    """What a failed proof does: "freeze" leaves the widths whole that are at fault, and searches again."""
    depth: Depth = False
    """Let whole blocks go, too: each is a width of kind `layers` that keeps 1 or 0. "only" leaves all other widths whole."""
    verbose: bool = False
    """Tell what is done, and how long it still takes."""
    data_loader: Any = None
    """Batches: anything that can be iterated over again."""
    collect_func: Callable[[Any], Any] | None = None
    """What of a batch the model takes; its first item if not given, or a dict whole."""
    forward_loop: Callable[..., Any] | None = None
    """In place of a data_loader: called as forward_loop(model), it runs the model on the data."""
    loss_func: Callable[[Any, Any], Any] | None = None
    """loss_func(output, batch); if not given the output's own loss, or cross entropy with integer labels."""
    score_func: Callable[..., Any] | None = None
    """score_func(model) gives a number, higher is better, with which what is found is scored."""
    num_batches: int = Field(default=50, ge=1)
    """How many batches of the data are used."""
    compensate: CompensationMethod = "none"
    """Re-fit what follows removed units on the data: "bias" gives back the mean, "least_squares" all that can be,
    layer by layer; "answers" then fits all weights together, so that the answers are those of the whole network."""
    ridge: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """What holds re-fitted weights where they are; "auto" is chosen by layer on samples left out."""
    calibration_samples: int = Field(default=1024, ge=1)
    """How many samples are fitted on."""
    target: str = "eager"
    """What latency_ms is measured on: "eager", "compiled" (torch.compile) or "onnxruntime", on the threads that torch has."""
    steps: int = Field(default=1, ge=1, le=1000)
    """Rounds of prune and compensate, each with the same share of what is left."""

    @model_validator(mode="after")
    def _one_source_of_data(self) -> Self:
        if self.data_loader is not None and self.forward_loop is not None:
            raise ValueError("data_loader and forward_loop are both given: one of them")
        if self.compensate != "none" and self.data_loader is None and self.forward_loop is None:
            raise ValueError(f"compensate={self.compensate!r} needs a data_loader or a forward_loop")
        return self

    @property
    def ways(self) -> Sequence[Mode]:
        """The modes of which the one is taken that leaves answers nearest to the whole network's."""
        return (self,)

    @property
    def asked(self) -> Mapping[str, int]:
        """The counts that the options say themselves, of widths by name."""
        return {}

    @property
    def said(self) -> str:
        """What tells this from other ways."""
        return self.called

    @property
    def needs_budget(self) -> bool:
        """False where the options themselves say how much goes."""
        return True

    @property
    def looks_for_blocks(self) -> Depth:
        """Whether a trace is to look for blocks."""
        return self.depth

    def with_constraints(self, constraints: Mapping[str, Any] | None) -> tuple[Mode, Mapping[str, Any] | None]:
        """The mode that heeds these constraints, and those of them that are bounds on costs.

        Raises ConfigError for an export configuration, which not every mode can meet.
        """
        if "export_config" in (constraints or {}):
            raise ConfigError(
                'export_config is met by mode="minitron" alone; here give bounds such as {"params": "60%"}'
            )
        return self, constraints

    def allocated(self, task: Task, judge: Judge, allocation: str, sizes: Mapping[str, int] | None = None) -> Plan:
        """Score once and allocate once, within the limits of these options."""
        return plan_for(task.graph, judge, task.budget, allocation=allocation, sizes=sizes, limits=self.limits())

    def search(self, task: Task) -> Found:
        """Find what to keep. Raises Infeasible where no network meets the budget."""
        raise NotImplementedError


MODES: Registry[type[Mode]] = Registry("mode")
