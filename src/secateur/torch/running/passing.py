"""A block passed over: it runs, and what it was given goes on in place of what it gives.

    x ──► block ──► x'        passed over:    x ──► block ──► x

Invariant: only the tensors that a block passes on are exchanged; the rest of its output, and its form, stay.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from secateur.core.depth import Passes


def pass_over(block: nn.Module, passes: Passes) -> None:
    """Let a module of a copy, for good, give on these of its arguments at these places of its output.

    Raises TypeError where it is given other arguments than it was when it was traced.
    """

    def instead(module: nn.Module, args: object, kwargs: object, out: object) -> object:
        given, (gave, form) = tree_leaves((args, kwargs)), tree_flatten(out)
        for place, source in passes:
            if place >= len(gave) or source >= len(given) or not isinstance(given[source], torch.Tensor):
                raise TypeError(f"{type(module).__name__} is called with other arguments than when it was traced")
            gave[place] = given[source]
        return tree_unflatten(gave, form)

    block.register_forward_hook(instead, with_kwargs=True)
