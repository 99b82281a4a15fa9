"""The way back for a model that is about to change, and what its tensors are called.

    undo = undo_of(model)      what every module holds: attributes, parameters, buffers, submodules, its lists and dicts
    undo()                     all of it again, in one step that no signal and no other thread can divide

`all_or_nothing` does that where a block raises.

Invariant: after ``undo()`` every module holds the very objects that it held.
"""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch._tensor
import torch.functional
import torch.nn.functional
from torch import nn

from secateur.torch.running.walking import modules_of, named_modules

Undo = Callable[[], object]


def undo_of(model: nn.Module) -> Undo:
    """What puts every module back, once, to what it holds now.

    Tensors are not copied, and of what modules hold only dicts, lists, sets and deques are, one level deep.
    """
    held: dict[type, list[Any]] = {kind: [] for kind in _CONTAINERS}
    for module in modules_of(model):
        held[dict].append(module.__dict__)
        for value in module.__dict__.values():
            kind = type(value)
            if kind in held:
                held[kind].append(value)
            elif isinstance(value, tuple(_CONTAINERS)):
                held[next(kind for kind in _CONTAINERS if isinstance(value, kind))].append(value)
    # Python looks for signals between its own instructions only: a deque that drains an iterator is a single one. The
    # methods are those of the built-in types, since a subclass's own would be instructions again.
    steps = [_refill(kind, containers) for kind, containers in held.items()]
    return partial(deque, chain.from_iterable(steps), 0)


_CONTAINERS: dict[type, Callable[[Any, Any], object]] = {
    OrderedDict: OrderedDict.update,
    dict: dict.update,
    list: list.extend,
    set: set.update,
    deque: deque.extend,
}


def _refill(kind: Any, containers: list[Any]) -> Iterator[object]:
    """What clears each container and gives it its present contents again, when iterated over."""
    contents = list(map(dict if kind is OrderedDict else kind, containers))
    return chain.from_iterable(zip(map(kind.clear, containers), map(_CONTAINERS[kind], containers, contents)))


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Put everything back if the block raises; keep its changes if it does not."""
    undo = undo_of(model)
    try:
        yield
    except BaseException:
        undo()
        raise


@contextmanager
def flags_kept(model: nn.Module) -> Iterator[None]:
    """Training flags are as before on exit."""
    flags = [(module, module.training) for module in modules_of(model)]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """What modules hold is on exit what it was: what a run kept for itself goes, training flags are as before.

    A cached property, a table filled at the first call, a buffer made then or another kind of attention would be of the network
    as it was when it ran, and that may be narrowed next. Numbers in tensors stay as they are by then.
    """
    undo = undo_of(model)
    try:
        yield
    finally:
        undo()


def relink(module: nn.Module) -> None:
    """Recurrent modules hold their weights a second time, in a list, behind weak references: bring it in line."""
    names = module.__dict__.get("_flat_weights_names")
    if names is None or isinstance(module, torch.jit.ScriptModule):
        return
    weights = [module._parameters.get(name) for name in names]
    module.__dict__["_flat_weights"] = weights
    module.__dict__["_flat_weight_refs"] = [None if weight is None else weakref.ref(weight) for weight in weights]


def abstract_like(tensor: torch.Tensor, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    """A tensor without data of this dtype and (unless given) shape; a Parameter for a Parameter.

    Small integer buffers keep their values: code branches on them.
    """
    if not tensor.is_floating_point() and not tensor.is_complex() and not tensor.is_meta and shape is None:
        return tensor.detach().clone() if tensor.device.type == "cpu" else tensor.detach().cpu()
    made = torch.empty(tensor.shape if shape is None else shape, dtype=tensor.dtype, device="meta")
    return nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made


def named_tensors(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """All parameters and buffers by every name they have."""
    modules = named_modules(model, once=False)
    parameters = _members((prefix, module._parameters) for prefix, module in modules)
    return {**parameters, **_members((prefix, module._buffers) for prefix, module in modules)}


def _members(tables: Iterable[tuple[str, Mapping[str, torch.Tensor | None]]]) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}.{key}" if prefix else key: tensor
        for prefix, table in tables
        for key, tensor in table.items()
        if tensor is not None
    }


def shallow_copy(value: object) -> Any:
    """Another object with the same attributes; no constructor is run where that can be avoided."""
    try:
        made = object.__new__(type(value))
    except TypeError:
        return copy.copy(value)
    made.__dict__.update(vars(value))
    return made
