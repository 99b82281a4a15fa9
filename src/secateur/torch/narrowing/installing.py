"""Putting narrowed tensors into a model: tensors, integer attributes, and what modules say of themselves.

    install(model, tensors, edits)

Invariant: dtype, device, requires_grad, ties and names stay; who calls this can undo it (`restoring`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from secateur.core.plan import Edit
from secateur.errors import PlanError
from secateur.torch.narrowing.bookkeeping import refresh
from secateur.torch.running.restoring import flags_kept, shallow_copy


def install(model: nn.Module, tensors: Mapping[str, torch.Tensor], edits: Iterable[Edit]) -> None:
    """Put narrowed tensors in, rewrite attributes, refresh what torch.nn modules say of themselves."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition(".")
        module = modules[owner]
        table = module._parameters if key in module._parameters else module._buffers
        table[key] = tensor  # type: ignore[assignment]
    rewrite(model, tensors, edits)


def rewrite(model: nn.Module, narrowed: Iterable[str], edits: Iterable[Edit]) -> None:
    """Rewrite attributes, and refresh the modules that hold these narrowed tensors."""
    modules = dict(model.named_modules(remove_duplicate=False))
    edits = tuple(edits)
    for edit in edits:
        set_attribute(modules[edit.module], edit.path, edit.old, edit.new)
    for owner in {name.rpartition(".")[0] for name in narrowed} | {edit.module for edit in edits}:
        refresh(modules[owner])
    drop_caches(model)


def drop_caches(model: nn.Module) -> None:
    """Let modules that cache what they compute from parameters forget it, the way they do when training starts."""
    with flags_kept(model):
        model.train()


_STEP = re.compile(r"\.?([A-Za-z_]\w*)|\[(\d+)\]")


def set_attribute(module: nn.Module | SimpleNamespace, path: str, old: int, new: int) -> None:
    """Set ``num_heads``, ``sizes[1]`` or ``config.hidden_size`` of a module; containers are copied, never shared.

    Raises PlanError unless the attribute holds ``old`` now.
    """
    steps = [name if name else int(index) for name, index in _STEP.findall(path)]
    module.__dict__[str(steps[0])] = _replaced(module.__dict__.get(str(steps[0])), steps[1:], old, new, path)


def _replaced(value: Any, steps: list[str | int], old: int, new: int, path: str) -> Any:
    if not steps:
        if type(value) is not int or value != old:
            raise PlanError(f"the plan expects {path} = {old}, the model has {str(value)[:60]}")
        return new
    step, rest = steps[0], steps[1:]
    if isinstance(step, int):
        if not isinstance(value, (tuple, list)) or step >= len(value):
            raise PlanError(f"the plan expects {path} to be a sequence of integers")
        items = list(value)
        items[step] = _replaced(items[step], rest, old, new, path)
        return type(value)(items)
    if not hasattr(value, "__dict__"):
        raise PlanError(f"the plan expects an object at {path}, the model has {type(value).__name__}")
    twin = shallow_copy(value)
    twin.__dict__[step] = _replaced(vars(value).get(step), rest, old, new, path)
    return twin
