"""A block passed over: it runs on copies, and what it was given goes on in place of what it gives; or it is gone.

    x ──► block ──► x'        passed over:    x ──► block(copy of x) ──► x        gone:    x ──► Passage ──► x

Of a block whose caller adds what it gives, ``x + block(x)``, zeros go on.

Invariant: only the tensors that a block passes on are exchanged; the rest of its output, and its form, stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from secateur.core.depth import Passes


class Passage(nn.Identity):
    """What stands in the place of a block that is gone: it gives on what the block was given, or zeros like it."""

    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self.passes = passes

    def forward(self, *args: object, **kwargs: object) -> Any:  # type: ignore[override] -- as the block was called
        """What goes on; in a tuple, where the block gave one, None for all else."""
        given = tree_leaves((args, kwargs))
        gave = {place: _given_on(given, source, self.passes) for place, source in self.passes.pairs}
        if self.passes.values is None:
            return gave[0]
        return tuple(gave.get(place) for place in range(self.passes.values))

    def extra_repr(self) -> str:
        """What it gives."""
        return "zeros" if self.passes.zeros else ""


def _given_on(given: list[object], source: int, passes: Passes) -> torch.Tensor:
    tensor = given[source] if source < len(given) else None
    if not isinstance(tensor, torch.Tensor):
        raise TypeError("a block that is passed over, or gone, was called with other arguments when it was traced")
    return torch.zeros_like(tensor) if passes.zeros else tensor


def pass_over(block: nn.Module, passes: Passes) -> None:
    """Let a module of a copy, for good, give on these of its arguments at these places of its output.

    Raises TypeError where it is given other arguments than it was when it was traced.
    """

    given: list[list[object]] = []

    def before(module: nn.Module, args: object, kwargs: object) -> tuple[Any, Any]:
        leaves, form = tree_flatten((args, kwargs))
        if any(source >= len(leaves) or not isinstance(leaves[source], torch.Tensor) for _, source in passes.pairs):
            raise TypeError(f"{type(module).__name__} is called with other arguments than when it was traced")
        given.append(list(leaves))
        for source in {source for _, source in passes.pairs}:
            leaves[source] = leaves[source].clone()  # a block may write into what it is given
        return tree_unflatten(leaves, form)

    def instead(module: nn.Module, args: object, kwargs: object, out: object) -> object:
        had, (gave, form) = given.pop(), tree_flatten(out)
        for place, source in passes.pairs:
            if place >= len(gave):
                raise TypeError(f"{type(module).__name__} gives something else than when it was traced")
            gave[place] = _given_on(had, source, passes)
        return tree_unflatten(gave, form)

    block.register_forward_pre_hook(before, with_kwargs=True)
    block.register_forward_hook(instead, with_kwargs=True)
