"""What a model goes through in use: calls of all forms, other methods, a training step.

    example · fresh · other branches · other methods · example again · training: outputs, gradients, buffers · example

Two models that compute the same have the same life.

Invariant: a step that raises is recorded as such, and the life goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .entry import Entry, Inputs, set_mode
from .reference import tensors_of
from .values import Leaf, cast, difference, flat, quiet


@dataclass(slots=True)
class Life:
    """``steps`` by name: what came out, or the exception; after the training step, ``gradients`` and ``buffers``."""

    steps: dict[str, list[Leaf] | Exception] = field(default_factory=dict)
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def failed(self) -> dict[str, Exception]:
        """The steps that raised."""
        return {name: value for name, value in self.steps.items() if isinstance(value, Exception)}

    def difference(self, other: Life, tolerance: float, steps: tuple[str, ...] = ()) -> str | None:
        """The first step in which another model behaves otherwise, in a sentence. What raises here is not compared."""
        for name, expected in self.steps.items():
            found = other.steps.get(name, expected)
            if isinstance(expected, Exception) or (steps and name not in steps):
                continue
            if isinstance(found, Exception):
                return f"{name}: raises {type(found).__name__}: {' '.join(str(found).split())[:200]}"
            gap, where = difference(expected, found)
            if gap > tolerance:
                return f"{name}: {where}"
        return None


def live(entry: Entry, model: nn.Module, dtype: torch.dtype, *, loud: bool = False) -> Life:
    """Use a model as its users do, in this precision; ``loud`` leaves random numbers random."""
    life = Life()
    with _default_dtype(dtype):
        set_mode(model, False)
        for name, use in _uses(entry, dtype):
            with _atmosphere(loud):
                life.steps[name] = _outcome(use, model)
        set_mode(model, True)
        model.zero_grad()
        training = _training_step(_calling(entry, entry.example, 0, dtype))
        with _atmosphere(loud):
            life.steps["training"] = _outcome(training, model)
        life.gradients = {name: p.grad for name, p in model.named_parameters(remove_duplicate=False)}
        life.buffers = {
            name: t.detach().clone() for name, t in tensors_of(model).items() if not isinstance(t, nn.Parameter)
        }
        set_mode(model, False)
        again = _calling(entry, entry.example, 0, dtype)
        with _atmosphere(loud):
            life.steps["after training"] = _outcome(again, model)
    return life


def _uses(entry: Entry, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[nn.Module], Any]]]:
    yield "example", _calling(entry, entry.example, 0, dtype)
    for seed in (1, 2):
        yield f"fresh input {seed}", _calling(entry, entry.example, seed, dtype)
    for i, inputs in enumerate(entry.fresh):
        yield f"other form {i}", _calling(entry, inputs, 3, dtype)
    for i, inputs in enumerate(entry.also):
        yield f"other branch {i}", _calling(entry, inputs, 4, dtype)
    for i, use in enumerate(entry.uses):
        yield f"other use {i}", use
    yield "example again", _calling(entry, entry.example, 0, dtype)


def _calling(entry: Entry, inputs: Inputs, seed: int, dtype: torch.dtype) -> Callable[[nn.Module], Any]:
    """The call, its arguments made now: where it is made, randomness is not quiet."""
    with _default_dtype(torch.float32):
        ready = entry.call(inputs, seed)
    call = type(ready)(cast(ready.args, dtype), cast(ready.kwargs, dtype))
    return lambda model: entry.result(call.on(model))


def _outcome(use: Callable[[nn.Module], Any], model: nn.Module) -> list[Leaf] | Exception:
    try:
        return [(path, leaf.detach() if isinstance(leaf, Tensor) else leaf) for path, leaf in flat(use(model))]
    except Exception as error:
        return error


def _training_step(call: Callable[[nn.Module], Any]) -> Callable[[nn.Module], Any]:
    """Outputs in training mode; gradients of a sum in which every output number has a weight of its own."""

    def step(model: nn.Module) -> list[Leaf]:
        output = flat(call(model))
        reached = [t for _, t in output if isinstance(t, Tensor) and t.requires_grad]
        if reached:
            weights = [torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).view(t.shape) for t in reached]
            torch.stack([(t * w).sum().double() for t, w in zip(reached, weights)]).sum().backward()
        return output

    return step


def _atmosphere(loud: bool) -> Any:
    return nullcontext() if loud else quiet()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype if dtype in (torch.float32, torch.float64) else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
