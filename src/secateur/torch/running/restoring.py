"""Run a model without leaving a mark on it.

    undo = undo_of(model)      what every module holds: attributes, parameters, buffers, submodules, its lists and dicts
    undo()                     all of it again, in one step that no signal and no other thread can divide

`untouched` does that around a block, with the random state; `all_or_nothing` only where the block raises. `swap_weights`
replaces parameters and buffers, by `abstract_like` with tensors without data on the ``meta`` device.

Invariant: after the ``with`` block, model and process are bit for bit what they were.
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

Swap = Callable[[str, torch.Tensor], torch.Tensor]
Undo = Callable[[], object]


def undo_of(model: nn.Module) -> Undo:
    """What puts every module back, once, to what it holds now.

    Tensors are not copied, and of what modules hold only dicts, lists, sets and deques are, one level deep.
    """
    held: dict[type, list[Any]] = {kind: [] for kind in _CONTAINERS}
    for module in model.modules():
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
def untouched(model: nn.Module, *, random_state: bool = True) -> Iterator[None]:
    """Everything that a forward pass may change in the modules, and the random state, is put back on exit.

    Tensors are not copied: who runs code that writes into buffers swaps in copies first.
    """
    undo = undo_of(model)
    cpu_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        undo()
        if random_state:
            torch.set_rng_state(cpu_state)
        if random_state and cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


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
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def swap_weights(model: nn.Module, swap: Swap) -> None:
    """Replace every parameter and buffer by ``swap(name, tensor)``; one tensor under two names is swapped once.

    Meant to run inside `untouched`.
    """
    swapped: dict[int, torch.Tensor] = {}
    for prefix, module in model.named_modules():
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in swapped:
                    swapped[id(tensor)] = swap(f"{prefix}.{key}" if prefix else key, tensor)
                table[key] = swapped[id(tensor)]  # type: ignore[assignment]
        relink(module)


def relink(module: nn.Module) -> None:
    """Recurrent modules hold their weights a second time, in a list, behind weak references: bring it in line."""
    names = module.__dict__.get("_flat_weights_names")
    if names is None or isinstance(module, torch.jit.ScriptModule):
        return
    weights = [module._parameters.get(name) for name in names]
    module.__dict__["_flat_weights"] = weights
    module.__dict__["_flat_weight_refs"] = [None if weight is None else weakref.ref(weight) for weight in weights]


def own_buffers(model: nn.Module) -> None:
    """Swap in copies of all buffers, which a forward pass may write into. Meant to run inside `untouched`."""
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    swap_weights(model, lambda name, tensor: tensor.detach().clone() if name in buffers else tensor)


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
    modules = list(model.named_modules(remove_duplicate=False))
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
