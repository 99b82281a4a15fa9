"""A tensor that is narrowed in place goes by other ways than its name, too: lists, dicts and attributes that hold it follow.

    self.h (buffer) is self.seen[-1]        h narrowed ──► seen[-1] is the narrowed h

Invariant: a list or dict that an attribute holds stays that object, with other entries (`undo_of` puts these back); containers
inside it are made anew.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from secateur.torch.running.settings import is_plain_row, row_like
from secateur.torch.running.state import DEPTH
from secateur.torch.running.walking import attributes_of, modules_of

Pair = tuple[torch.Tensor, torch.Tensor]  # a tensor that was narrowed, and what stands in its place


def follow(model: nn.Module, pairs: Iterable[Pair]) -> None:
    """Put each narrowed tensor wherever modules hold the whole one beside their tables."""
    new = {id(old): small for old, small in pairs if old is not small}
    for module in modules_of(model) if new else ():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for key, value in attributes_of(module):
            made = _followed(value, new, DEPTH)
            if made is value:
                continue
            if type(value) in (list, deque):
                for number, item in enumerate(made):
                    value[number] = item
            elif type(value) in (dict, OrderedDict):
                value.update(made)
            else:
                vars(module)[key] = made


def _followed(value: Any, new: dict[int, torch.Tensor], depth: int) -> Any:
    """The value itself where nothing in it is narrowed, otherwise another one of its kind."""
    if isinstance(value, torch.Tensor):
        return new.get(id(value), value)
    if not depth:
        return value
    if type(value) in (dict, OrderedDict):
        made = {key: _followed(item, new, depth - 1) for key, item in value.items()}
        return type(value)(made) if any(made[key] is not item for key, item in value.items()) else value
    if type(value) is deque or (isinstance(value, (list, tuple)) and is_plain_row(value)):
        items = [_followed(item, new, depth - 1) for item in value]
        if all(made is item for made, item in zip(items, value, strict=True)):
            return value
        return deque(items, value.maxlen) if isinstance(value, deque) else row_like(value, items)
    return value
