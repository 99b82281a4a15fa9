"""What torch.nn modules say of themselves: ``in_features``, ``num_channels`` and the like follow their tensors.

    refresh(linear)     linear.in_features, linear.out_features  <-  linear.weight.shape

Invariant: nothing is written that a module did not hold before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from secateur.torch.running.restoring import flags_kept, relink
from secateur.torch.running.walking import modules_of


def refresh(module: nn.Module) -> None:
    """Bring the sizes a torch.nn module keeps about itself in line with its tensors."""
    relink(module)
    copy_lengths(module)
    if not is_parametrized(module) and not module._forward_pre_hooks:
        _refresh_sizes(module)
        return
    with flags_kept(module):
        for part in modules_of(module):
            part.training = False  # a weight that is computed when it is asked for may learn from being asked
        _recompute(module)
        _refresh_sizes(module)


def copy_lengths(module: nn.Module) -> None:
    """A layer of einops (``Rearrange("b n (h d) -> b h n d", h=8)``) has the lengths that it was given in a dict, and works with
    a copy of it."""
    if "_axes_lengths" in module.__dict__ and any(
        kind.__module__.startswith("einops.") for kind in type(module).__mro__
    ):
        module.__dict__["_axes_lengths"] = tuple(module.__dict__["axes_lengths"].items())


def _recompute(module: nn.Module) -> None:
    """What torch's own pruning and norms of weights compute before each forward, and leave as a plain attribute: one that no
    gradient flows through, or the model could not be copied before the next."""
    with torch.no_grad():
        for hook in _hooks_of_torch(module):
            hook(module, ())


def recomputed(module: nn.Module) -> set[str]:
    """The plain attributes that torch's own norms of weights set before each forward; until the first they may be a view of
    the parameter."""
    return {hook.name for hook in _hooks_of_torch(module) if hasattr(hook, "name")}


def _hooks_of_torch(module: nn.Module) -> list[Any]:
    hooks = module._forward_pre_hooks.values()
    return [hook for hook in hooks if type(hook).__module__.startswith("torch.nn.utils.")]


def _refresh_sizes(module: nn.Module) -> None:
    for kind, sizes in _BOOKKEEPING:
        if isinstance(module, kind):
            for key, value in sizes(module).items():
                if key in module.__dict__ and value is not None:
                    module.__dict__[key] = value


def _shape(module: nn.Module, *names: str) -> tuple[int, ...] | None:
    for name in names:
        tensor = getattr(module, name, None)
        if isinstance(tensor, torch.Tensor):
            return tuple(tensor.shape)
    return None


def _of_linear(module: Any) -> dict[str, Any]:
    return {"out_features": module.weight.shape[0], "in_features": module.weight.shape[1]}


def _of_conv(module: Any) -> dict[str, Any]:
    first, second = module.weight.shape[:2]
    if module.transposed:
        return {"in_channels": first, "out_channels": second * module.groups}
    return {"out_channels": first, "in_channels": second * module.groups}


def _of_norm(module: Any) -> dict[str, Any]:
    shape = _shape(module, "weight", "running_mean")
    return {"num_features": shape[0] if shape else None}


def _of_layer_norm(module: Any) -> dict[str, Any]:
    return {"normalized_shape": _shape(module, "weight")}


def _of_group_norm(module: Any) -> dict[str, Any]:
    shape = _shape(module, "weight")
    return {"num_channels": shape[0] if shape else None}


def _of_embedding(module: Any) -> dict[str, Any]:
    return {"num_embeddings": module.weight.shape[0], "embedding_dim": module.weight.shape[1]}


def _of_rnn(module: Any) -> dict[str, Any]:
    hidden, inputs = module.weight_hh_l0.shape[1], module.weight_ih_l0.shape[1]
    if module.proj_size:
        return {"input_size": inputs, "proj_size": hidden, "hidden_size": module.weight_hr_l0.shape[1]}
    return {"input_size": inputs, "hidden_size": hidden}


def _of_bilinear(module: Any) -> dict[str, Any]:
    return dict(zip(("out_features", "in1_features", "in2_features"), module.weight.shape, strict=True))


_BOOKKEEPING: tuple[tuple[Any, Any], ...] = (
    (nn.Linear, _of_linear),
    (nn.modules.conv._ConvNd, _of_conv),
    (nn.modules.batchnorm._NormBase, _of_norm),
    ((nn.LayerNorm, nn.RMSNorm), _of_layer_norm),
    (nn.GroupNorm, _of_group_norm),
    ((nn.Embedding, nn.EmbeddingBag), _of_embedding),
    (nn.RNNBase, _of_rnn),
    (nn.RNNCellBase, lambda m: {"input_size": m.weight_ih.shape[1], "hidden_size": m.weight_hh.shape[1]}),
    (nn.Bilinear, _of_bilinear),
    (nn.PReLU, lambda m: {"num_parameters": m.weight.shape[0]}),
)
