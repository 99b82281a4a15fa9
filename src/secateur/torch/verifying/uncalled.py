"""What of the user's own code was there to be called, and no run called it.

    methods     of the model's classes, whatever decorates them; properties, static and cached ones too. They count where they
                read what the model is made of, or where code that ran could have come to them: it names them, an attribute
                keeps them, or it asks for attributes by names that it makes (getattr)
    functions   in tables (dicts, lists, tuples) of the model, its class or the file, that code which ran reads

Left out is what only makes an object, or describes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from secateur.torch.running.holding import closed_over
from secateur.torch.running.walking import modules_of
from secateur.torch.tracing.written import spoken_in
from secateur.torch.verifying.users import is_users

_BENEATH = ("__wrapped__", "__func__", "fget", "func")  # where what decorates a function keeps it
_DEPTH = 3  # tables in tables
_LARGEST = 1000  # entries: what has more holds data
_TORCHS = frozenset(vars(nn.Module()))  # tables of hooks and the like
_COMPUTED = "getattr"

Ran = Mapping[CodeType, Mapping[str, Any]]  # code that ran, and the names of its file


def uncalled(model: nn.Module, ran: Ran) -> list[str]:
    """The names of them all, those first that read what the model is made of."""
    named = set[str]().union(*(code.co_names for code in ran))
    reading: dict[str, None] = {}
    reachable: dict[str, None] = {}
    for module in modules_of(model):
        tables = (module._modules, module._parameters, module._buffers)
        held = {name for table in tables for name in table.keys()}  # noqa: SIM118 - of TorchScript they are no dicts
        kept = {function.__code__ for function in _kept(vars(module))}
        methods = _methods(type(module))
        computes = any(_COMPUTED in spoken_in(f.__code__) for fs in methods.values() for f in fs if f.__code__ in ran)
        made_by = _names_in_constructors(type(module))
        for name, functions in methods.items():
            codes = {function.__code__ for function in functions}
            if not codes.isdisjoint(ran) or (name in made_by and codes.isdisjoint(kept)):
                continue
            told = f"{type(module).__name__}.{name}"
            if not held.isdisjoint(set[str]().union(*map(spoken_in, codes))):
                reading.setdefault(told)
            elif name in named or not codes.isdisjoint(kept) or (computes and _takes_more(functions)):
                reachable.setdefault(told)
    return list(reading | reachable | dict.fromkeys(_in_tables(model, ran)))


def _in_tables(model: nn.Module, ran: Ran) -> Iterator[str]:
    """Functions that code which ran could have picked from a table."""
    tables = [value for code, known in ran.items() for name in code.co_names if _is_table(value := known.get(name))]
    for module in modules_of(model):
        own = vars(module), *map(vars, type(module).__mro__)
        tables += [value for names in own for name, value in names.items() if _is_table(value) and name not in _TORCHS]
    for function in _kept(dict(enumerate(tables))):
        code = function.__code__
        if code not in ran and not isinstance(function, MethodType):
            yield f"{code.co_qualname} ({Path(code.co_filename).name}: {code.co_firstlineno})"


def _is_table(value: object) -> bool:
    return isinstance(value, dict | list | tuple) and len(value) <= _LARGEST


def _kept(names: Mapping[Any, Any], depth: int = _DEPTH) -> Iterator[FunctionType | MethodType]:
    """The functions and methods of the user's own in these values, tables and partials opened."""
    for value in list(names.values()):
        if isinstance(value, MethodType | FunctionType):
            if is_users(value.__code__):
                yield value
        elif isinstance(value, partial):
            yield from _kept({0: value.func}, depth)
        elif _is_table(value) and depth:
            yield from _kept(value if isinstance(value, dict) else dict(enumerate(value)), depth - 1)


def _methods(kind: type) -> dict[str, list[FunctionType]]:
    """What a class of the user's own defines, but for what makes and describes an object."""
    defined = {name: each for base in reversed(kind.__mro__) for name, each in vars(base).items()}
    found = {name: list(_beneath(each, name)) for name, each in defined.items() if not name.startswith("__")}
    return {name: functions for name, functions in found.items() if functions}


def _beneath(each: object, name: str) -> Iterator[FunctionType]:
    """The function of the user's own that a method is, beneath what decorates it."""
    if not isinstance(each, FunctionType) or hasattr(each, "__wrapped__"):
        inner: Iterable[object] = [getattr(each, where, None) for where in _BENEATH]
        inner = [one for one in inner if callable(one)]
    elif each.__code__.co_name != name:  # a decorator's own function, which several methods share
        inner = [one for one in closed_over(each) if callable(one) and not isinstance(one, type)]
    else:
        inner = []
    found = [function for one in inner for function in _beneath(one, name)]
    if found:
        yield from found
    elif isinstance(each, FunctionType) and is_users(each.__code__):
        yield each


def _names_in_constructors(kind: type) -> set[str]:
    constructors = [vars(base).get("__init__") for base in kind.__mro__]
    return set[str]().union(
        *(spoken_in(f.__code__) for f in constructors if isinstance(f, FunctionType) and is_users(f.__code__))
    )


def _takes_more(functions: Iterable[FunctionType]) -> bool:
    """Whether a method takes anything but the object."""
    return any(function.__code__.co_argcount > 1 for function in functions)
