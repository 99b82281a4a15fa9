"""Deep copies of anything a network holds or is given.

    modules, containers, plain objects ── copied        closures, bound methods, weak references ── bound to the copies
    tensors ── what the caller says                     locks, threads, open files, code ── held by both

`copy.deepcopy` takes functions, weak references and caches for constants: ``self.head = lambda x: self.fc(x)`` in a copy
would run the first network. Everything else that we do not know goes through it.

Invariant: a run of the copy cannot write into what was copied; what cannot be copied raises `Uncopyable` with its place.
"""

from __future__ import annotations

import collections
import copy
import functools
import re
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from secateur.torch.running.holding import ATOMS, SHARED, content_of, everything_in, held_by, is_bound, reaches
from secateur.torch.running.interrupts import Interrupts
from secateur.torch.running.plain import is_kept_from_disk, is_plain, is_plain_but_for_copies

Replace = Callable[[torch.Tensor], torch.Tensor]
Held = Any  # whatever a model or a batch holds: a copier assumes nothing of it
Way = Callable[["Copier", Held], Held]

_TABLES = frozenset(key for key, held in vars(nn.Module()).items() if isinstance(held, (dict, set)))
_DICTS = frozenset({dict, collections.OrderedDict})
# A run would move them on, and nobody can copy them.
_CONSUMED = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)


_NOWHERE = weakref.ref(collections.OrderedDict())  # what is gone already

CHANGED = "during iteration"  # what Python says when another thread writes to a container that is walked


_CHILD = re.compile(r"\._modules\['([^']*)'\]")


class Uncopyable(Exception):
    """Something cannot be copied; ``steps`` lead to it, innermost first."""

    def __init__(self, value: object, why: str) -> None:
        super().__init__(why)
        self.kind, self.why = type(value).__name__, why
        self.steps: list[str] = []

    def sentence(self, root: str) -> str:
        """What, where, why, and the way out."""
        path = _CHILD.sub(r".\1", "".join(reversed(self.steps)))
        place = f"{root}{path}" if root else path.removeprefix(".") or "the model"
        return (
            f"{place} is a {self.kind}, which cannot be copied ({self.why}), so nothing can run without touching it. "
            "Take it out of the model, hold plain values in its place, or give its class a __deepcopy__."
        )


class Copier:
    """One deep copy. ``memo`` maps what has been copied, by identity, and may be filled beforehand.

    ``members`` are the modules of the network: a weak reference to one of them, or to one of its tables, is bound to the
    copy. With ``keeps_strangers``, functions and bound methods that reach none of them, of their tensors and of what else they
    ``held`` are held by both.
    """

    def __init__(self, replace: Replace, members: Iterable[nn.Module] = (), *, keeps_strangers: bool = False) -> None:
        self.replace = replace
        self.memo: dict[int, Held] = {}
        modules = tuple(members)
        self.members = {id(module) for module in modules}
        self.members |= {id(vars(module)[key]) for module in modules for key in _TABLES & vars(module).keys()}
        self.held = {id(each) for module in modules for each in held_by(module)} if keeps_strangers else set[int]()
        self.keeps_strangers = keeps_strangers
        self._alive: list[Held] = []  # identities in the memo stay theirs
        self._ways: dict[type, Way] = {}

    def copy(self, value: object) -> Held:
        """The copy of a value: always the same one for the same value."""
        kind = type(value)
        if kind in ATOMS:
            return value
        made = self.memo.get(id(value), self)  # the copier itself is nobody's copy
        if made is not self:
            return made
        way = self._ways.get(kind)
        if way is None:
            way = self._ways[kind] = _way(kind)
        return self.remember(value, way(self, value))

    def remember(self, value: object, made: object) -> Held:
        """Note a copy, before it is filled where it may hold itself."""
        if made is not value:
            self._alive.append(value)
        self.memo[id(value)] = made
        return made

    def is_stranger(self, function: types.FunctionType | types.MethodType | types.BuiltinFunctionType) -> bool:
        """Whether a function is to be held by both, since it has nothing to do with the network."""
        return self.keeps_strangers and not reaches(function, self.members | self.held | self.memo.keys())

    def items(self, pairs: Iterable[tuple[Held, Held]], step: str) -> Iterable[tuple[Held, Held]]:
        """Copies of keyed values; ``step`` says how a key is written in a path."""
        for key, value in pairs:
            try:
                yield self.copy(key), self.copy(value)
            except Uncopyable as error:
                error.steps.append(step.format(key))
                raise


def _way(kind: type) -> Way:
    """How values of a type are copied."""
    known = _WAYS.get(kind)
    if known is not None:
        return known
    for base, way in _WAYS_OF_SUBCLASSES:
        if issubclass(kind, base):
            return way
    if issubclass(kind, nn.Module):
        return _module if is_plain(kind) else _module_first if is_plain_but_for_copies(kind) else _by_deepcopy
    return _plain if is_plain(kind) else _by_deepcopy


