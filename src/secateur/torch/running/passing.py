"""A block passed over: it runs on copies, and what it was given goes on in place of what it gives.

    x ──► block ──► x'        passed over:    x ──► block(copy of x) ──► x

Invariant: only the tensors that a block passes on are exchanged; the rest of its output, and its form, stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from secateur.core.depth import Passes


def pass_over(block: nn.Module, passes: Passes) -> None:
    """Let a module of a copy, for good, give on these of its arguments at these places of its output.

    Raises TypeError where it is given other arguments than it was when it was traced.
    """

    given: list[list[object]] = []

    def before(module: nn.Module, args: object, kwargs: object) -> tuple[Any, Any]:
        leaves, form = tree_flatten((args, kwargs))
        if any(source >= len(leaves) or not isinstance(leaves[source], torch.Tensor) for _, source in passes):
            raise TypeError(f"{type(module).__name__} is called with other arguments than when it was traced")
        given.append(list(leaves))
        for source in {source for _, source in passes}:
            leaves[source] = leaves[source].clone()  # a block may write into what it is given
        return tree_unflatten(leaves, form)

    def instead(module: nn.Module, args: object, kwargs: object, out: object) -> object:
        had, (gave, form) = given.pop(), tree_flatten(out)
        for place, source in passes:
            if place >= len(gave):
                raise TypeError(f"{type(module).__name__} gives something else than when it was traced")
            gave[place] = had[source]
        return tree_unflatten(gave, form)

    block.register_forward_pre_hook(before, with_kwargs=True)
    block.register_forward_hook(instead, with_kwargs=True)
