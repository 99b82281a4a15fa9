"""What code names, read from the code without running it.

    def forward(self, x): return x * drawn(self.keep) if self.training else x        names: drawn, keep, training

Invariant: nothing is run; a name that is put together when the code runs is not found.
"""

from __future__ import annotations

from collections.abc import Iterable
from inspect import unwrap
from types import CodeType, FunctionType, ModuleType

from torch import nn

from secateur.torch.running.walking import modules_of

_TRAINING = "training"
# Their modules compute the same widths in both modes, and have rules.
_KNOWN = ("torch.nn.modules.", "torch.ao.nn.", "builtins")


def names_in(code: CodeType) -> set[str]:
    """The names in a function, those it asks for by a text, and those of the functions inside it."""
    texts = {const for const in code.co_consts if isinstance(const, str) and const.isidentifier()}
    inner = (names_in(const) for const in code.co_consts if type(const) is CodeType)
    return (set(code.co_names) | texts).union(*inner)


def named_by(function: FunctionType) -> list[FunctionType]:
    """The functions that a function names, those of files that it names as well: ``f(x)``, ``file.f(x)``."""
    names = names_in(function.__code__)
    globals_named = [function.__globals__[name] for name in names if name in function.__globals__]
    files = [vars(file) for file in globals_named if type(file) is ModuleType and not _is_torchs(file.__name__)]
    found = [*globals_named, *(file[name] for file in files for name in names if name in file)]
    return [plain for f in found if callable(f) and type(plain := unwrap(f)) is FunctionType]


def _is_torchs(name: str) -> bool:
    return name == "torch" or name.startswith("torch.")


def methods_of(kind: type, known: tuple[str, ...] = _KNOWN) -> dict[str, FunctionType]:
    """The methods of a class and its bases, the known ones' aside."""
    return {
        name: unwrap(value)
        for base in reversed(kind.__mro__)
        if not base.__module__.startswith(known)
        for name, value in vars(base).items()
        if type(value) is FunctionType
    }


def asks_for_training(model: nn.Module) -> bool:
    """Whether code beside PyTorch's own layers may ask which mode it is in: a method, what it names, a hook, a new forward."""
    kinds = {type(module) for module in modules_of(model)}
    instances = any("forward" in vars(module) or _hooked(module) for module in modules_of(model))
    return instances or any(_names_training(methods_of(kind).values()) for kind in kinds)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _names_training(functions: Iterable[FunctionType]) -> bool:
    seen: set[int] = set()
    open_ones = list(functions)
    while open_ones:
        function = open_ones.pop()
        if id(function) in seen or _is_torchs(function.__module__ or ""):
            continue
        seen.add(id(function))
        if _TRAINING in names_in(function.__code__):
            return True
        open_ones.extend(named_by(function))
    return False
