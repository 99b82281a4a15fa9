"""The tensors of a model as they are stored: each once, by name.

    lm_head.weight  -> alias of embed.weight               one tensor under two names is stored once
    rotary.inv_freq -> secateur.transient/rotary.inv_freq  a buffer that is no part of the state dict

Transient buffers are stored where a fresh model could not make them again: narrowed ones, and floating ones, which
follow casts. The others (masks, index tables) are what the constructor made. Of a constructor's plain tensors, which follow no
cast, those are stored that were narrowed.

Invariant: `stored_names` gives the same names for a narrowed model and for the fresh one it is restored onto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.core.compose import name_after
from secateur.core.plan import Plan
from secateur.core.text import visible
from secateur.errors import ArtifactError
from secateur.torch.narrowing.slices import identity
from secateur.torch.running.constants import named_constants
from secateur.torch.running.restoring import named_tensors
from secateur.torch.running.walking import named_modules, transient_names

TRANSIENT = "secateur.transient/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Tensors by stored name, and second names of the same tensors."""

    tensors: Mapping[str, Tensor]
    aliases: Mapping[str, str]


def stored_names(model: nn.Module, plans: Sequence[Plan], *, fresh: bool = False) -> dict[str, tuple[str, Tensor]]:
    """Model name -> stored name and tensor, for all that an artefact holds; ``fresh``: the model is still whole."""
    constants, transient, narrowed = named_constants(model), transient_names(model), narrowed_names(plans)
    found: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in {**named_tensors(model), **constants}.items():
        called = name_after(name, plans) if fresh else name
        if called is None:
            continue
        if name not in transient and name not in constants:
            found[name] = (called, tensor)
        elif called in narrowed or (name in transient and (tensor.is_floating_point() or tensor.is_complex())):
            found[name] = (TRANSIENT + called, tensor)
    return found


def narrowed_names(plans: Sequence[Plan]) -> set[str]:
    """The tensors that these plans make smaller and leave, by the names that they have in the end."""
    names = {name_after(name, plans[number:]) for number, plan in enumerate(plans) for name in plan.narrowed}
    return {name for name in names if name is not None}


def collect(model: nn.Module, plans: Sequence[Plan]) -> Stored:
    """What to store of a model. Raises ArtifactError for state that is no ordinary tensor with values."""
    _refuse_extra_state(model)
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[object, str] = {}
    for name, (stored, tensor) in stored_names(model, plans).items():
        _refuse_special(name, tensor)
        key = identity(tensor)
        if key in first:
            aliases[stored] = first[key]
        else:
            first[key] = stored
            tensors[stored] = _compact(tensor)
    return Stored(tensors=tensors, aliases=aliases)


def _compact(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, and alone in its storage."""
    plain = tensor.detach().cpu().contiguous()
    alone = plain.untyped_storage().nbytes() == plain.numel() * plain.element_size()
    return plain if alone else plain.clone()


def _refuse_special(name: str, tensor: Tensor) -> None:
    ordinary = type(tensor) in (Tensor, nn.Buffer) or issubclass(type(tensor), nn.Parameter)
    if is_lazy(tensor):
        raise ArtifactError(f"{visible(name)} has no shape yet; run the model once before saving it")
    if tensor.is_meta:
        raise ArtifactError(f"{visible(name)} is on the meta device: it has no values that could be saved")
    if not ordinary or tensor.layout is not torch.strided or tensor.is_quantized:
        kind = f"{type(tensor).__name__} ({tensor.layout})"
        raise ArtifactError(f"{visible(name)} is a {kind}; only ordinary dense tensors can be saved")


def _refuse_extra_state(model: nn.Module) -> None:
    for name, module in named_modules(model):
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise ArtifactError(
                f"{visible(name) or 'the model'} keeps extra state beside its tensors (get_extra_state); "
                "it cannot be saved without pickle. Save that part yourself and remove the method"
            )
