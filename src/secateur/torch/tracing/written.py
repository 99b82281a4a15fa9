"""What code names, read from the code without running it.

    def forward(self, x): return x * drawn(self.keep) if self.training else x        names: drawn, keep, training

Invariant: nothing is run; a name that is put together when the code runs is not found.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from functools import partial
from inspect import unwrap
from types import CodeType, FunctionType, MethodType, ModuleType

from torch import nn

from secateur.torch.running.holding import ATOMS, content_of
from secateur.torch.running.walking import modules_of

_TRAINING = "training"
# What takes the number out of a size, tells nobody, and may give one number for many.
_INT = "int"
_COUNTING = frozenset([_INT, "log", "log2", "log10", "isqrt", "gcd", "lcm", "comb", "perm", "factorial"])
_FUNCTIONS = (FunctionType, MethodType, partial)
_MAKING = frozenset(
    ["__new__", "__init__", "__post_init__", "__init_subclass__", "__repr__", "__str__", "__format__", "__reduce__"]
)
# Functions of libraries that count tokens and pixels, never units.
_OF_POSITIONS = ("transformers.masking_utils", "timm.layers.pos_embed")
# Their modules compute the same widths in both modes, and have rules.
_NOT_THEIRS = ("torch.", "builtins", "collections", "numpy", "types", "functools")
_KNOWN = ("torch.nn.modules.", "torch.ao.nn.", "builtins")


def names_in(code: CodeType) -> set[str]:
    """The names in a function, those it asks for by a text, and those of the functions inside it."""
    texts = {const for const in code.co_consts if isinstance(const, str) and const.isidentifier()}
    inner = (names_in(const) for const in code.co_consts if type(const) is CodeType)
    return (set(code.co_names) | texts).union(*inner)


def is_of(code: CodeType, ran: AbstractSet[CodeType]) -> bool:
    """Whether code, or a function inside it, is among what ran."""
    return code in ran or any(type(const) is CodeType and is_of(const, ran) for const in code.co_consts)


def asked_by(kind: type) -> frozenset[str]:
    """The names that a class's own constructor asks of objects; what it only sets is no call."""
    made = vars(kind).get("__init__")
    if type(made) is not FunctionType or is_torchs(kind.__module__):
        return frozenset()
    return frozenset(step.argval for step in dis.get_instructions(made) if step.opname in ("LOAD_METHOD", "LOAD_ATTR"))


def named_by(function: FunctionType) -> list[FunctionType]:
    """The functions that a function names, those of files that it names as well: ``f(x)``, ``file.f(x)``."""
    names = names_in(function.__code__)
    globals_named = [function.__globals__[name] for name in names if name in function.__globals__]
    files = [vars(file) for file in globals_named if type(file) is ModuleType and not is_torchs(file.__name__)]
    found = [*globals_named, *(file[name] for file in files for name in names if name in file)]
    return [plain for f in found if callable(f) and type(plain := unwrap(f)) is FunctionType]


def spoken_in(code: CodeType) -> set[str]:
    """The names in a function that are no texts: ``register_buffer("mask", …)`` reads nothing."""
    return set(code.co_names).union(*(spoken_in(const) for const in code.co_consts if type(const) is CodeType))


def things_in(function: FunctionType) -> Iterator[object]:
    """What a function names of its file and of files that it names: ``Linear``, ``nn.Linear``; an attribute of an object, that
    happens to have the name of one of them, is none."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    local = {name: content for name, cell in cells for content in content_of(cell)}
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += (const for const in code.co_consts if type(const) is CodeType)
        held = file = None
        for step in dis.get_instructions(code):
            match step.opname.partition("_")[0], step.opname:
                case _, "LOAD_GLOBAL" | "LOAD_NAME":
                    held = function.__globals__.get(step.argval)
                case _, "LOAD_ATTR" | "LOAD_METHOD":
                    held = _of_file(held, step.argval)
                case _, "IMPORT_NAME":
                    held = file = sys.modules.get(step.argval)
                case _, "IMPORT_FROM":
                    held = _of_file(file, step.argval)
                case "STORE", _:
                    local[step.argval] = held
                case "LOAD", _:
                    held = local.get(step.argval)
                case (("EXTENDED" | "CACHE" | "NOP"), _):
                    pass
                case _:
                    held = None
            yield held


def _of_file(file: object, name: str) -> object:
    return vars(file).get(name) if type(file) is ModuleType else None


def is_torchs(name: str) -> bool:
    return name == "torch" or name.startswith("torch.")


def methods_of(kind: type, known: tuple[str, ...] = _KNOWN) -> dict[str, FunctionType]:
    """The methods of a class and its bases, the known ones' aside."""
    return {
        name: plain
        for base in reversed(kind.__mro__)
        if not f"{base.__module__}.".startswith(known)
        for name, value in vars(base).items()
        if type(value) is FunctionType and type(plain := unwrap(value)) is FunctionType
    }


