"""What of the user's own code was there to be called, and no run called it.

    methods     of the model's classes and of objects that hold parts of it, whatever decorates them; properties, static and
                cached ones too. They count where they may read what the model is made of: they name a part, ask for all
                (parameters, state_dict), or hand the object on (f(self), getattr(self, …), self[0]); where they set what code
                that ran reads; and where that could have come to them: it names them, an attribute keeps them, or it asks for
                attributes by names that it makes (getattr)
    functions   in tables (dicts, lists, tuples) of the model, its class or the file, that code which ran reads; and attributes
                that hold parts of a model

Left out is what only makes an object, or describes it.
"""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import partial
from inspect import getattr_static
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from secateur.torch.running.holding import closed_over, entries_of, is_container
from secateur.torch.running.users import is_users, is_users_class
from secateur.torch.running.walking import modules_of
from secateur.torch.tracing.written import spoken_in

_BENEATH = ("__wrapped__", "__func__", "fget", "func")  # where what decorates a function keeps it
_DEPTH = 3  # tables in tables
_LARGEST = 1000  # entries: what has more holds data
_TORCHS = frozenset(vars(nn.Module()))  # tables of hooks and the like
_COMPUTED = "getattr"
# What makes an object or describes it, and what Python asks of it by itself.
_SPECIAL = frozenset(
    [
        "__init__",
        "__new__",
        "__post_init__",
        "__init_subclass__",
        "__class_getitem__",
        "__set_name__",
        "__repr__",
        "__str__",
        "__format__",
        "__dir__",
        "__len__",
        "__bool__",
        "__hash__",
        "__eq__",
        "__ne__",
        "__contains__",
        "__getattr__",
        "__getattribute__",
        "__setattr__",
        "__delattr__",
        "extra_repr",
    ]
)
_ALL_PARTS = frozenset(
    [
        "parameters",
        "named_parameters",
        "buffers",
        "named_buffers",
        "children",
        "named_children",
        "modules",
        "named_modules",
        "get_submodule",
        "get_parameter",
        "get_buffer",
        "set_submodule",
        "state_dict",
        "load_state_dict",
        "apply",
        "__dict__",
        "_modules",
        "_parameters",
        "_buffers",
    ]
)
_OF_STATE = frozenset(
    [
        "_load_from_state_dict",
        "_save_to_state_dict",
        "load_state_dict",
        "state_dict",
        "_apply",
        "__getstate__",
        "__setstate__",
        "__reduce__",
        "__reduce_ex__",
        "__copy__",
        "__deepcopy__",
    ]
)
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR", "LOAD_SUPER")

Ran = Mapping[CodeType, Mapping[str, Any]]  # code that ran, and the names of its file


def uncalled(model: nn.Module, ran: Ran) -> list[str]:
    """The names of them all, those first that read what the model is made of."""
    named = set[str]().union(*(code.co_names for code in ran))
    asked = set[str]().union(*map(_attributes_read, ran))
    held_by = {id(module): _parts_of(module) for module in modules_of(model)}
    every = set[str]().union(*held_by.values())
    reading: dict[str, None] = {}
    reachable: dict[str, None] = {}
    for module in modules_of(model):
        held = held_by[id(module)]
        kept = {function.__code__ for function in _kept(vars(module))}
        methods = _methods(type(module))
        computes = any(_COMPUTED in spoken_in(f.__code__) for fs in methods.values() for f in fs if f.__code__ in ran)
        made_by = _names_in_constructors(type(module))
        parts = held | _ALL_PARTS
        for name, functions in methods.items():
            codes = {function.__code__ for function in functions}
            if not codes.isdisjoint(ran) or (name in made_by and codes.isdisjoint(kept)):
                continue
            told = f"{type(module).__name__}.{name}"
            reads = any(_reads(f, parts, bound=_is_bound(type(module), name)) for f in functions)
            if name in _OF_STATE or reads or any(not asked.isdisjoint(_attributes_set(f.__code__)) for f in functions):
                reading.setdefault(told)
            elif name in named or not codes.isdisjoint(kept) or (computes and _takes_more(functions)):
                reachable.setdefault(told)
        for name, value in vars(module).items():
            if name not in _TORCHS:
                reading |= dict.fromkeys(_kept_idle(module, name, value, ran, every))
    return list(reading | reachable | dict.fromkeys(_in_tables(model, ran)))


def _parts_of(module: nn.Module) -> set[str]:
    tables = (module._modules, module._parameters, module._buffers)
    return {name for table in tables for name in table.keys()}  # noqa: SIM118 - of TorchScript they are no dicts


