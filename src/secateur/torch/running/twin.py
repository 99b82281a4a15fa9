"""A second network with the same code, for runs that must leave the first alone.

    model ──twin(model, stand_in)──► modules, containers, plain objects, closures copied; tensors are what stand_in gives
    model ──counterpart(model, stand_in)──► a twin to hand out: what only outside code holds (a list that a hook fills) is shared
    batch ──copied(batch, stand_in)──► the same for arguments

A trace runs a twin on tensors without data, verification one on other numbers. Nothing of the model's is swapped, so it may
serve in another thread meanwhile, and an interruption at any moment leaves nothing to put back.

Invariant: what a run of the twin writes cannot be seen from the model; what cannot be copied is refused before anything ran.
"""

from __future__ import annotations

import copy
import functools
import io
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from secateur.errors import InputError
from secateur.torch.running.restoring import relink

StandIn = Callable[[str, torch.Tensor], torch.Tensor]
T = TypeVar("T")

# Held as they are: code, and what synchronises or logs. None of these is part of what a network computes.
_SHARED = (types.ModuleType, type(threading.Lock()), type(threading.RLock()), threading.Thread, io.IOBase)
# Cannot be copied, and a run would move them on.
_CONSUMED = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)


def twin(model: nn.Module, stand_in: StandIn) -> nn.Module:
    """A deep copy in which each parameter and buffer is ``stand_in(first name, tensor)``; one tensor stays one tensor.

    Tensors that modules hold outside these tables are cloned. TorchScript modules are copied with their weights, which
    PyTorch does not let anybody replace. Raises InputError, naming the attribute, where something cannot be copied.
    """
    return _twin(model, stand_in, lambda function: True)


def counterpart(model: nn.Module, stand_in: StandIn) -> nn.Module:
    """As `twin`, for keeps: of the functions that modules hold, those that reach the model are copied, the rest is shared.

    A hook that fills a list of the caller's fills that same list when the copy runs.
    """
    ours = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    return _twin(model, stand_in, lambda function: any(id(held) in ours for _, held in _reachable(function)))


def _twin(model: nn.Module, stand_in: StandIn, is_part: Callable[[types.FunctionType], bool]) -> nn.Module:
    memo: dict[int, Any] = {}
    for name, tensor in _named(model):
        if id(tensor) not in memo:
            memo[id(tensor)] = stand_in(name, tensor)
    made = _deep(model, memo, _clone, lambda: _culprit(model), is_part)
    for module in made.modules():
        relink(module)
    return made


def copied(value: T, replace: Callable[[torch.Tensor], torch.Tensor]) -> T:
    """A deep copy of arguments, whatever objects hold them, with every tensor replaced.

    Raises InputError where something cannot be copied.
    """
    return _deep(value, {}, replace, lambda: f"an argument of the model ({type(value).__name__})")