def _same(copier: Copier, value: object) -> Held:
    return value


def _refuse(copier: Copier, value: object) -> Held:
    raise Uncopyable(value, "a run would use it up")


def _tensor(copier: Copier, value: torch.Tensor) -> torch.Tensor:
    return copier.replace(value)


def _plain(copier: Copier, value: object) -> Held:
    made = copier.remember(value, object.__new__(type(value)))
    made.__dict__.update(copier.items(list(vars(value).items()), ".{}"))
    return made


def _module(copier: Copier, value: nn.Module) -> Held:
    """As any plain object, but that its dozen tables are its own, and mostly empty."""
    made = copier.remember(value, object.__new__(type(value)))
    filled = made.__dict__
    for key, held in list(vars(value).items()):
        kind = type(held)
        if kind in ATOMS:
            filled[key] = held
            continue
        own = key in _TABLES
        if own and not held:
            filled[key] = kind()
            continue
        try:
            filled[key] = _table(copier, held) if own and kind in _DICTS else copier.copy(held)
        except Uncopyable as error:
            error.steps.append(f".{key}")
            raise
    return made


def _module_first(copier: Copier, value: nn.Module) -> Held:
    """A module whose class has a ``__deepcopy__`` and the like: what that leaves out, shares or builds anew would be no twin.
    By its own rules only where it holds what nobody else can copy.
    """
    before = dict(copier.memo)
    try:
        return _module(copier, value)
    except Uncopyable:
        copier.memo.clear()  # it holds half-made copies
        copier.memo.update(before)
        return _by_deepcopy(copier, value)


def _table(copier: Copier, table: dict[Held, Held]) -> Held:
    if id(table) in copier.memo:  # a hook's handle was copied before its module
        return copier.memo[id(table)]
    made = copier.remember(table, type(table)())
    for name, held in list(table.items()):
        try:
            made[name] = copier.copy(held)
        except Uncopyable as error:
            error.steps.append(f"[{name!r}]")
            raise
    return made


def _dict(copier: Copier, value: dict[Held, Held]) -> Held:
    made = copier.remember(value, type(value)())
    if value:
        made.update(copier.items(list(value.items()), "[{!r}]"))
    return made


def _defaultdict(copier: Copier, value: collections.defaultdict[Held, Held]) -> Held:
    made = copier.remember(value, collections.defaultdict(copier.copy(value.default_factory)))
    made.update(copier.items(list(value.items()), "[{!r}]"))
    return made


def _list(copier: Copier, value: list[Held]) -> list[Held]:
    made = copier.remember(value, [])
    made.extend(held for _, held in copier.items(enumerate(list(value)), "[{}]"))
    return made


def _tuple(copier: Copier, value: tuple[object, ...]) -> tuple[Held, ...]:
    if ATOMS.issuperset(map(type, value)):
        return value
    made = tuple(held for _, held in copier.items(enumerate(value), "[{}]"))
    if all(a is b for a, b in zip(made, value, strict=True)):
        return value
    return copier.memo.get(id(value), made)


def _set(copier: Copier, value: Held) -> Held:
    return type(value)(held for _, held in copier.items(enumerate(list(value)), "[{}]"))


def _deque(copier: Copier, value: collections.deque[Held]) -> collections.deque[Held]:
    made = copier.remember(value, collections.deque(maxlen=value.maxlen))
    made.extend(held for _, held in copier.items(enumerate(list(value)), "[{}]"))
    return made


def _mapping_proxy(copier: Copier, value: types.MappingProxyType[Held, Held]) -> Held:
    return types.MappingProxyType(_dict(copier, dict(value)))


def _builtin(copier: Copier, value: types.BuiltinFunctionType) -> Held:
    """``items.append``, ``random.random``: bound to the copy of what they are bound to."""
    held = value.__self__
    if held is None or isinstance(held, (type, types.ModuleType)):
        return value
    made = held if copier.is_stranger(value) else copier.copy(held)
    return value if made is held else getattr(made, value.__name__)


def _method(copier: Copier, value: types.MethodType) -> Held:
    if copier.is_stranger(value):
        return value
    return types.MethodType(copier.copy(value.__func__), copier.copy(value.__self__))


def _static(copier: Copier, value: staticmethod[..., Held]) -> Held:
    made = copier.copy(value.__func__)
    return value if made is value.__func__ else staticmethod(made)


def _partial(copier: Copier, value: functools.partial[Held]) -> Held:
    made = functools.partial(
        copier.copy(value.func), *copier.copy(value.args), **{k: copier.copy(v) for k, v in value.keywords.items()}
    )
    made.__dict__.update(copier.items(list(value.__dict__.items()), ".{}"))
    return made


def _cache(copier: Copier, value: Held) -> Held:
    """``functools.lru_cache`` around a method: its own, empty cache around the copy's method."""
    return functools.lru_cache(**value.cache_parameters())(copier.copy(value.__wrapped__))


