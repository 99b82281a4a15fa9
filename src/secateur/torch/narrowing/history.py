"""Which parameter became which, so that an optimizer can follow.

    apply 1:  conv1.weight ◄┄┄ the Parameter before      apply 2:  conv1.weight ◄┄┄ the Parameter before, …

`apply` makes new Parameters under old names. Each apply leaves one `Step` here: its plan, and which name the Parameters
before it had. They are held weakly, so what nobody else holds (an optimizer does) is let go as if this were not here.

Invariant: a succession keeps no tensor alive, and is empty in a model that was read from a file or another process.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.core.plan import Plan

_SUCCESSION = "_secateur_succession"


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One narrowing: its plan, and the Parameters before it by name."""

    plan: Plan
    before: Mapping[str, weakref.ref[nn.Parameter]]

    def names(self) -> dict[int, str]:
        """The first name of each Parameter that still lives, by its id."""
        found: dict[int, str] = {}
        for name, held in self.before.items():
            parameter = held()
            if parameter is not None:
                found.setdefault(id(parameter), name)
        return found


class Succession:
    """The steps that made a model, oldest first. A class, because weak references cannot be pickled: it pickles as empty."""

    __slots__ = ("_model", "steps")

    def __init__(self, steps: tuple[Step, ...] = (), model: nn.Module | None = None) -> None:
        self.steps = steps
        self._model = weakref.ref(model) if model is not None else None

    @property
    def model(self) -> nn.Module | None:
        """The model that the last step made, if it is still there."""
        return self._model() if self._model is not None else None

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Succession, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> Succession:
        return self


def succession_of(model: nn.Module) -> Succession:
    """How the parameters of a model came to be; empty for a model that was never narrowed in this process."""
    return model.__dict__.get(_SUCCESSION) or Succession()


def parameters_before(model: nn.Module) -> dict[str, weakref.ref[nn.Parameter]]:
    """The Parameters of a model by every name they have, held weakly."""
    return {name: weakref.ref(p) for name, p in model.named_parameters(remove_duplicate=False)}


def remember(
    model: nn.Module, earlier: Succession, plan: Plan, before: Mapping[str, weakref.ref[nn.Parameter]]
) -> None:
    """Note on a narrowed model what it was made of. A fault later in `apply` undoes this with everything else."""
    model.__dict__[_SUCCESSION] = Succession((*earlier.steps, Step(plan, before)), model)
