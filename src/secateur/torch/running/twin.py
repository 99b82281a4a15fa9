"""A second network with the same code, for runs that must leave the first alone.

    model ──twin(model, stand_in)──► modules, containers, plain objects, closures copied; tensors are what stand_in gives
    model ──counterpart(model, stand_in)──► a twin to hand out: what only outside code holds (a list that a hook fills) is shared
    model ──twin(model, in_use)──► one to run on data: parameters of its own on the model's memory, buffers copied
    batch ──copied(batch, replace)──► the same for arguments

A trace runs a twin on tensors without data, verification one on other numbers. Nothing of the model's is swapped, so it may
serve in another thread meanwhile, and an interruption at any moment leaves nothing to put back.

Invariant: what a run of the twin writes cannot be seen from the model; what cannot be copied is refused before anything ran.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import nn

from secateur.errors import InputError
from secateur.torch.running.constants import constants_of
from secateur.torch.running.copying import CHANGED, Copier, Uncopyable
from secateur.torch.running.restoring import relink
from secateur.torch.running.walking import modules_of, named_modules
from secateur.torch.running.written import is_written

StandIn = Callable[[str, torch.Tensor], torch.Tensor]
T = TypeVar("T")


def twin(model: nn.Module, stand_in: StandIn) -> nn.Module:
    """A deep copy in which each parameter, buffer and constant is ``stand_in(first name, tensor)``; one tensor stays one tensor.

    Other tensors that modules hold are cloned. TorchScript modules are copied with their weights, which
    PyTorch does not let anybody replace. Raises InputError, naming the attribute, where something cannot be copied.
    """
    return _twin(model, stand_in)


def in_use(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers for a twin that is only run: a parameter in the same memory, what code writes to (a buffer, and what a
    trace saw written) copied.

    Gradients, and whether any are asked for, are the twin's own.
    """
    if not isinstance(tensor, nn.Parameter):
        return tensor.detach().clone()
    made = tensor.detach().clone() if is_written(tensor) else tensor.detach()
    if type(tensor) is nn.Parameter or not issubclass(type(tensor), nn.Parameter):
        return nn.Parameter(made, requires_grad=False)
    return torch.Tensor._make_subclass(type(tensor), made, False)  # a subclass may ask for other arguments


def counterpart(model: nn.Module, stand_in: StandIn) -> nn.Module:
    """As `twin`, for keeps: of the functions that modules hold, those that reach the model are copied, the rest is shared.

    A hook that fills a list of the caller's fills that same list when the copy runs.
    """
    return _twin(model, stand_in, keeps_strangers=True)


def _twin(model: nn.Module, stand_in: StandIn, *, keeps_strangers: bool = False) -> nn.Module:
    modules = named_modules(model)
    copier = Copier(_clone, members=[module for _, module in modules], keeps_strangers=keeps_strangers)
    for name, tensor in _tensors_in(modules):
        if id(tensor) not in copier.memo:
            copier.memo[id(tensor)] = _with_attributes(stand_in(name, tensor), tensor)
    made = _attempt(copier, model, "")
    if any("_flat_weights_names" in vars(module) for _, module in modules):
        for module in modules_of(made):
            relink(module)
    return made


def copied(value: T, replace: Callable[[torch.Tensor], torch.Tensor]) -> T:
    """A deep copy of arguments, whatever objects hold them, with every tensor replaced; one tensor stays one tensor.

    Raises InputError where something cannot be copied.
    """
    return _attempt(Copier(replace), value, "the arguments")


def _tensors_in(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers and constants by every name, but for those inside TorchScript modules."""
    for prefix, module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for table in (module._parameters, module._buffers, constants_of(module)):
            for key, tensor in list(table.items()):
                if tensor is not None:
                    yield (f"{prefix}.{key}" if prefix else key), tensor


def _attempt(copier: Copier, value: T, root: str) -> T:
    """Copy; a few times over while another thread that runs the model changes a container under our hands."""
    given = dict(copier.memo)
    for _ in range(5):
        try:
            return copier.copy(value)
        except RuntimeError as error:
            if CHANGED not in str(error):
                raise
            copier.memo = dict(given)
        except Uncopyable as error:
            raise InputError(error.sentence(root)) from error.__cause__
    raise InputError(
        f"{root or type(value).__name__} changes all the time while it is copied: another thread writes to it"
    )


def _clone(tensor: torch.Tensor) -> torch.Tensor:
    made = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made.requires_grad_() if tensor.is_leaf and tensor.requires_grad else made


def _with_attributes(made: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """What code has hung on a parameter (its role, its quantisation) it may look for on the stand-in."""
    for key, value in tensor.__dict__.items():
        if not hasattr(made, key):
            setattr(made, key, value)
    return made
