"""Depth under a budget: of every stack one block stays.

    layers.0  0.7    layers.1  0.2    layers.2  0.9        layers.2 is left whole: the best of a stack that is all blocks

Invariant: no choice that a search space leaves empties a stack; what is asked to go is not what stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from secateur.core.depth import Stack, inside
from secateur.core.graph import Graph
from secateur.errors import InputError
from secateur.search.roles import side_of

LAST = "one block of {} must stay, and none that may scores higher"


def one_left(search_space: Graph, scores: Mapping[str, Any] | None = None) -> Graph:
    """The search space without the freedom to drop the best block of a stack of which nothing need stay otherwise."""
    for stack in search_space.stacks:
        free = [name for name in stack.blocks if may_go(search_space, name)]
        may_stay = [name for name in free if search_space[name].choices[-1]]
        if may_stay and not stack.stays_without(free):
            best = max(may_stay, key=lambda name: score_of(scores, name))
            search_space = search_space.frozen([best], LAST.format(stack.name or "the model"))
    return search_space


def check_some_stay(search_space: Graph, drops: Collection[str]) -> None:
    """Raise InputError, with what is possible, where these blocks are all of a stack."""
    for stack in search_space.stacks:
        if not stack.stays_without(drops):
            asked, all_of = [name for name in stack.blocks if name in drops], stack.name or "the model"
            raise InputError(
                f"sizes: {', '.join(asked)} cannot all have 0: one block of each stack stays, and no other is left of "
                f"{all_of}. At most {len(asked) - 1} of these {len(asked)} may go"
            )


def fewest_missed(search_space: Graph, scores: Mapping[str, Any], name: str, count: object) -> tuple[str, ...]:
    """The blocks to drop so that ``count`` entries of the network's stack are left: those of the lowest scores.

    Raises InputError, with what is possible, where that cannot be; ``name`` is what the count is called.
    """
    stack = _stack_called(search_space, name)
    free = [block for block in stack.blocks if may_go(search_space, block)]
    most, least = len(stack.entries), max(len(stack.entries) - len(free), stack.least)
    if not isinstance(count, int) or isinstance(count, bool) or not least <= count <= most:
        raise InputError(
            f"export_config: {name}={count} is not possible: {stack.name} has {most} layers, {least} must stay"
        )
    return tuple(sorted(free, key=lambda block: score_of(scores, block))[: most - count])


def _stack_called(search_space: Graph, name: str) -> Stack:
    """The list of layers that a count is about: that of the encoder or the decoder where the name says so, else the only one."""
    lists = [stack for stack in search_space.stacks if not stack.in_place]
    outermost = [s for s in lists if not any(inside(s.name, o.modules) for o in lists)]
    side = side_of(name)
    meant = [stack for stack in outermost if side is None or side in stack.name.split(".")]
    if len(meant) == 1:
        return meant[0]
    found = ", ".join(f"{s.name} ({len(s.entries)})" for s in outermost) or "none that may lose any"
    ask = "; ask for encoder_layers and decoder_layers" if len(meant) > 1 and side is None else ""
    raise InputError(f"export_config: {name} is about one list of layers, and this model has {found}{ask}")


def may_go(search_space: Graph, name: str) -> bool:
    """Whether a block is free to go."""
    width = next((width for width in search_space.widths if width.name == name), None)
    return width is not None and width.frozen is None and width.choices[0] == 0


def score_of(scores: Mapping[str, Any] | None, name: str) -> float:
    """The score of a block; 0 where it has none."""
    return float(np.max(scores[name])) if scores is not None and name in scores else 0.0
