"""Pruning that can be taken back: masks over parameters, for training on before anything is narrowed.

    conv.weight ── Mask ──► where(mask, weight, 0)      mask_plan(model, plan)            the network that the plan will give
                                                        remove_masks(model, …)            plain parameters again

A mask is a parametrisation: the forward pass sees zeros, and gradients reach the kept entries alone. ``state_dict`` holds
no mask, and a masked tensor under PyTorch's name for it, ``conv.parametrizations.weight.original``.

Invariant: the Parameter objects stay the same throughout, so that optimizers and tied weights never notice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from secateur.core.given import check_given
from secateur.core.plan import Plan
from secateur.errors import InputError, PlanError, nearest
from secateur.torch.narrowing.bookkeeping import refresh
from secateur.torch.narrowing.slices import check_shape, kept_mask
from secateur.torch.running.constants import table_of
from secateur.torch.running.walking import modules_of, named_modules

_BUFFERS = "_secateur_masked_buffers"  # in a module: {buffer: (where it is masked, what was there)}


class Mask(nn.Module):
    """The parametrisation. ``mask`` is True where a weight is kept; ``axis`` says where a vector lies, if it is one.

    ``order`` lists the parameters of the module as they were, for putting them back in their places.
    """

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor, axis: int | None, order: tuple[str, ...]) -> None:
        super().__init__()
        self.axis, self.order = axis, order
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with zeros where it is masked."""
        return torch.where(self.broadcast(weight.dim()), weight, 0)

    def broadcast(self, num_axes: int) -> torch.Tensor:
        """The mask as something that broadcasts to the weight."""
        if self.axis is None:
            return self.mask
        return self.mask.view([-1 if i == self.axis else 1 for i in range(num_axes)])


def add_mask(module: nn.Module, tensor_name: str, mask: torch.Tensor, *, axis: int | None = None) -> Mask:
    """Mask one tensor of a module; several masks on one tensor hold together.

    ``mask`` is boolean (or zeros and ones) and broadcasts to the tensor; with ``axis`` it is a vector along that axis.
    Raises InputError for a name that is no parameter, a mask that does not fit, or a tensor with another parametrisation.
    """
    weight = _weight(module, tensor_name)
    check_name(tensor_name)
    if not (mask.dtype is torch.bool or bool(((mask == 0) | (mask == 1)).all())):
        raise InputError(f"{tensor_name}: a mask holds only True and False (or 1 and 0)")
    made = Mask(mask.detach().to(weight.device, torch.bool), axis, _order(module))
    fits = mask.shape == (weight.shape[axis],) if axis is not None else _broadcasts(mask.shape, weight.shape)
    if not fits:
        raise InputError(f"{tensor_name}: a mask of shape {tuple(mask.shape)} does not fit {tuple(weight.shape)}")
    _own_class(module)
    parametrize.register_parametrization(module, tensor_name, made)
    return made


def check_name(name: str) -> None:
    """Raise InputError for a parameter that PyTorch cannot parametrise: it takes it away before it finds that out."""
    key = name.rpartition(".")[2]
    if hasattr(nn.ModuleDict(), key):
        raise InputError(
            f"{name}: a mask is a parametrisation, and PyTorch holds none for a parameter called {key!r}: its ModuleDict has a "
            "method of that name. Call the parameter something else, or narrow without masks (prune, apply)"
        )


def masks_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The masks by the plain names of their tensors, in the tensors' shapes, True where a weight is kept."""
    check_given("masks_of", "model", model, nn.Module)
    return {f"{prefix}.{key}" if prefix else key: masks_on(stack) for prefix, _, key, stack in _masked(model)}


def masks_on(stack: parametrize.ParametrizationList) -> torch.Tensor:
    """What all masks of one tensor keep of it together."""
    original = stack.original
    mask = torch.ones_like(original, dtype=torch.bool)
    for one in stack:
        assert isinstance(one, Mask)
        mask &= one.broadcast(original.dim())
    return mask


def remove_masks(model: nn.Module, *, leave_zeros: bool) -> None:
    """Plain parameters again, the same objects: with zeros where they were masked, or with what the masks hid."""
    for _, module, key, stack in list(_masked(model)):
        first = stack[0]
        assert isinstance(first, Mask)
        if leave_zeros:
            with torch.no_grad():
                stack.original.copy_(getattr(module, key))
        _own_class(module)
        parametrize.remove_parametrizations(module, key, leave_parametrized=False)
        for name in [name for name in first.order if name in module._parameters]:
            module._parameters[name] = module._parameters.pop(name)
        refresh(module)
    if leave_zeros:
        for module in modules_of(model):
            module.__dict__.pop(_BUFFERS, None)
    show_buffers(model)


