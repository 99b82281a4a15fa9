"""Run a model without leaving a mark on it.

`untouched` remembers what every module holds (attributes, parameters, buffers, submodules, shallow copies of its lists and
dicts), the training flags, random state and the switches that tracing turns, and puts all of it back, even after an error.
`swap_weights` replaces parameters and buffers, by `abstract_like` with tensors without data on the ``meta`` device.

Invariant: after the ``with`` block, model and process are bit for bit what they were.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch._tensor
import torch.functional
import torch.nn.functional
from torch import nn

Swap = Callable[[str, torch.Tensor], torch.Tensor]


@contextmanager
def untouched(model: nn.Module, *, random_state: bool = True) -> Iterator[None]:
    """Everything that a forward pass may change in the modules, and the random state, is put back on exit.

    Tensors are not copied: who runs code that writes into buffers swaps in copies first.
    """
    snapshots = [(module, _snapshot(module)) for module in model.modules()]
    cpu_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        for module, snapshot in snapshots:
            _put_back(module, *snapshot)
        if random_state:
            torch.set_rng_state(cpu_state)
        if random_state and cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Put everything back if the block raises; keep its changes if it does not."""
    snapshots = [(module, _snapshot(module)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module, snapshot in snapshots:
            _put_back(module, *snapshot)
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


def _snapshot(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    held = dict(module.__dict__)
    inner = {key: value.copy() for key, value in held.items() if isinstance(value, (dict, list, set))}
    return held, inner


def _put_back(module: nn.Module, held: dict[str, Any], inner: dict[str, Any]) -> None:
    module.__dict__.clear()
    module.__dict__.update(held)
    for key, contents in inner.items():
        container = held[key]
        if not contents and not container:
            continue
        if not _same_contents(container, contents):
            container.clear()
            container.extend(contents) if isinstance(container, list) else container.update(contents)


def _same_contents(now: Any, before: Any) -> bool:
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        return all(k in before and before[k] is v for k, v in now.items())
    return all(a is b for a, b in zip(now, before, strict=True)) if isinstance(now, list) else now == before


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
        if "_flat_weights_names" in module.__dict__:
            names = module.__dict__["_flat_weights_names"]
            module.__dict__["_flat_weights"] = [module._parameters.get(n) for n in names]


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
    found: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found.update(model.named_buffers(remove_duplicate=False))
    return found


def shallow_copy(value: Any) -> Any:
    """Another object with the same attributes; no constructor is run where that can be avoided."""
    try:
        made = object.__new__(type(value))
    except TypeError:
        return copy.copy(value)
    made.__dict__.update(vars(value))
    return made
