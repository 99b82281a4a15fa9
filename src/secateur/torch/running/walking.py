"""The modules of a network and its tensors, all at once, whatever its class says that they are.

    named_modules(model) ──► [("", model), ("stem", …), ("stem.conv", …), …]
    named_parameters(model) ──► [("stem.conv.weight", …), …]                      by every name; by the first with once=True
    attributes_of(module) ──► [("num_heads", 8), ("cache", […]), …]               what its constructor gave it, or its code since

`nn.Module.named_modules` goes through as many generators as a module is deep, for each module; a trace walks dozens of times.
And a class may have a ``named_parameters`` of its own, which leaves out what is not to be trained: narrowed it is all the same.

Invariant: names and order are those of `nn.Module.named_modules` and its like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")

_TABLES = frozenset(vars(nn.Module()))  # its parameters, hooks, flags: every module has them


def named_modules(model: nn.Module, *, once: bool = True) -> list[tuple[str, nn.Module]]:
    """Every module by its name; one that has several by its first, unless ``once`` is off."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:
        entry = name, module = waiting.pop()
        if once:
            if id(module) in seen:
                continue
            seen.add(id(module))
        found.append(entry)
        children = module._modules
        if children:
            prefix = f"{name}." if name else ""
            waiting += [(prefix + key, child) for key, child in children.items() if child is not None][::-1]
    return found


def named_parameters(model: nn.Module, *, once: bool = False) -> list[tuple[str, nn.Parameter]]:
    """Every parameter by every name that it has, or ``once``, by its first."""
    return _tensors(((name, module._parameters) for name, module in named_modules(model, once=once)), once)


def transient_names(model: nn.Module) -> set[str]:
    """The buffers that are no part of the state dict."""
    modules = named_modules(model, once=False)
    return {f"{name}.{key}" if name else key for name, module in modules for key in module._non_persistent_buffers_set}


def named_buffers(model: nn.Module, *, once: bool = False) -> list[tuple[str, torch.Tensor]]:
    """Every buffer by every name that it has, or ``once``, by its first."""
    return _tensors(((name, module._buffers) for name, module in named_modules(model, once=once)), once)


def parameters_of(model: nn.Module) -> list[nn.Parameter]:
    """Every parameter, once."""
    return [parameter for _, parameter in named_parameters(model, once=True)]


def buffers_of(model: nn.Module) -> list[torch.Tensor]:
    """Every buffer, once."""
    return [buffer for _, buffer in named_buffers(model, once=True)]


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module, once."""
    return [module for _, module in named_modules(model)]


def attributes_of(module: nn.Module) -> list[tuple[str, Any]]:
    """What a module holds beside what every module has, as it is now: code may add to it meanwhile."""
    return [(key, value) for key, value in list(vars(module).items()) if key not in _TABLES]


def _tensors(tables: Iterable[tuple[str, Mapping[str, T | None]]], once: bool) -> list[tuple[str, T]]:
    found = [(f"{m}.{k}" if m else k, held) for m, table in tables for k, held in table.items() if held is not None]
    if not once:
        return found
    first = {id(held): name for name, held in reversed(found)}
    return [(name, held) for name, held in found if first[id(held)] == name]