def asks_for_training(model: nn.Module) -> bool:
    """Whether code beside PyTorch's own layers may ask which mode it is in: a method, what it names, a hook, a new forward."""
    kinds = {type(module) for module in modules_of(model)}
    instances = any("forward" in vars(module) or _hooked(module) for module in modules_of(model))
    return instances or any(_names(methods_of(kind).values(), {_TRAINING}) for kind in kinds)


def may_count(model: nn.Module) -> bool:
    """Whether code that forward leads to may take a plain number out of a size, by a function of C that tells nobody."""
    modules = modules_of(model)
    running = [f for kind in {type(module) for module in modules} for f in led_to(_with_getters(kind)).values()]
    held = [value for module in modules for value in vars(module).values() if type(value) not in ATOMS]
    running += [plain for value in held if type(plain := getattr(value, "__func__", value)) is FunctionType]
    kinds = {type(value) for value in held if not isinstance(value, Enum)}
    running += _asked_of([methods_of(kind, _NOT_THEIRS) for kind in kinds], running)
    return any(map(_hooked, modules)) or _names(running, _COUNTING)


def _asked_of(held: Sequence[Mapping[str, FunctionType]], running: Iterable[FunctionType]) -> list[FunctionType]:
    """The methods of objects that running code names, and what Python calls by itself but to make or to show one."""
    named = {name for function in running for name in names_in(function.__code__)}
    found: list[FunctionType] = []
    for methods in held:
        asked = {n: f for n, f in methods.items() if n in named or (n.startswith("__") and n not in _MAKING)}
        found += led_to(methods, *asked).values()
    return found


def _with_getters(kind: type) -> dict[str, FunctionType]:
    getters = {n: p.fget for base in kind.__mro__ for n, p in vars(base).items() if isinstance(p, property)}
    return {n: f for n, f in getters.items() if type(f) is FunctionType} | methods_of(kind)


def led_to(methods: Mapping[str, FunctionType], *first: str) -> dict[str, FunctionType]:
    """Of these methods the first, forward unless others are said, and those that it names, or that these name."""
    found, open_ones = dict[str, FunctionType](), [*first] or ["forward"]
    while open_ones:
        name = open_ones.pop()
        if name in methods and name not in found:
            found[name] = methods[name]
            open_ones.extend(names_in(methods[name].__code__))
    return found


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _names(functions: Iterable[FunctionType], words: AbstractSet[str]) -> bool:
    """Whether one of these functions, or one that they name, names one of these words."""
    seen: set[int] = set()
    open_ones = list(functions)
    while open_ones:
        function = open_ones.pop()
        if id(function) in seen or is_torchs(function.__module__ or "") or function.__module__ in _OF_POSITIONS:
            continue
        seen.add(id(function))
        found = names_in(function.__code__) & words
        if found and (found != {_INT} or _takes_integers(function.__code__)):
            return True
        open_ones.extend(named_by(function))
    return False


def _takes_integers(code: CodeType) -> bool:
    """Whether ``int`` is called, or handed on to be, and not only asked for by ``isinstance`` or a name of PyTorch's."""
    loads = [step for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    called = any(step.argval == _INT and "NULL" in step.argrepr for step in loads)
    handed = sum((step.argval == _INT) - (step.argval == "isinstance") for step in loads) > 0
    return called or handed or any(_takes_integers(inner) for inner in code.co_consts if type(inner) is CodeType)
