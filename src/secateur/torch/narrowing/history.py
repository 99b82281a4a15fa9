"""Which parameter became which, so that an optimizer can follow.

    apply 1:  conv1.weight ◄┄┄ the Parameter before      apply 2:  conv1.weight ◄┄┄ the Parameter before, …

`apply` makes new Parameters under old names. Each apply leaves one `Narrowing` here: its plan, and which name the Parameters
before it had. They are held weakly, so what nobody else holds (an optimizer does) is let go as if this were not here.

Invariant: a history keeps no tensor alive, and is empty in a model that was read from a file or another process.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from secateur.core.plan import Plan
from secateur.torch.running.walking import named_parameters

_HISTORY = "_secateur_history"


@dataclass(frozen=True, slots=True, eq=False)
class Narrowing:
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


class History:
    """The narrowings that made a model, oldest first. A class, because weak references cannot be pickled: it pickles as empty."""

    __slots__ = ("_model", "narrowings")

    def __init__(self, narrowings: tuple[Narrowing, ...] = (), model: nn.Module | None = None) -> None:
        self.narrowings = narrowings
        self._model = weakref.ref(model) if model is not None else None

    @property
    def model(self) -> nn.Module | None:
        """The model that the last step made, if it is still there."""
        return self._model() if self._model is not None else None

    def __repr__(self) -> str:
        steps = [f"{len(step.plan.kept)} widths of {len(step.before)} tensors" for step in self.narrowings]
        return f"History({'; '.join(steps) or 'never narrowed'})"

    def __iter__(self) -> Iterator[Narrowing]:
        return iter(self.narrowings)

    def __reduce__(self) -> tuple[Any, ...]:
        return (History, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> History:
        return self


def history_of(model: nn.Module) -> History:
    """How the parameters of a model came to be; empty for a model that was never narrowed in this process."""
    return model.__dict__.get(_HISTORY) or History()


def history_with(before: nn.Module, plan: Plan, after: nn.Module) -> dict[str, object]:
    """What a model narrowed by a plan is to remember of the one it was made from, as a note for `install`."""
    parameters = {name: weakref.ref(p) for name, p in named_parameters(before)}
    made = Narrowing(replace(plan, graph=None), parameters)
    return {_HISTORY: History((*history_of(before).narrowings, made), after)}
