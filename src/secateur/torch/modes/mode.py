"""What a mode is: a frozen, validated configuration that knows how to find a plan.

    Mode.read({"criterion": "l2"})  ->  Magnitude(criterion="l2", …)        unknown keys and wrong types are errors
    mode.search(Task(graph, constraints, tell))  ->  Plan

Invariant: a mode changes no model; only `apply` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from secateur.core.budget import Budget
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.registry import Registry
from secateur.errors import ConfigError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a search is given: the graph, the budget, and whom to tell how far it is (a fraction and a word)."""

    graph: Graph
    budget: Budget
    tell: Callable[[float, str], None]


class Mode(BaseModel):
    """Base of all modes' configurations. ``verify`` and ``verbose`` are common to all."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)

    verify: bool = True
    verbose: bool = False

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
            sentences.append(f"option {place!r}: {message}, not {str(problem.get('input'))[:60]!r}")
    return "config: " + " ".join(sentences)
