"""Random numbers at their expected value, so that two networks of different widths draw the same.

    bernoulli(p) ──► p        rand() ──► 0.5        randn() ──► 0.37        dropout ──► nothing dropped

A narrower network draws fewer numbers, and every later one would be another. What all units share, no slice can change.

A generator that the code seeds just before it draws gives the same numbers every time, and so does the default one once
the code has seeded it (in evaluation): these are constants, unit by unit, and are drawn as they are.

Invariant: an operator that is not known here draws as it does, from the process's generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

Draw = Callable[..., Any]

_SOME = 0.37  # a normal number: zero would hide what is multiplied with it


def drawn(func: Any, args: Sequence[Any] = ()) -> Draw | None:
    """What stands in for a random operator; None for any other, for those that are not known, and where it draws nothing."""
    if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
        return None
    name = func._schema.name.removeprefix("aten::")
    return None if name in _WHILE_TRAINING and True not in args[2:] else _DRAWS.get(name)


class Lots:
    """What is made of numbers drawn, and whether code may go by it. State, because operators come one by one."""

    def __init__(self) -> None:
        self._made = WeakTensorKeyDictionary()
        self.decide = False

    def follow(self, given: Sequence[Any], out: Any, *, drawn: bool) -> None:
        """An operator's arguments and what it gave: code goes by comparisons, and by numbers of Python's."""
        if not (drawn or any(map(self._has, tree_leaves(given)))):
            return
        for leaf in tree_leaves(out):
            self.decide |= not isinstance(leaf, torch.Tensor) or (leaf.dtype is torch.bool and not drawn)
            if isinstance(leaf, torch.Tensor):
                self._made[leaf] = True

    def _has(self, leaf: object) -> bool:
        return isinstance(leaf, torch.Tensor) and leaf in self._made


def is_fixed(generator: torch.Generator | None, held: set[int]) -> bool:
    """Whether a generator was just seeded, and is none that the network holds (by identity) and draws on with."""
    if generator is None or id(generator) in held:
        return False
    new = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    return torch.equal(new.get_state(), generator.get_state())


def _uniform(tensor: torch.Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> torch.Tensor:
    return tensor.fill_((low + high) / 2)


def _normal(tensor: torch.Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> torch.Tensor:
    return tensor.fill_(mean + _SOME * std)


def _normal_around(mean: Any, std: Any = 1.0, size: Any = None, **options: Any) -> torch.Tensor:
    if size is not None:
        return torch.full(size, mean + _SOME * std, **_plain(options))
    return mean + _SOME * std


def _exponential(tensor: torch.Tensor, rate: float = 1.0, **_: Any) -> torch.Tensor:
    return tensor.fill_(1 / rate)


def _bernoulli_(tensor: torch.Tensor, p: Any = 0.5, **_: Any) -> torch.Tensor:
    return tensor.copy_(p) if isinstance(p, torch.Tensor) else tensor.fill_(p)


def _bernoulli(tensor: torch.Tensor, p: float | None = None, **_: Any) -> torch.Tensor:
    return tensor.clone() if p is None else torch.full_like(tensor, p)


def _dropout(tensor: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return tensor.clone(), torch.ones_like(tensor, dtype=torch.bool)


def _itself(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return tensor.clone()


def _times(count: torch.Tensor, probability: torch.Tensor, *_: Any) -> torch.Tensor:
    return count * probability


def _shares(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    return tensor / tensor.sum(-1, keepdim=True)


def _log_normal(tensor: torch.Tensor, mean: float = 1.0, std: float = 2.0, **_: Any) -> torch.Tensor:
    return tensor.fill_(math.exp(mean + _SOME * std))


def _cauchy(tensor: torch.Tensor, median: float = 0.0, sigma: float = 1.0, **_: Any) -> torch.Tensor:
    return tensor.fill_(median + _SOME * sigma)


def _geometric(tensor: torch.Tensor, p: float, **_: Any) -> torch.Tensor:
    return tensor.fill_(1 / p)


def _rrelu(x: torch.Tensor, noise: torch.Tensor, low: float, high: float, *_: Any, **__: Any) -> torch.Tensor:
    noise.copy_(torch.where(x > 0, 1.0, (low + high) / 2))  # what the backward pass multiplies by
    return x * noise


def _full(value: float) -> Draw:
    return lambda size, **options: torch.full(size, value, **_plain(options))


def _full_like(value: float) -> Draw:
    return lambda tensor, **options: torch.full_like(tensor, value, **options)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a factory that fills; one without a dtype would take that of the number it fills with."""
    dtype = options.get("dtype") or torch.get_default_dtype()
    return {**{key: options[key] for key in options if key not in ("generator", "names")}, "dtype": dtype}


_WHILE_TRAINING = frozenset({"rrelu_with_noise"})
_DRAWS: dict[str, Draw] = {
    "uniform_": _uniform,
    "normal_": _normal,
    "normal": _normal_around,
    "exponential_": _exponential,
    "log_normal_": _log_normal,
    "cauchy_": _cauchy,
    "geometric_": _geometric,
    "poisson": _itself,
    "_standard_gamma": _itself,
    "_sample_dirichlet": _shares,
    "binomial": _times,
    "rrelu_with_noise": _rrelu,
    "bernoulli_": _bernoulli_,
    "bernoulli": _bernoulli,
    "native_dropout": _dropout,
    "rand": _full(0.5),
    "randn": _full(_SOME),
    "rand_like": _full_like(0.5),
    "randn_like": _full_like(_SOME),
}
