"""What a model's code writes to that is no part of the model: caches and globals of its Python modules, and its classes.

    _WINDOWS = {}                       after a run of a twin these would hold tensors without data, or of another width,
    @lru_cache                          and the user's next forward would find them
    def positions(n): …

`Outside` remembers these places before a run and afterwards takes out what the run left there. What it does not know of, it
finds by asking the garbage collector who still holds a tensor of the run.

Invariant: when `put_back` returns, no tensor of the run is alive. While other threads run, only what holds something of the
run is taken out: the rest may be theirs.
"""

from __future__ import annotations

import collections
import functools
import gc
import sys
import threading
import types
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import is_
from typing import Any

import torch
from torch import nn

from secateur.core.sized import Sized
from secateur.torch.running.holding import closed_over
from secateur.torch.running.hunting import take_out
from secateur.torch.running.switches import ALONE
from secateur.torch.running.walking import modules_of

Made = list["weakref.ref[torch.Tensor]"]  # tensors of a run, while anybody holds them

_CONTAINERS = frozenset(
    {dict, list, set, collections.OrderedDict, collections.defaultdict, collections.deque, collections.Counter}
)
_NOT_THEIRS = frozenset({"torch", "numpy", "secateur", *sys.stdlib_module_names})
_DEPTH = 3  # containers inside containers inside objects that a module holds
_REGISTRY = 500  # entries: what is listed there by the thousand (every model of a library) is not what a forward fills
_Cache = functools._lru_cache_wrapper
_FUNCTIONS = frozenset({types.FunctionType, _Cache, staticmethod, classmethod})


class Outside:
    """The places outside a model that its code is known to reach, and what they held when this was made.

    One object serves several runs, one after the other: after each, the places hold what they held before.
    """

    def __init__(self, model: nn.Module) -> None:
        classes = {kind for module in modules_of(model) for kind in type(module).__mro__ if _is_theirs(kind.__module__)}
        with ALONE:  # while no twin runs, whose tensors would lie there
            places = _places_of(classes)
            self._containers = places.containers
            self._before = [container.copy() for container in places.containers]
            self._classes = [(kind, dict(vars(kind))) for kind in classes]
        self._caches = [(cache, cache.cache_info().misses) for cache in places.caches]
        self._alone = threading.active_count() == 1

    def put_back(self, made: Made) -> None:
        """Take out what a run left outside.

        Raises TraceError, naming the place, where a tensor of the run is held and cannot be taken out.
        """
        ours = _Ours(made, alone=self._alone and threading.active_count() == 1)
        if ours.alive or not self._looks_untouched():
            for container, before in zip(self._containers, self._before, strict=True):
                _restore(container, before, ours)
        for kind, before in self._classes:
            _restore_class(kind, before, ours)
        for cache, misses in self._caches:
            if ours.alive and cache.cache_info().misses != misses and ours.reached_from(cache):
                cache.cache_clear()
        del ours
        for generation in (1, 2):  # what dies only with its cycle
            if any(one() is not None for one in made):
                gc.collect(generation)
        take_out(made)

    def forget(self) -> None:
        """Empty the caches of functions: what they hold is computed anew when it is asked for."""
        for cache, _ in self._caches:
            cache.cache_clear()

    def _looks_untouched(self) -> bool:
        """Whether nothing changed, in one call of C: there may be ten thousand containers, and few runs touch one."""
        try:
            return bool(self._containers == self._before)
        except Exception:  # what was put there has ideas of its own about being compared; or another thread writes
            return False


class _Ours:
    """Whether something holds what a run made. ``alone``: nobody else can have changed anything meanwhile."""

    def __init__(self, made: Made, *, alone: bool) -> None:
        self.alone = alone
        self.alive = {id(tensor): tensor for one in made if (tensor := one()) is not None}

    def holds(self, value: object, depth: int = 4) -> bool:
        if isinstance(value, torch.Tensor):
            return id(value) in self.alive
        if isinstance(value, Sized):
            return True
        if depth == 0 or type(value) in (str, int, float, bool, type(None)):
            return False
        return any(self.holds(item, depth - 1) for item in _inside(value))

    def reached_from(self, value: object, depth: int = 4) -> bool:
        """The same by what the garbage collector knows: for containers that show nothing of what they hold."""
        held = gc.get_referents(value)
        if any(id(item) in self.alive for item in held):
            return True
        inner = [item for item in held if isinstance(item, (tuple, list, dict)) or hasattr(item, "__dict__")]
        return depth > 0 and any(self.reached_from(i, depth - 1) for i in inner if not isinstance(i, _CODE))


_IMPORTED = (
    types.ModuleType,
    types.FunctionType,
    type,
)  # whoever imports first during a run must keep what it imported
_CODE = (*_IMPORTED, nn.Module)


