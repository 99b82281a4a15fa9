"""A tensor that is narrowed in place goes by other ways than its name, too: whatever else of the model's holds it follows.

    self.h (buffer) is self.seen[-1]           h narrowed ──► seen[-1] is the narrowed h
    hook = lambda module, x, y: y * gate       gate narrowed ──► so is the hook's variable

What holds it: containers, objects, and what hangs on functions (variables, defaults, arguments of a partial, the object that a
method is bound to). What a function kept by ``lru_cache`` was computed from whole tensors, and is forgotten.

Invariant: no container or object becomes another one, but for tuples and frozen sets; `put_back` leaves what was there.
"""

from __future__ import annotations

import functools
import operator
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import starmap
from typing import Any

import torch
from torch import nn

from secateur.torch.running.holding import ATOMS, SHARED, content_of
from secateur.torch.running.outside import Outside
from secateur.torch.running.settings import row_like
from secateur.torch.running.walking import modules_of

Pair = tuple[torch.Tensor, torch.Tensor]  # a tensor that was narrowed, and what stands in its place
Held = Any  # whatever a model holds
_Step = tuple[
    Callable[..., object], tuple[Held, ...], tuple[Held, ...]
]  # what sets a place, with what is new, with what was

_MOST = 200_000  # things that are looked into: a model that holds a whole program holds no end of them
# An optimizer has a state for each parameter, of its shape: `remap_optimizer` sees to that.
_CLOSED = (*SHARED, type, types.ModuleType, types.CodeType, torch.Tensor, torch.optim.Optimizer, torch.jit.ScriptModule)
_CELL: Held = types.CellType.cell_contents  # type: ignore[attr-defined]
_DEFAULTS: Held = types.FunctionType.__dict__["__defaults__"]


