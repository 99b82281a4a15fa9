"""The tensors in what a model returns, by a reader of the tests' own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def tensors(out: object) -> list[Tensor]:
    """All tensors and arrays of numbers, in the order in which they are held: containers, dataclasses, plain objects."""
    if isinstance(out, Tensor):
        return [out]
    if isinstance(out, np.ndarray):
        return [torch.from_numpy(out)]
    if isinstance(out, Mapping):
        return [t for part in out.values() for t in tensors(part)]
    if isinstance(out, (tuple, list)):
        return [t for part in out for t in tensors(part)]
    slots = [name for kind in type(out).__mro__ for name in kind.__dict__.get("__slots__", ())]
    held = [getattr(out, name) for name in slots if hasattr(out, name)] + list(getattr(out, "__dict__", {}).values())
    return [t for part in held for t in tensors(part)]