def _generator(copier: Copier, value: torch.Generator) -> torch.Generator:
    made = torch.Generator(device=value.device)
    made.set_state(value.get_state())
    return made


def _weak(copier: Copier, value: Held) -> Held:
    held = value()
    return weakref.ref(copier.copy(held)) if id(held) in copier.members else value


def _handle(copier: Copier, value: RemovableHandle) -> RemovableHandle:
    """It removes the copy's hook; one of a hook outside of the network removes nothing."""
    made = copier.remember(value, object.__new__(RemovableHandle))
    refs = [
        held if id(held()) in copier.members else _NOWHERE for held in (value.hooks_dict_ref, *value.extra_dict_ref)
    ]
    made.id = value.id
    made.hooks_dict_ref, *rest = map(copier.copy, refs)
    made.extra_dict_ref = tuple(rest)
    return made


def _function(copier: Copier, value: types.FunctionType) -> types.FunctionType:
    """A clone that closes over the copies; the function itself where it closes over constants only."""
    if not is_bound(value, set()) or copier.is_stranger(value):
        return value
    cells = tuple(types.CellType() for _ in value.__closure__ or ())
    made = types.FunctionType(value.__code__, value.__globals__, value.__name__, None, cells)
    copier.remember(value, made)
    made.__qualname__, made.__module__ = value.__qualname__, value.__module__
    made.__defaults__ = copier.copy(value.__defaults__)
    made.__kwdefaults__ = copier.copy(value.__kwdefaults__)
    made.__dict__.update(copier.items(list(value.__dict__.items()), ".{}"))
    variables = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    contents = [(name, content) for name, old in variables for content in content_of(old)]
    bound = dict(copier.items(contents, " (its variable {})"))
    for name, new in zip(value.__code__.co_freevars, cells, strict=True):
        if name in bound:
            new.cell_contents = bound[name]
    return made


def _by_deepcopy(copier: Copier, value: object) -> Held:
    """What we know nothing of: by its own rules, with whatever it shares with the rest of the copy."""
    before = dict(copier.memo)
    for is_last in (False, True):
        try:
            with Interrupts(), _Replacing(copier):  # PyTorch loses a mode to an interrupt
                return _with_functions(copier, value, copy.deepcopy(value, copier.memo))
        except Exception as error:
            if isinstance(error, Uncopyable) or CHANGED in str(error):
                raise
            copier.memo.clear()  # it holds half-made copies
            copier.memo.update(before)
            if is_kept_from_disk(value):
                return _module(copier, value) if isinstance(value, nn.Module) else _plain(copier, value)
            if is_last or not _share_inside(copier, value):
                raise Uncopyable(value, f"{type(error).__name__}: {error}") from error
    raise AssertionError("the loop above returns or raises")


def _with_functions(copier: Copier, value: object, made: object) -> Held:
    """A module that copies itself by rules of its own still holds the functions of the first one."""
    if isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
        copier.memo[id(value)] = made
        for key, held in vars(made).items():
            if held is vars(value).get(key) and type(held) in _FUNCTIONS:
                made.__dict__[key] = copier.copy(held)
    return made


def _share_inside(copier: Copier, value: object) -> bool:
    """Let the copy of an object hold the same locks and files as the object; whether it has any."""
    inside = list(everything_in(value))
    for held in inside:
        if isinstance(held, _CONSUMED):
            _refuse(copier, held)
    shared = [held for held in inside if isinstance(held, SHARED)]
    copier.memo.update((id(held), held) for held in shared)
    return bool(shared)


class _Replacing(TorchFunctionMode):
    """Answers a tensor's own ``__deepcopy__`` inside objects that copy themselves; the mode is this thread's alone."""

    def __init__(self, copier: Copier) -> None:
        super().__init__()
        self.copier = copier

    def __torch_function__(self, func: Held, types: object, args: Held = (), kwargs: Held = None) -> Held:
        if func is torch.Tensor.__deepcopy__:
            return self.copier.copy(args[0])
        return func(*args, **(kwargs or {}))


_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)
_WAYS: dict[type, Way] = {
    dict: _dict,
    collections.OrderedDict: _dict,
    collections.defaultdict: _defaultdict,
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _set,
    collections.deque: _deque,
    types.MappingProxyType: _mapping_proxy,
    types.BuiltinFunctionType: _builtin,
    types.MethodType: _method,
    types.FunctionType: _function,
    functools.partial: _partial,
    staticmethod: _static,
    functools._lru_cache_wrapper: _cache,
    torch.Generator: _generator,
    weakref.ref: _weak,
    RemovableHandle: _handle,
    torch._C.ScriptFunction: _same,
}
_WAYS_OF_SUBCLASSES: tuple[tuple[Held, Way], ...] = (
    (torch.Tensor, _tensor),
    (type, _same),
    (_CONSUMED, _refuse),
    (SHARED, _same),
)