def mask_plan(model: nn.Module, plan: Plan) -> None:
    """Mask all that the plan would remove, wherever it is: weights, biases, norms, and what reads the units.

    Over exact widths the masked network computes what the narrowed one does. Raises PlanError where the plan is another
    model's, and where it drops a block: that is no zeros in parameters. The model is then unchanged.
    """
    check_given("mask_plan", "model", model, nn.Module)
    check_given("mask_plan", "plan", plan, Plan)
    if plan.drops:
        raise PlanError(
            f"{min(plan.drops)} goes whole, which no mask can stand for: zeros in the weights of a block are not the block left "
            "out where a norm or a bias follows. Apply the plan, or mask one that leaves all blocks (a trace without depth)"
        )
    tensors = check_whole(model, plan)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and isinstance(tensor, nn.Parameter):
            check_name(name)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        module, key = place_of(model, name)
        mask = kept_mask(tensor, plan.layouts[name], plan.arrays)
        if isinstance(tensor, nn.Parameter):
            add_mask(module, key, mask)
        else:
            hide_buffer(module, key, mask)


def check_whole(model: nn.Module, plan: Plan) -> dict[str, torch.Tensor]:
    """The tensors that a plan narrows, as they are below their masks. Raises PlanError where one is not whole."""
    return {name: check_shape(name, tensor_of(model, name), plan.layouts[name]) for name in plan.narrowed}


@contextmanager
def without_masks(model: nn.Module) -> Iterator[None]:
    """Plain parameters for the length of a block, with zeros where they were masked; whoever masks them again in there finds
    under the masks what they hid before."""
    hidden = [(stack.original, ~masks_on(stack)) for *_, stack in _masked(model)]
    values = [original.detach()[where] for original, where in hidden]
    remove_masks(model, leave_zeros=True)
    try:
        yield
    finally:
        with torch.no_grad():
            for (original, where), before in zip(hidden, values, strict=True):
                original[where] = before


def hide_buffer(module: nn.Module, key: str, mask: torch.Tensor) -> None:
    """Zero what is masked in a buffer, remembering it; code may write into buffers, so no parametrisation there.

    Running statistics of a norm with a scale stay: the scale is masked, so they say nothing.
    """
    if isinstance(module, _NormBase) and module.affine:
        return
    buffer = table_of(module, key)[key]
    hidden = ~mask.expand_as(buffer)
    before = module.__dict__.setdefault(_BUFFERS, {})
    if key in before:
        earlier, values = before[key]
        buffer.masked_scatter_(earlier, values)
        hidden = hidden | earlier
    before[key] = (hidden, buffer[hidden].clone())
    buffer.masked_fill_(hidden, 0)


def show_buffers(model: nn.Module) -> None:
    """What `hide_buffer` hid is there again."""
    for module in modules_of(model):
        for key, (hidden, values) in module.__dict__.pop(_BUFFERS, {}).items():
            table_of(module, key)[key].masked_scatter_(hidden, values)


def tensor_of(model: nn.Module, name: str) -> torch.Tensor | None:
    """A parameter, buffer or constant by its plain name, as it is below its mask if it has one; None where there is none."""
    try:
        module, key = place_of(model, name)
    except AttributeError:
        return None
    if parametrize.is_parametrized(module, key):
        return _weight(module, key)
    found = table_of(module, key).get(key)
    return found if isinstance(found, torch.Tensor) else None


def place_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a tensor, and the tensor's name there."""
    prefix, _, key = name.rpartition(".")
    return model.get_submodule(prefix), key


def _masked(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, parametrize.ParametrizationList]]:
    for prefix, module in named_modules(model):
        if parametrize.is_parametrized(module):
            for key, stack in module.parametrizations.items():  # type: ignore[union-attr]
                if isinstance(stack, parametrize.ParametrizationList) and isinstance(stack[0], Mask):
                    yield prefix, module, key, stack


def _weight(module: nn.Module, tensor_name: str) -> torch.Tensor:
    if parametrize.is_parametrized(module, tensor_name):
        stack: Any = module.parametrizations[tensor_name]  # type: ignore[index]
        if not isinstance(stack[0], Mask):
            raise InputError(
                f"{tensor_name} has the parametrisation {type(stack[0]).__name__} already: remove it "
                "first (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        return stack.original
    weight = module._parameters.get(tensor_name)
    if weight is None:
        raise InputError(f"no parameter is called {tensor_name!r} here.{nearest(tensor_name, module._parameters)}")
    return weight


def _order(module: nn.Module) -> tuple[str, ...]:
    """The parameters of a module in their order before any mask."""
    if parametrize.is_parametrized(module):
        for stack in module.parametrizations.values():  # type: ignore[union-attr]
            first = stack[0]
            if isinstance(first, Mask):
                return first.order
    return tuple(module._parameters)


def _own_class(module: nn.Module) -> None:
    """PyTorch keeps parametrised names in a class made for the module, which deep copies share: take one for this alone."""
    if parametrize.is_parametrized(module):
        shared = type(module)
        contents = {key: value for key, value in vars(shared).items() if key not in ("__dict__", "__weakref__")}
        module.__class__ = type(shared.__name__, shared.__bases__, contents)  # type: ignore[assignment]


def _broadcasts(mask: torch.Size, weight: torch.Size) -> bool:
    try:
        return torch.broadcast_shapes(mask, weight) == weight
    except RuntimeError:
        return False
