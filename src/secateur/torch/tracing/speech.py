"""What no code of a model's can come to: a layer left over from an earlier version, a buffer of which nothing is read.

    self.norm2 = nn.LayerNorm(64)        and no method says norm2, nor asks for modules by other means: out of reach
    getattr(self, f"norm{i}")            whatever its class holds may be meant

Constructors are over: what they did counts by what is held somewhere else as well. Who calls from outside is not looked for.

Invariant: nothing is run; where code is not Python's, or is of a kind that is not read, everything is within reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from inspect import unwrap
from types import FunctionType

from torch import nn

from secateur.torch.running.holding import ATOMS, everything_in
from secateur.torch.running.users import is_users_class
from secateur.torch.running.walking import attributes_of
from secateur.torch.tracing.written import is_torchs, led_to, methods_of, named_by, names_in

_MOST = 200_000  # things that are looked into
_FEW = 1_000  # in a table of a file
_TABLES = (dict, list, tuple, set)
_BY_TEXT = frozenset({"getattr", "attrgetter", "methodcaller", "vars", "__dict__", "__getattr__", "globals", "exec"})
_BUFFERS = frozenset({"buffers", "named_buffers", "get_buffer", "_buffers", "state_dict"})
_PARAMETERS = frozenset({"named_parameters", "get_parameter", "_parameters"})  # `parameters` alone says no name
_PARTS = frozenset({"children", "named_children", "modules", "named_modules", "get_submodule", "_modules"})
_BY_OTHER_MEANS = _BY_TEXT | _BUFFERS | _PARAMETERS | _PARTS
_BUILT_IN = ("torch.", "builtins.", "collections.", "numpy.", "types.", "functools.", "typing.", "abc.")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Speech:
    """What the code of one model says."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules, self._names = modules, dict[type, set[str]]()

    def may_lead_to(self, name: str, thing: object) -> bool:
        """Whether something may come to a module, parameter or buffer of this name; what is inside it is asked for itself."""
        if self._said is None or id(thing) in self._held:
            return True
        while name:
            owner, _, key = name.rpartition(".")
            if self._is_silent_on(key, owner):
                return False
            name = owner
        return True

    def _is_silent_on(self, key: str, owner: str) -> bool:
        """Whether the class of the module that holds something, one above it, or any other, has no word for it."""
        kind = type(self.modules[owner])
        if self._said is None or key in self._said or _is_given_to_torch(kind, key):
            return False
        while True:
            if not self._names_of(type(self.modules[owner])).isdisjoint(_BY_OTHER_MEANS):
                return False
            if not owner:
                return True
            owner = owner.rpartition(".")[0]

    @cached_property
    def _said(self) -> frozenset[str] | None:
        """The names in all methods but constructors; None where there is code that cannot be read, or that is handed modules and
        may ask them for anything."""
        kinds = {type(module) for module in self.modules.values()}
        if any(map(_is_foreign, kinds)) or len(self._held) >= _MOST:
            return None
        handed = _names_of(self._loose_functions())
        if not handed.isdisjoint(_BY_OTHER_MEANS):
            return None
        return frozenset(handed.union(*map(self._names_of, kinds)))

    def _loose_functions(self) -> Iterator[FunctionType]:
        """Functions that modules hold anywhere, hooks among them, and methods of other objects that they hold."""
        kinds = {type(item) for item in self._held.values() if not isinstance(item, nn.Module)}
        for item in self._held.values():
            if isinstance(item, FunctionType):
                yield item
        for kind in kinds:
            if not f"{kind.__module__}.".startswith(_BUILT_IN):
                yield from methods_of(kind).values()

    @cached_property
    def _held(self) -> dict[int, object]:
        """By identity what modules, their classes and their hooks hold in other ways than as modules, parameters and buffers."""
        seen, held = set[int](), dict[int, object]()
        for module in self.modules.values():
            hooks = [vars(module).get(table) for table in _HOOKS]
            for value in (*hooks, *(value for _, value in attributes_of(module))):
                if type(value) not in ATOMS:
                    held.update((id(item), item) for item in everything_in(value, seen, _MOST))
        for kind in {base for module in self.modules.values() for base in type(module).__mro__}:
            for value in vars(kind).values() if is_users_class(kind) else ():
                if isinstance(value, _TABLES):
                    held.update((id(item), item) for item in everything_in(value, seen, _MOST))
        return held

    def _names_of(self, kind: type) -> set[str]:
        """The names in what a class does after it is made."""
        if kind not in self._names:
            methods = methods_of(kind) | _getters(kind)
            running = led_to(methods)
            making = [name for name in led_to(methods, "__init__") if name not in running]
            self._names[kind] = _names_of(f for name, f in methods.items() if name not in making)
        return self._names[kind]


def _is_foreign(kind: type) -> bool:
    """Whether a class has code of a kind that is not read."""
    for base in kind.__mro__:
        for value in vars(base).values() if not f"{base.__module__}.".startswith(_BUILT_IN) else ():
            plain = unwrap(getattr(value, "__func__", getattr(value, "func", value))) if callable(value) else None
            if plain is not None and not isinstance(plain, (FunctionType, type)):
                return True
    return False


def _names_of(functions: Iterable[FunctionType]) -> set[str]:
    """The names in functions, and in those that they name."""
    found, seen, waiting = set[str](), set[FunctionType](), list(functions)
    while waiting:
        function = waiting.pop()
        if function not in seen and not is_torchs(function.__module__ or ""):
            seen.add(function)
            names = names_in(function.__code__)
            found |= names
            waiting += named_by(function)
            for table in (function.__globals__.get(name) for name in names):
                if isinstance(table, _TABLES):
                    waiting += [item for item in everything_in(table, None, _FEW) if isinstance(item, FunctionType)]
    return found


def _getters(kind: type) -> dict[str, FunctionType]:
    """The functions behind the properties of a class, and behind what is computed once."""
    held = {name: value for base in reversed(kind.__mro__) for name, value in vars(base).items()}
    found = {name: getattr(value, "fget", getattr(value, "func", None)) for name, value in held.items()}
    return {name: function for name, function in found.items() if type(function) is FunctionType}


def _is_given_to_torch(kind: type, key: str) -> bool:
    """Whether code of PyTorch's own may take it: a container does, and a layer what its constructor made."""
    bases = [base for base in kind.__mro__ if is_torchs(base.__module__) and base is not nn.Module]
    return any(issubclass(base, nn.Module) and (base in _CONTAINERS or _says(base, key)) for base in bases)


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def _says(base: type, key: str) -> bool:
    functions = [f for name, f in vars(base).items() if isinstance(f, FunctionType) and name != "__init__"]
    return any(key in names_in(f.__code__) for f in functions)