def _named(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by every name, but for those inside TorchScript modules."""
    for prefix, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    yield (f"{prefix}.{key}" if prefix else key), tensor


def _deep(
    value: T,
    memo: dict[int, Any],
    replace: Callable[[torch.Tensor], torch.Tensor],
    who: Callable[[], str],
    is_part: Callable[[types.FunctionType], bool] = lambda function: True,
) -> T:
    with _Replacing(replace):
        closures = _rebound(value, memo, is_part)
        try:
            made = copy.deepcopy(value, memo)
        except Exception:
            _share(value, memo, who)
            try:
                made = copy.deepcopy(value, memo)
            except Exception as error:
                raise InputError(
                    f"{who()} cannot be copied ({type(error).__name__}: {error}), so the model cannot be run without "
                    "touching it. Take the object out of the model, or give it a __deepcopy__."
                ) from error
        for function, clone in closures:
            for old, new in zip(function.__closure__ or (), clone.__closure__ or (), strict=True):
                if not _is_empty(old):
                    new.cell_contents = copy.deepcopy(old.cell_contents, memo)
    return made


class _Replacing(TorchFunctionMode):
    """Answers every tensor's own ``__deepcopy__``, wherever it hangs; the mode is this thread's alone."""

    def __init__(self, replace: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.replace = replace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = self.replace(tensor)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _clone(tensor: torch.Tensor) -> torch.Tensor:
    made = tensor.detach().clone()
    return made.requires_grad_() if tensor.is_leaf and tensor.requires_grad else made


def _rebound(
    value: Any, memo: dict[int, Any], is_part: Callable[[types.FunctionType], bool]
) -> list[tuple[types.FunctionType, types.FunctionType]]:
    """Clones of the functions that modules hold and that close over something, for the copies to hold.

    ``copy.deepcopy`` takes a function for a constant: ``self.head = lambda x: self.fc(x)`` would run the first network.
    """
    found: list[tuple[types.FunctionType, types.FunctionType]] = []
    for function in _functions(value):
        if function.__closure__ and id(function) not in memo and is_part(function):
            cells = tuple(types.CellType() for _ in function.__closure__)
            clone = types.FunctionType(
                function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
            )
            clone.__kwdefaults__ = function.__kwdefaults__
            clone.__dict__.update(function.__dict__)
            clone.__qualname__ = function.__qualname__
            memo[id(function)] = clone
            found.append((function, clone))
    return found


def _functions(value: Any) -> Iterator[types.FunctionType]:
    """Functions in the attributes and hooks of modules, also inside containers, partials and methods."""
    if not isinstance(value, nn.Module):
        return
    for module in value.modules():
        for held in vars(module).values():
            if not isinstance(held, (str, int, float, torch.Tensor, nn.Module)):
                yield from _functions_in(held, 3)


def _functions_in(held: Any, depth: int) -> Iterator[types.FunctionType]:
    if isinstance(held, types.FunctionType):
        yield held
    elif isinstance(held, functools.partial):
        yield from _functions_in(held.func, depth)
    elif depth and isinstance(held, dict):
        for item in held.values():
            yield from _functions_in(item, depth - 1)
    elif depth and isinstance(held, (list, tuple, set)):
        for item in held:
            yield from _functions_in(item, depth - 1)


def _share(value: Any, memo: dict[int, Any], who: Callable[[], str]) -> None:
    """Let what cannot be copied and does not count be held by both. Raises InputError for what a run would use up."""
    for path, held in _reachable(value):
        if isinstance(held, _CONSUMED):
            raise InputError(
                f"{path or who()} is a {type(held).__name__}: a run would use it up, and it cannot be copied. "
                "Hold the values it yields in a list."
            )
        if isinstance(held, _SHARED):
            memo[id(held)] = held


def _reachable(value: Any) -> Iterator[tuple[str, Any]]:
    """Every object that hangs on a value, once, with the attribute path that leads there."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, held = waiting.pop()
        if id(held) in seen or isinstance(held, (str, bytes, int, float, type)):
            continue
        seen.add(id(held))
        yield path, held
        if isinstance(held, (*_SHARED, torch.Tensor)):
            continue
        if isinstance(held, dict):
            waiting += [(f"{path}[{key!r}]", item) for key, item in held.items()]
        elif isinstance(held, (list, tuple, set, frozenset)):
            waiting += [(f"{path}[{i}]", item) for i, item in enumerate(held)]
        if isinstance(held, types.MethodType):
            waiting.append((path, held.__self__))
        elif isinstance(held, types.FunctionType):
            waiting += [(path, c.cell_contents) for c in held.__closure__ or () if not _is_empty(c)]
        elif hasattr(held, "__dict__"):
            waiting += [(f"{path}.{key}" if path else str(key), item) for key, item in vars(held).items()]
        for kind in type(held).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if hasattr(held, slot):
                    waiting.append((f"{path}.{slot}" if path else slot, getattr(held, slot)))


def _culprit(model: nn.Module) -> str:
    """The module attribute that ``copy.deepcopy`` fails on."""
    for name, module in model.named_modules():
        children = {id(child) for child in module._modules.values()}
        for key, held in vars(module).items():
            if key in ("_modules", "_parameters", "_buffers") or id(held) in children:
                continue
            try:
                copy.deepcopy(held)
            except Exception:
                return f"{name}.{key}" if name else key
    return type(model).__name__


def _is_empty(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False
