"""The modules of a network, all at once.

    named_modules(model) ──► [("", model), ("stem", …), ("stem.conv", …), …]
    attributes_of(module) ──► [("num_heads", 8), ("cache", […]), …]               what its constructor gave it, or its code since

`nn.Module.named_modules` goes through as many generators as a module is deep, for each module; a trace walks dozens of times.

Invariant: names and order are those of `nn.Module.named_modules`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

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


def named_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Every parameter by every name that it has."""
    modules = named_modules(model, once=False)
    return [(f"{m}.{k}" if m else k, p) for m, part in modules for k, p in part._parameters.items() if p is not None]


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module, once."""
    return [module for _, module in named_modules(model)]


def attributes_of(module: nn.Module) -> list[tuple[str, Any]]:
    """What a module holds beside what every module has, as it is now: code may add to it meanwhile."""
    return [(key, value) for key, value in list(vars(module).items()) if key not in _TABLES]
