"""Random numbers that begin with a seed, and leave the caller's generators where they were.

    with seeded(3): torch.rand(2), random.random(), np.random.rand()        the same each time; nothing moved outside
    undo = undo_of_random_state()                                           where a block will not do

Invariant: the generators are put back in one step that no signal divides.
"""

from __future__ import annotations

import operator
import random
from _random import Random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from secateur.torch.running.restoring import Undo


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers that begin with a seed, and go on outside as if nothing had been drawn."""
    undo = undo_of_random_state()
    try:
        _seed_all(seed)
        yield
    finally:
        undo()


def undo_of_random_state() -> Undo:
    """What puts Python's, NumPy's and PyTorch's generators back, once, to where they are now."""
    python = random.getstate()
    ours = random.getstate.__self__  # the generator behind the functions of the module
    steps: list[Undo] = [
        partial(Random.setstate, ours, python[1]),  # its own method is Python, and a signal could come first
        partial(setattr, ours, "gauss_next", python[2]),
        partial(np.random.set_state, np.random.get_state()),
    ]
    generators = [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]
    steps += [partial(generator.set_state, generator.get_state()) for generator in generators]
    return partial(deque, map(operator.call, steps), 0)


def _seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also records a stack trace for each idle device
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
