"""Code that runs inside a transform of ``torch.func``: ``vmap``, ``grad``, ``jacrev`` and their like.

    torch.vmap(layer)(x)      layer is given one row of x: a wrapper around x, which dies with the transform
    bottom(row) is x          what it is a wrapper of

Invariant: nothing of a transform is kept after it.
"""

from __future__ import annotations

import torch
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.utils._pytree import tree_map

from secateur.torch.running.calls import Result

INSIDE = "it runs inside a transform of torch.func (vmap, grad, jacrev …), where nobody can look at what it is given"


def inside_a_transform() -> bool:
    """Whether the code that runs now is given wrappers."""
    return peek_interpreter_stack() is not None


def bottoms(tree: Result) -> Result:
    """The same arguments with the tensors that wrappers stand for."""
    return tree_map(lambda leaf: bottom(leaf) if isinstance(leaf, torch.Tensor) else leaf, tree)


def bottom(tensor: torch.Tensor) -> torch.Tensor:
    """What all wrappers around a tensor stand for."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor
