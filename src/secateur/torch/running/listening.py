"""A torch-function mode that hears what happens inside PyTorch's Python functions.

    F.group_norm(x, 4)  ──► the mode is handed F.group_norm whole, and what that calls is out of its hearing
                        ──► opened: torch.group_norm(x, 4, …) arrives too

These functions ask first whether a mode is active, and hand themselves over. `Listening` runs them with that question
answered no, on private globals, and stays active meanwhile. Nothing of PyTorch's is replaced, so other threads notice nothing.

Invariant: an opened function computes what the function computes.
"""

from __future__ import annotations

from types import CellType, CodeType, FunctionType
from typing import Any

import torch.overrides
from torch.overrides import TorchFunctionMode

from secateur.torch.running.calls import Args, Function, Kwargs, Result, tensors_first

_GUARDS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
_QUESTIONS = frozenset(id(getattr(torch.overrides, name)) for name in _GUARDS)


class Listening(TorchFunctionMode):
    """A mode for which every call reaches `called`, those inside PyTorch's Python functions included.

    One object serves one thread at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._globals: dict[int, dict[str, Any]] = {}
        self._opened: dict[FunctionType, FunctionType | None] = {}
        self._inside: list[tuple[FunctionType, Args]] = []

    def __torch_function__(
        self, func: Function, types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Result:
        args, kwargs = tensors_first(func, args, kwargs) if kwargs else (args, {})
        opened = self._open(func) if type(func) is FunctionType else None
        if opened is None or self._comes_back(func, args):
            return self.called(func, args, kwargs)
        self._inside.append((func, args))
        try:
            with self:
                return opened(*args, **kwargs)
        finally:
            self._inside.pop()

    def _comes_back(self, function: FunctionType, args: Args) -> bool:
        """``Tensor.unflatten`` ends in the C method that it overrides, and that goes by the same name."""
        if not self._inside:
            return False
        last, given = self._inside[-1]
        return last is function and len(given) == len(args) and all(a is b for a, b in zip(given, args, strict=True))

    def called(self, func: Function, args: Args, kwargs: Kwargs) -> Result:
        """What a call gives; ``func(*args, **kwargs)`` changes nothing."""
        return func(*args, **kwargs)

    def _open(self, function: FunctionType) -> FunctionType | None:
        """The function without its question, or None where it asks none."""
        if function not in self._opened:
            self._opened[function] = None  # while we are inside: wrappers close over themselves
            if _asks(function.__code__, function.__globals__) or self._opens_inside(function):
                self._opened[function] = self._clone(function)
        return self._opened[function]

    def _opens_inside(self, function: FunctionType) -> bool:
        """Whether it closes over functions that ask: ``F.max_pool2d`` chooses between two."""
        return any(
            self._open(inner) is not None for inner in map(_content, function.__closure__ or ()) if _is_code(inner)
        )

    def _clone(self, function: FunctionType) -> FunctionType:
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        space = self._answered(function.__globals__)
        made = FunctionType(function.__code__, space, function.__name__, function.__defaults__, cells)
        made.__kwdefaults__ = function.__kwdefaults__
        return made

    def _cell(self, cell: CellType) -> CellType:
        inner = _content(cell)
        opened = self._open(inner) if _is_code(inner) else None
        return cell if opened is None else CellType(opened)

    def _answered(self, space: dict[str, Any]) -> dict[str, Any]:
        """A module's globals with every question answered no. Taken anew for each mode: modules change."""
        known = self._globals.get(id(space))
        if known is None:
            answers = {name: _never for name, value in space.items() if id(value) in _QUESTIONS}
            known = self._globals[id(space)] = {**space, **answers}
        return known


def _asks(code: CodeType, space: dict[str, Any]) -> bool:
    return any(id(space.get(name)) in _QUESTIONS for name in code.co_names)


def _is_code(value: object) -> bool:
    return type(value) is FunctionType


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _never(*_: object) -> bool:
    return False
