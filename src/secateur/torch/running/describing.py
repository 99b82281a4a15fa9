"""Data in a few words, for sentences: ``a tuple of 2: a tensor (16, 6) of float32, a tensor (16,) of int64``.

Invariant: no value is read, only structure and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from secateur.core.text import visible


def described(value: object) -> str:
    """A batch in a few words: its structure and the shapes in it."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping) or hasattr(value, "keys"):
        keys = [visible(key) for key in list(value)[:6]]  # type: ignore[call-overload]
        return f"{_a(value)} with {', '.join(keys)}" if keys else f"an empty {type(value).__name__}"
    if isinstance(value, tuple | list):
        inner = ", ".join(described(entry) for entry in value[:4])
        return f"{_a(value)} of {len(value)}: {inner}" if value else f"an empty {type(value).__name__}"
    return _a(value)


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
