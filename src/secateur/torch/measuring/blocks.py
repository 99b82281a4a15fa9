"""What a block adds to what it is given: the branch of a residual sum, as it runs and in its weights.

    x ──► block ──► y        influence 1 − cos(x, y)        branch y − x        norm of its weights

The influence of a block is that of Men et al., ShortGPT, arXiv 2403.03853.

Invariant: looking changes nothing that the network computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from secateur.core.depth import LAYERS, Passes, Stack
from secateur.core.graph import Graph
from secateur.torch.running.restoring import named_tensors

# a block's name, what it was given, what goes on from it, and the tensor that it gave
Look = Callable[[str, torch.Tensor, torch.Tensor, torch.Tensor], None]


def free_blocks(graph: Graph) -> dict[str, Stack]:
    """The blocks that may go, each with its stack."""
    free = {width.name for width in graph.free if width.kind == LAYERS}
    return {name: stack for stack in graph.stacks for name in stack.blocks if name in free}


@contextmanager
def watched(model: nn.Module, graph: Graph, look: Look) -> Iterator[None]:
    """Show every free block's main input and output, on each visit; of one whose caller adds the two, their sum goes on."""
    handles = []
    for name, stack in free_blocks(graph).items():
        passes = stack.passes[name.rpartition(".")[2]]

        def hear(
            module: nn.Module,
            args: object,
            kwargs: object,
            out: object,
            at: tuple[str, Passes] = (name, passes),
        ) -> None:
            block, passes = at
            place, source = passes.pairs[0]
            given, gave = tree_leaves((args, kwargs))[source], tree_leaves(out)[place]
            if isinstance(given, torch.Tensor) and isinstance(gave, torch.Tensor):
                look(block, given, given + gave.detach() if passes.zeros else gave, gave)

        handles.append(model.get_submodule(name).register_forward_hook(hear, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def influence(given: torch.Tensor, gone_on: torch.Tensor, axis: int) -> torch.Tensor:
    """1 − cos of the two along an axis, at every place: a row a sample."""
    wide = torch.promote_types(gone_on.dtype, torch.float32)
    cos = torch.nn.functional.cosine_similarity(given.to(wide), gone_on.to(wide), dim=axis)
    return 1 - cos.flatten(1) if cos.dim() > 1 else 1 - cos[:, None]


def branch_norms(graph: Graph, model: nn.Module, power: float) -> dict[str, float]:
    """For each free block the p-norm of a weight of it, on average: (mean |w|^p)^(1/p) over all that is no vector."""
    live = named_tensors(model)
    found: dict[str, float] = {}
    for block in free_blocks(graph):
        mine = [live[n].detach() for n in graph.parameters if n.startswith(f"{block}.") and n in live]
        weights = [tensor for tensor in mine if tensor.dim() > 1 and tensor.is_floating_point()]
        total = sum(float(tensor.float().abs().pow(power).sum()) for tensor in weights)
        found[block] = (total / max(sum(tensor.numel() for tensor in weights), 1)) ** (1 / power)
    return found