class Following:
    """The places of tensors that are narrowed. State: what sets each of them, found when this is made."""

    def __init__(self, model: nn.Module, pairs: Iterable[Pair]) -> None:
        self._new = {id(old): small for old, small in pairs if old is not small}
        self._steps: list[_Step] = []
        self._caches: list[Held] = []
        self._waiting: list[Held] = []
        self._optimizers: list[torch.optim.Optimizer] = []
        self._outside: Outside | None = None
        if self._new:
            self._outside = Outside(model)
            self._search(model)
        if any(map(self._trains, self._optimizers)):
            warnings.warn(
                "the model keeps an optimizer of parameters that others stand for once they are narrowed, and that would "
                "go on to train the old ones: pass it to secateur.training.remap_optimizer(optimizer, model) then",
                stacklevel=2,
            )

    def put_in(self) -> None:
        """Put each narrowed tensor wherever the whole one is, in one step, which no signal divides (`undo_of` says why)."""
        deque(starmap(operator.call, [(setting, *new) for setting, new, _ in self._steps]), 0)
        for cache in self._caches:
            cache.cache_clear()
        if self._outside is not None:
            self._outside.forget()

    def put_back(self) -> None:
        """Put the whole ones back."""
        deque(starmap(operator.call, [(setting, *old) for setting, _, old in self._steps]), 0)

    def _search(self, model: nn.Module) -> None:
        modules = modules_of(model)
        seen = {id(module) for module in modules}
        kept: list[Held] = []  # so that an identity stays theirs
        for module in modules:
            if not isinstance(module, torch.jit.ScriptModule):
                seen |= {id(vars(module).get(table)) for table in ("_parameters", "_buffers", "_modules")}
                self._object(module)
        while self._waiting and len(kept) < _MOST:
            value = self._waiting.pop()
            if isinstance(value, torch.optim.Optimizer):
                self._optimizers.append(value)
            if type(value) not in ATOMS and id(value) not in seen and not isinstance(value, _CLOSED):
                seen.add(id(value))
                kept.append(value)
                self._look_into(value)

    def _trains(self, optimizer: torch.optim.Optimizer) -> bool:
        return any(id(p) in self._new for group in optimizer.param_groups for p in group["params"])

    def _look_into(self, value: Held) -> None:
        match value:
            case dict():
                self._dict(value)
            case list() | deque():
                setting = type(value).__setitem__ if type(value) in (list, deque) else _set_item
                for place, item in enumerate(list(value)):
                    self._place(setting, (value, place), item)
            case set():
                made = [self._made(item) for item in list(value)]
                if any(one is not item for one, item in zip(made, list(value), strict=True)):
                    self._steps.append((_refill, (value, made), (value, list(value))))
                self._waiting += made
            case (
                tuple() | frozenset() | types.MappingProxyType()
            ):  # with nothing narrowed in it, or nothing that can be reached
                self._waiting += value.values() if isinstance(value, types.MappingProxyType) else _items(value)
            case types.FunctionType():
                for cell in value.__closure__ or ():
                    for content in content_of(cell):
                        self._place(_CELL.__set__, (cell,), content)
                self._place(_DEFAULTS.__set__, (value,), value.__defaults__)
                self._waiting += [value.__kwdefaults__, value.__dict__]
            case types.MethodType():
                self._waiting += [value.__self__, value.__func__]
            case types.BuiltinFunctionType() | types.MethodWrapperType():
                self._waiting.append(value.__self__)
            case functools.partial():
                state = value.func, value.args, value.keywords, value.__dict__
                args = self._made(value.args)
                if args is not value.args:
                    self._steps.append(
                        (functools.partial.__setstate__, (value, (state[0], args, *state[2:])), (value, state))  # type: ignore[attr-defined]
                    )
                self._waiting += state
            case functools._lru_cache_wrapper():
                self._caches.append(value)
                self._waiting.append(value.__wrapped__)
            case _:
                self._object(value)

    def _object(self, value: Held) -> None:
        """Its attributes, those in slots too."""
        self._waiting.append(getattr(value, "__dict__", None))
        for kind in type(value).__mro__:
            for slot in vars(kind).values():
                if isinstance(slot, types.MemberDescriptorType) and kind.__module__ != "builtins":
                    try:
                        held = slot.__get__(value)
                    except AttributeError:  # a slot that nothing was put into
                        continue
                    self._place(slot.__set__, (value,), held)

    def _dict(self, value: dict[Held, Held]) -> None:
        items = list(value.items())
        if any(self._made(key) is not key for key, _ in items):
            made = [(self._made(key), self._made(item)) for key, item in items]
            self._steps.append((_refill, (value, made), (value, items)))
            self._waiting += [item for _, item in made]
            return
        setting = dict.__setitem__ if type(value) is dict else _set_item
        for key, item in items:
            self._place(setting, (value, key), item)

    def _place(self, setting: Callable[..., object], where: tuple[Held, ...], held: Held) -> None:
        """A place that holds something: it is set anew where that is narrowed, else looked into."""
        made = self._made(held)
        if made is held:
            self._waiting.append(held)
        else:
            self._steps.append((setting, (*where, made), (*where, held)))

    def _made(self, value: Held) -> Held:
        """What stands in the place of a value: itself, or of what is narrowed and cannot be changed, another."""
        if isinstance(value, torch.Tensor):
            return self._new.get(id(value), value)
        if type(value) is frozenset or isinstance(value, tuple):
            items = [self._made(item) for item in _items(value)]
            if any(one is not item for one, item in zip(items, _items(value), strict=True)):
                self._waiting += items
                return row_like(value, items) if isinstance(value, tuple) else frozenset(items)
        return value


def _items(value: tuple[Held, ...] | frozenset[Held]) -> Iterator[Held]:
    """As the built-in class lists them: one of the user's own may count otherwise, or raise."""
    return tuple.__iter__(value) if isinstance(value, tuple) else frozenset.__iter__(value)


def _set_item(container: Held, key: Held, value: Held) -> None:
    container[key] = value


def _refill(container: Held, items: list[Held]) -> None:
    container.clear()
    container.update(items)
