"""Putting narrowed tensors into a model: tensors, integer attributes, and what modules say of themselves.

    install(model, tensors, edits, …)    all of it, or nothing whatever stops it: an error, Ctrl-C, the user's own code
    undo = undo_of(model)                who wants the model back later takes this first, and hands it over

Invariant: dtype, device, requires_grad, ties and names stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.depth import Passes
from secateur.core.plan import Edit
from secateur.errors import PlanError
from secateur.torch.narrowing.bookkeeping import refresh
from secateur.torch.narrowing.following import Following, Pair
from secateur.torch.narrowing.host_building import numbers_held
from secateur.torch.narrowing.host_config import Fields, configs_held, put_config
from secateur.torch.running.constants import narrowable_tensors, table_of
from secateur.torch.running.passing import Passage
from secateur.torch.running.restoring import Undo, flags_kept, relink, undo_of
from secateur.torch.running.settings import fields_of, is_table, row_like, with_fields
from secateur.torch.running.walking import modules_of, named_modules


def install(
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    edits: Iterable[Edit],
    *,
    there: Iterable[str] = (),
    instead: Iterable[Pair] = (),
    notes: Mapping[str, object] | None = None,
    undo: Undo | None = None,
    fields: Fields | None = None,
    drops: Mapping[str, Passes | None] | None = None,
) -> None:
    """Put tensors in, rewrite attributes, refresh what torch.nn modules say of themselves, leave notes on the model.

    ``there`` names narrowed tensors that are in already, ``instead`` of which whole ones; ``fields`` are what the model's own
    configuration says from now on, which all modules share again; ``drops`` names blocks that go, each with what stands in its
    place (`drop_blocks`). If anything stops this, ``undo`` is called: by default it makes the model what it was before this call.
    """
    undo = undo_of(model) if undo is None else undo
    before = narrowable_tensors(model) if tensors else {}
    pairs = [*instead, *((before[name], tensor) for name, tensor in tensors.items() if name in before)]
    following = Following(model, pairs)
    try:
        modules = dict(named_modules(model, once=False))
        configs, numbers = (configs_held(model), numbers_held(model)) if fields else ({}, {})
        following.put_in()
        resized = _put_in(modules, tensors)
        resized |= _rewrite(modules, edits) | {name.rpartition(".")[0] for name in there}
        for owner in resized:
            refresh(modules[owner])
        drop_blocks(modules, drops or {})
        if fields:
            put_config(model, configs, numbers, fields)
        _drop_caches(model)
        model.__dict__.update(notes or {})
    except BaseException:
        undo()
        following.put_back()
        raise


def _put_in(modules: Mapping[str, nn.Module], tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """Put tensors into the tables of their modules; the modules that hold one of another shape now."""
    resized: set[str] = set()
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition(".")
        module = modules[owner]
        table = table_of(module, key)
        before = table[key]
        table[key] = tensor
        if before is None or before.shape != tensor.shape:
            resized.add(owner)
    for owner in {name.rpartition(".")[0] for name in tensors}:
        relink(modules[owner])
    return resized


def _rewrite(modules: Mapping[str, nn.Module], edits: Iterable[Edit]) -> set[str]:
    """Rewrite attributes; the modules that were rewritten."""
    rewritten: set[str] = set()
    for edit in edits:
        set_attribute(modules[edit.module], edit.path, edit.old, edit.new)
        rewritten.add(edit.module)
    return rewritten


def drop_blocks(modules: Mapping[str, nn.Module], drops: Mapping[str, Passes | None]) -> None:
    """Take blocks out of their lists, where the rest is numbered anew; of those that leave a `Passage`, put that in."""
    for name, passes in drops.items():
        if passes is not None:
            _put_passage(modules, name, passes)
    listed = [name for name, passes in drops.items() if passes is None]
    for stack in dict.fromkeys(name.rpartition(".")[0] for name in listed):
        entries = _entries(modules.get(stack), stack)
        gone = {name.rpartition(".")[2] for name in listed if name.rpartition(".")[0] == stack}
        stay = [(key, entry) for key, entry in entries.items() if key not in gone]
        if not gone <= entries.keys() or not stay:
            raise PlanError(f"the plan drops {', '.join(sorted(gone))} of {stack}, which has {', '.join(entries)}")
        entries.clear()
        for place, (key, entry) in enumerate(stay):
            entries[str(place) if key.isdigit() else key] = entry


def _put_passage(modules: Mapping[str, nn.Module], name: str, passes: Passes) -> None:
    around, _, key = name.rpartition(".")
    holder = modules.get(around)
    block = None if holder is None else holder._modules.get(key)
    if holder is None or block is None:
        raise PlanError(f"the plan drops {name}, and there is no such module here")
    holder._modules[key] = Passage(passes).train(block.training)


def _entries(stack: nn.Module | None, name: str) -> dict[str, nn.Module]:
    if not isinstance(stack, (nn.ModuleList, nn.Sequential)):
        raise PlanError(f"the plan drops blocks of {name or 'the model'}, which is no list of modules here")
    return stack._modules


def _drop_caches(model: nn.Module) -> None:
    """Let modules that cache what they compute from parameters forget it, the way they do when training starts."""
    if all(type(module).train is nn.Module.train for module in modules_of(model)):
        return
    with flags_kept(model):
        model.train()


_PART = re.compile(r"""\.?([A-Za-z_]\w*)|\[(\d+)\]|\["([A-Za-z_]\w*)"\]""")


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of a dict."""

    name: str


_Part = str | int | _Key


def set_attribute(module: nn.Module | SimpleNamespace, path: str, old: int, new: int) -> None:
    """Set ``num_heads``, ``sizes[1]``, ``config.hidden_size`` or ``cfg["dim"]`` of a module; containers are copied, never
    shared. What its class says for all is from then on said by the module itself.

    Raises PlanError unless the attribute holds ``old`` now.
    """
    parts: list[_Part] = [name or (_Key(key) if key else int(index)) for name, index, key in _PART.findall(path)]
    name = str(parts[0])
    held = module.__dict__[name] if name in module.__dict__ else getattr(type(module), name, None)
    module.__dict__[name] = _replaced(held, parts[1:], old, new, path)


def _replaced(value: Any, parts: list[_Part], old: int, new: int, path: str) -> object:
    if not parts:
        if not (type(value) is int or isinstance(value, np.integer)) or value != old:
            raise PlanError(f"the plan expects {path} = {old}, the model has {str(value)[:60]}")
        return type(value)(new)
    part, rest = parts[0], parts[1:]
    if isinstance(part, int):
        if not isinstance(value, (tuple, list)) or part >= len(value):
            raise PlanError(f"the plan expects {path} to be a sequence of integers")
        items = list(value)
        items[part] = _replaced(items[part], rest, old, new, path)
        return row_like(value, items)
    if isinstance(part, _Key):
        if not is_table(value) or part.name not in value:
            raise PlanError(f"the plan expects {path} to be an entry of a dict, the model has {type(value).__name__}")
        return type(value)(value) | {part.name: _replaced(value[part.name], rest, old, new, path)}
    fields = fields_of(value)
    if part not in fields:
        raise PlanError(f"the plan expects an object at {path}, the model has {type(value).__name__}")
    return with_fields(value, {part: _replaced(fields[part], rest, old, new, path)})