def _inside(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return list(value)
    if isinstance(value, _CODE) or not hasattr(value, "__dict__"):
        return ()
    return list(vars(value).values())


class _Places:
    """Containers, and caches of functions, that hang on a module or a class."""

    def __init__(self) -> None:
        self.containers: list[Any] = []
        self.caches: list[Any] = []
        self._seen: set[int] = set()
        self._dull: set[type] = set()  # types of values that hold nothing we look for: most values are text or numbers
        self._objects: set[type] = set()

    def add(self, container: Any, depth: int) -> None:
        """This container, and what it holds."""
        if id(container) in self._seen:
            return
        self._seen.add(id(container))
        self.containers.append(container)
        if depth and len(container) < _REGISTRY:
            self.look_into(container, depth - 1)

    def look_into(self, container: Any, depth: int) -> None:
        """The containers among what a container holds."""
        values = list(container.values() if isinstance(container, dict) else container)
        if self._dull.issuperset(map(type, values)):
            return
        for value in values:
            kind = type(value)
            if kind in self._dull:
                continue
            if kind in _CONTAINERS:
                self.add(value, depth)
            elif kind in _FUNCTIONS:
                self._function(value, depth)
            elif not self._is_object(kind):
                self._dull.add(kind)
            elif depth and hasattr(value, "__dict__"):
                self.add(vars(value), depth)

    def _is_object(self, kind: type) -> bool:
        """Whether values of a type are objects of theirs, with attributes of their own."""
        if kind not in self._objects and _is_theirs(kind.__module__) and not issubclass(kind, _CODE):
            self._objects.add(kind)
        return kind in self._objects

    def _function(self, function: object, depth: int) -> None:
        """What a function carries along: its cache, its closure, its defaults."""
        if isinstance(function, _Cache) and id(function) not in self._seen:
            self._seen.add(id(function))
            self.caches.append(function)
        function = getattr(function, "__func__", getattr(function, "__wrapped__", function))
        if type(function) is types.FunctionType and (function.__closure__ or function.__defaults__):
            self.look_into(
                [v for v in (*closed_over(function), *(function.__defaults__ or ())) if type(v) in _CONTAINERS], depth
            )


def _places_of(classes: Collection[type]) -> _Places:
    """The places that code of these classes is known to reach."""
    places = _Places()
    for module in _modules(classes):
        places.add(vars(module), depth=0)
        places.look_into(vars(module), _DEPTH - 1)  # however many names it has
    for kind in classes:
        places.look_into(dict(vars(kind)), _DEPTH)
    return places


def _is_theirs(module: str) -> bool:
    return module.partition(".")[0] not in _NOT_THEIRS


def _modules(classes: Iterable[type]) -> Iterator[types.ModuleType]:
    """The Python modules that define these classes, and those whose functions and classes they name."""
    names = {kind.__module__ for kind in classes}
    for name in list(names):
        for value in list(vars(sys.modules.get(name, types)).values()):
            if isinstance(value, types.ModuleType):
                names.add(value.__name__)
            elif isinstance(value, (types.FunctionType, type, _Cache)):
                names.add(value.__module__)
    return (sys.modules[name] for name in sorted(map(str, names)) if name in sys.modules and _is_theirs(name))


def _restore(container: Any, before: Any, ours: _Ours) -> None:
    now = container.copy()  # one step, whatever other threads write meanwhile
    if len(now) == len(before) and all(map(is_, now, before)) and _same_values(now, before):
        return
    if isinstance(container, dict):
        _restore_keys(now, before, ours, container.__setitem__, container.__delitem__)
    elif ours.alone:
        container.clear()
        container.update(before) if isinstance(container, set) else container.extend(before)
    else:
        for item in list(container):
            if ours.holds(item):
                container.remove(item)


def _same_values(now: object, before: Any) -> bool:
    return not isinstance(now, dict) or all(map(is_, now.values(), before.values()))


def _restore_class(kind: type, before: dict[str, Any], ours: _Ours) -> None:
    def put(key: str, value: object) -> None:
        type.__setattr__(kind, key, value)

    def drop(key: str) -> None:
        type.__delattr__(kind, key)

    now = dict(vars(kind))
    if len(now) != len(before) or not all(map(is_, now.values(), before.values())):
        _restore_keys(now, before, ours, put, drop)


def _restore_keys(
    now: dict[Any, Any],
    before: dict[Any, Any],
    ours: _Ours,
    put: Callable[[Any, Any], None],
    drop: Callable[[Any], None],
) -> None:
    for key, value in now.items():
        if (key in before and value is before[key]) or isinstance(value, _IMPORTED):
            continue
        if ours.alone or ours.holds(value) or ours.holds(key):
            put(key, before[key]) if key in before else drop(key)
    for key in before.keys() - now.keys() if ours.alone else ():
        put(key, before[key])