def _kept_idle(module: nn.Module, name: str, value: object, ran: Ran, parts: Set[str]) -> Iterator[str]:
    """What an attribute keeps that no run called, and that has parts of the model at hand: functions, methods of objects."""
    holds = _holds_a_part(value)
    for function in _kept({name: value}):
        plain = function.__func__ if isinstance(function, MethodType) else function
        if not isinstance(plain, FunctionType) or plain.__code__ in ran:
            continue
        if _holds_parts(plain) or (holds and _reads(plain, parts | _ALL_PARTS, bound=True)):
            yield f"{type(module).__name__}.{name}"
    if holds and is_users_class(type(value)) and not isinstance(value, nn.Module):
        for method, functions in _methods(type(value)).items():
            codes = [function.__code__ for function in functions]
            if not any(code in ran or (parts | _ALL_PARTS).isdisjoint(spoken_in(code)) for code in codes):
                yield f"{type(value).__name__}.{method}"


def _in_tables(model: nn.Module, ran: Ran) -> Iterator[str]:
    """Functions that code which ran could have picked from a table."""
    named = (known.get(name) for code, known in ran.items() for name in code.co_names)
    tables = [value for value in named if is_container(value, _LARGEST)]
    for module in modules_of(model):
        own = vars(module), *map(vars, type(module).__mro__)
        tables += [v for names in own for name, v in names.items() if is_container(v, _LARGEST) and name not in _TORCHS]
    for function in _kept(dict(enumerate(tables))):
        code = function.__code__
        if code not in ran and not isinstance(function, MethodType):
            yield f"{code.co_qualname} ({Path(code.co_filename).name}: {code.co_firstlineno})"


def _kept(names: Mapping[Any, Any], depth: int = _DEPTH) -> Iterator[FunctionType | MethodType]:
    """The functions and methods of the user's own in these values, tables and partials opened."""
    for value in list(names.values()):
        if isinstance(value, MethodType | FunctionType):
            if is_users(value.__code__):
                yield value
        elif isinstance(value, partial):
            yield from _kept({0: value.func}, depth)
        elif depth:
            yield from _kept(dict(entries_of(value, _LARGEST)), depth - 1)


def _methods(kind: type) -> dict[str, list[FunctionType]]:
    """What a class of the user's own defines, but for what makes and describes an object."""
    defined = {name: each for base in reversed(kind.__mro__) for name, each in vars(base).items()}
    found = {name: list(_beneath(each, name)) for name, each in defined.items() if name not in _SPECIAL}
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


def _reads(function: FunctionType, parts: Set[str], *, bound: bool) -> bool:
    """Whether a method may read what the object is made of; ``bound``: its first argument is the object."""
    code = function.__code__
    return not parts.isdisjoint(spoken_in(code)) or (
        bound and code.co_argcount > 0 and _hands_on(code, code.co_varnames[0])
    )


def _attributes_read(code: CodeType) -> set[str]:
    return {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_ATTR"}


def _attributes_set(code: CodeType) -> set[str]:
    return {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}


def _holds_a_part(value: object) -> bool:
    """Whether a bound method, a partial or an object of the user's own has a module at hand."""
    if isinstance(value, MethodType):
        return isinstance(value.__self__, nn.Module)
    if isinstance(value, partial):
        return any(isinstance(given, nn.Module) for given in (*value.args, *value.keywords.values()))
    return any(isinstance(held, nn.Module) for held in getattr(value, "__dict__", {}).values())


def _is_bound(kind: type, name: str) -> bool:
    return not isinstance(getattr_static(kind, name), staticmethod | classmethod)


def _hands_on(code: CodeType, name: str) -> bool:
    """Whether code does something else with a variable than to ask for its attributes, to set them, or to call it."""
    steps = list(_one_by_one(code))
    for at, (operation, argument) in enumerate(steps):
        if not operation.startswith(("LOAD_FAST", "LOAD_DEREF")) or argument != name:
            continue
        before, after = (steps[i][0] if 0 <= i < len(steps) else "" for i in (at - 1, at + 1))
        if after == "COPY":  # self.count += 1
            after = steps[at + 2][0]
        if not after.startswith(_ATTRIBUTES) and "PUSH_NULL" not in (before, after):
            return True
    inner = (const for const in code.co_consts if isinstance(const, CodeType) and name in const.co_freevars)
    return any(_hands_on(each, name) for each in inner)


def _one_by_one(code: CodeType) -> Iterator[tuple[str, object]]:
    """The instructions of code; those that do two things at once, as two."""
    for step in dis.get_instructions(code):
        both = step.argval if isinstance(step.argval, tuple) and step.opname.count("_FAST") > 1 else (step.argval,)
        yield from ((step.opname, each) for each in both)


def _holds_parts(function: FunctionType) -> bool:
    """Whether a function closes over a module or a tensor, or has one as a default."""
    held = (*closed_over(function), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    return any(isinstance(one, nn.Module | Tensor) for one in held)
