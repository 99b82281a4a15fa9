"""Random numbers that begin with a seed, and leave the caller's generators where they were.

with seeded(3): torch.rand(2), random.random(), np.random.rand()        the same each time; nothing moved outside
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers that begin with a seed, and go on outside as if nothing had been drawn."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            _seed_all(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


def _seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also records a stack trace for each idle device
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
