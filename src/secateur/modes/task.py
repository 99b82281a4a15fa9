"""What a mode is: a frozen, validated configuration that knows how to find a plan.

    Mode.read({"criterion": "l2"})  ->  Magnitude(criterion="l2", …)        unknown keys and wrong types are errors
    mode.search(Task(graph, constraints, tell))  ->  Plan

Invariant: a mode changes no model; only `apply` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from secateur.core.budget import Budget
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.registry import Registry
from secateur.errors import ConfigError, nearest
from secateur.search.allocations import ALLOCATIONS
from secateur.search.limits import Limits
from secateur.torch.criteria.protocol import CRITERIA, Criterion
from secateur.torch.plan import Scores, plan
from secateur.torch.running.data import Data, first_of


def _known_criterion(criterion: Any) -> Any:
    if isinstance(criterion, str):
        _ = CRITERIA[criterion]
    return criterion


def _known_allocation(name: str) -> str:
    _ = ALLOCATIONS[name]
    return name


CriterionOption = Annotated[Any, AfterValidator(_known_criterion)]  # a name, a criterion, or scores made before


AllocationOption = Annotated[str, AfterValidator(_known_allocation)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a search is given.

    ``graph`` is the whole graph of ``model`` as it is now, in the ``step``-th round; ``budget`` has no limits where the mode
    needs none and none was given; ``data`` is None where the user gave none; ``tell`` takes how far the search is (a
    fraction and a word).
    """

    graph: Graph
    model: nn.Module
    budget: Budget
    data: Data | None
    step: int = 0
    tell: Callable[[float, str], None]


class Mode(BaseModel):
    """Options common to all modes.

    Data: ``data_loader`` with ``collect_func`` (what of a batch the model takes; its first item by default), or
    ``forward_loop`` called as ``forward_loop(model)``; ``num_batches`` of it are used; ``loss_func(output, batch)``.
    ``compensate`` re-fits what follows removed units on ``calibration_samples`` of the data, in ``steps`` rounds of prune
    and compensate; ``ridge`` holds weights where they are. With data, batch-norm
    statistics are measured again at the end. The rest narrows the search space as `Limits` says.
    """

    needs_budget: ClassVar[bool] = True  # False where the options themselves say how much goes

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)

    verify: bool = True
    verbose: bool = False
    data_loader: Any = None
    collect_func: Callable[[Any], Any] = first_of
    forward_loop: Callable[..., Any] | None = None
    loss_func: Callable[[Any, Any], Any] | None = None
    num_batches: int = Field(default=50, ge=1)
    compensate: Literal["none", "bias", "least_squares"] = "none"
    ridge: float = Field(default=1e-3, gt=0)
    calibration_samples: int = Field(default=1024, ge=1)
    steps: int = Field(default=1, ge=1)
    multiple_of: int = Field(default=1, ge=1)
    exclude: Sequence[str] = ()
    only: Sequence[str] = ()
    floor: Any = None
    ceiling: Any = None
    rules: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_source_of_data(self) -> Self:
        if self.data_loader is not None and self.forward_loop is not None:
            raise ValueError("data_loader and forward_loop are both given: one of them")
        if self.compensate != "none" and self.data_loader is None and self.forward_loop is None:
            raise ValueError(f"compensate={self.compensate!r} needs a data_loader or a forward_loop")
        return self

    @classmethod
    def read(cls, config: Mapping[str, Any] | Mode | None) -> Self:
        """A configuration from a mapping. Raises ConfigError naming the key, and the nearest known one."""
        if isinstance(config, cls):
            return config
        if config is not None and not isinstance(config, Mapping):
            raise ConfigError(f"config is a dict of options, not {type(config).__name__}")
        try:
            return cls(**dict(config or {}))
        except ValidationError as error:
            raise ConfigError(_sentence(error, list(cls.model_fields))) from None

    def data(self, model: nn.Module) -> Data | None:
        """The batches that the options name, or None where there are none."""
        if self.forward_loop is not None:
            found = Data.of_forward_loop(model, self.forward_loop, num_batches=self.num_batches)
            return replace(found, loss=self.loss_func)
        if self.data_loader is None:
            return None
        return Data(
            loader=self.data_loader, collect=self.collect_func, num_batches=self.num_batches, loss=self.loss_func
        )

    def limits(self) -> Limits:
        """What narrows the search space."""
        return Limits(
            multiple_of=self.multiple_of,
            exclude=self.exclude,
            only=self.only,
            floor=self.floor,
            ceiling=self.ceiling,
            rules=self.rules,
        )

    def allocated(
        self, task: Task, criterion: Criterion | Scores, allocation: str, sizes: Mapping[str, int] | None = None
    ) -> Plan:
        """Score once and allocate once, within the limits of these options."""
        return plan(
            task.graph,
            criterion,
            task.budget,
            allocation=allocation,
            sizes=sizes,
            multiple_of=self.multiple_of,
            exclude=self.exclude,
            only=self.only,
            floor=self.floor,
            ceiling=self.ceiling,
            rules=self.rules,
        )

    def search(self, task: Task) -> Plan:
        """Find what to keep. Raises Infeasible where no network meets the budget."""
        raise NotImplementedError


MODES: Registry[type[Mode]] = Registry("mode")


def _sentence(error: ValidationError, known: list[str]) -> str:
    sentences = []
    for problem in error.errors():
        place = ".".join(str(step) for step in problem["loc"])
        if problem["type"] == "extra_forbidden":
            sentences.append(f"unknown option {place!r}.{nearest(place, known)} Known are {', '.join(known)}.")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = f", not {str(problem.get('input'))[:60]!r}" if place else ""
            sentences.append((f"option {place!r}: " if place else "") + message + given)
    return "config: " + " ".join(sentences)
