"""Switches of the process that a trace turns, and turns back.

    fused attention ── off, so that a trace sees the operators it is made of        oneDNN's recurrent kernels ── off

Invariant: after the block every switch is what it was before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._tensor
import torch.functional
import torch.nn.functional


@contextmanager
def tracing_switches() -> Iterator[None]:
    """Turn off what hides operators from a trace: fused fast paths, oneDNN recurrent kernels, autograd.

    Also lets the tracer see inside torch.nn.functional's Python functions, which otherwise hand themselves over whole.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    mkldnn = torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        torch._C._set_mkldnn_enabled(False)
        with torch.no_grad(), visible_functions():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        torch._C._set_mkldnn_enabled(mkldnn)


@contextmanager
def visible_functions() -> Iterator[None]:
    """Let a mode see inside torch.nn.functional's Python functions, which otherwise hand themselves over whole."""
    saved = [(place, name, getattr(place, name)) for place, name in _overridable_guards()]
    for place, name, _ in saved:
        setattr(place, name, _never)
    try:
        yield
    finally:
        for place, name, value in saved:
            setattr(place, name, value)


def _overridable_guards() -> list[tuple[Any, str]]:
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    modules = (torch.nn.functional, torch.functional, torch._tensor)
    return [(module, name) for module in modules for name in names if hasattr(module, name)]


def _never(*_: object) -> bool:
    return False
