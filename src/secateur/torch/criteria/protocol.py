"""What a criterion is, and where criteria are found by name.

    @CRITERIA.add("mine")
    class Mine:
        name = "mine"
        def __call__(self, graph, model): return {width.name: np.ones(width.size) for width in graph.free}

Invariant: scores are finite, one array for each width that can be judged: ``[size]``, or ``[outer size, size]`` where
the width has an outer one. A width left out is not narrowed, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.core.registry import Registry
from secateur.errors import InputError
from secateur.torch.criteria.sources import with_data
from secateur.torch.running.data import Data


@runtime_checkable
class Criterion(Protocol):
    """Scores for the units of each free width."""

    @property
    def name(self) -> str: ...

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]: ...


CRITERIA: Registry[Callable[[], Criterion]] = Registry("criterion")


def make(criterion: str | Criterion, data: Data | None = None) -> Criterion:
    """A criterion by name with its defaults, or the one given; one that needs data and has none takes ``data``.

    Raises ConfigError for an unknown name, and for a data-driven criterion without data.
    """
    return with_data(recognised(criterion), data)


def recognised(criterion: str | Criterion) -> Criterion:
    """A criterion by name, or the one given. Raises InputError for what is neither."""
    if isinstance(criterion, str):
        return CRITERIA[criterion]()
    if isinstance(criterion, type) or not isinstance(criterion, Criterion):
        given = f"the class {criterion.__name__}" if isinstance(criterion, type) else type(criterion).__name__
        raise InputError(
            f"a criterion is a name, or an object with a name that is called as (graph, model); not {given}"
        )
    return criterion
