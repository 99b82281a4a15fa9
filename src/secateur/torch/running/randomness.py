"""Random numbers that begin with a seed, and leave the caller's generators where they were.

    with seeded(3): torch.rand(2), random.random(), np.random.rand()        the same each time; nothing moved outside
    undo = undo_of_random_state()                                           where a block will not do
    with unmoved(loader): for batch in loader: …                            a loader's own generator: the same batches again

Invariant: the generators are put back in one step that no signal divides.
"""

from __future__ import annotations

import operator
import random
import types
from _random import Random
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.torch.running.holding import closed_over
from secateur.torch.running.restoring import Undo
from secateur.torch.running.switches import ALONE


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers that begin with a seed, and go on outside as if nothing had been drawn."""
    with ALONE:
        undo = undo_of_random_state()
        try:
            _seed_all(seed)
            yield
        finally:
            undo()


def undo_of_random_state() -> Undo:
    """What puts Python's, NumPy's and PyTorch's generators back, once, to where they are now."""
    ours = random.getstate.__self__  # the generator behind the functions of the module
    steps = [*_steps_back(ours), partial(np.random.set_state, np.random.get_state())]
    for generator in (torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())):
        steps += _steps_back(generator)
    return partial(deque, map(operator.call, steps), 0)


@contextmanager
def unmoved(*holders: object) -> Iterator[None]:
    """Generators that these hold (a data loader, its sampler and data set, a function with a loader) stay where they are."""
    steps = [step for generator in generators_of(holders) for step in _steps_back(generator)]
    try:
        yield
    finally:
        deque(map(operator.call, steps), 0)


def generators_of(holders: Iterable[object]) -> list[Any]:
    """Every generator that can be reached through attributes, containers and functions; not through modules' tensors."""
    found: list[Any] = []
    waiting, seen = list(holders), {0}
    while waiting and len(seen) < _MOST_LOOKED_AT:
        held = waiting.pop()
        if id(held) in seen or isinstance(held, _HOLD_NONE):
            continue
        seen.add(id(held))
        if isinstance(held, _GENERATORS):
            found.append(held)
        else:
            waiting += _held_by(held)
    return found


_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, Random)
_HOLD_NONE = (type, types.ModuleType, torch.Tensor, np.ndarray, nn.Module, str, bytes, int, float, type(None))
_MOST_LOOKED_AT = 4096  # objects; data sets may be long lists
_LONGEST = 64  # what is longer holds samples, not generators


def _held_by(holder: Any) -> list[Any]:
    if isinstance(holder, partial):
        return [holder.func, *holder.args, *holder.keywords.values()]
    if isinstance(holder, types.MethodType):
        return [holder.__func__, holder.__self__]
    if isinstance(holder, types.FunctionType):
        named = (holder.__globals__[name] for name in holder.__code__.co_names if name in holder.__globals__)
        return [*closed_over(holder), *named, *(holder.__defaults__ or ()), *(holder.__kwdefaults__ or {}).values()]
    attributes = list(vars(holder).values()) if hasattr(holder, "__dict__") else []
    if not isinstance(holder, (dict, list, tuple, set, frozenset)) or len(holder) > _LONGEST:
        return attributes
    return [*attributes, *(holder.values() if isinstance(holder, dict) else holder)]


def _steps_back(generator: Any) -> list[Undo]:
    """What puts a generator back to where it is now; calls of C alone, which no signal divides."""
    if isinstance(generator, torch.Generator):
        return [partial(generator.set_state, generator.get_state())]
    if isinstance(generator, np.random.Generator):
        return [partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)]
    if isinstance(generator, np.random.RandomState):
        return [partial(generator.set_state, generator.get_state())]
    if not isinstance(generator, random.Random) or isinstance(generator, random.SystemRandom):
        return []  # the system's entropy stands nowhere
    _, python, gauss = generator.getstate()
    return [partial(Random.setstate, generator, python), partial(setattr, generator, "gauss_next", gauss)]


def _seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also records a stack trace for each idle device
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
