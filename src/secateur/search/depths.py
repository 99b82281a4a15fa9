"""How many layers a stack keeps, as one more size of a uniform network: which ones is settled beforehand, by their scores.

    layers.0  0.7    layers.1  0.2    layers.2  0.9        3 layers: all    2: without layers.1    1: layers.2 alone

Invariant: a network with more layers has those of one with fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.core.depth import LAYERS, inside
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.errors import PlanError
from secateur.search.blocks import may_go, score_of
from secateur.search.ties import Tie

Says = Callable[[Plan], tuple[Mapping[str, object], str | None]]


def depths_of(search_space: Graph, scores: Mapping[str, Any]) -> tuple[Tie, ...]:
    """A tie for each stack that may lose blocks: its choices are numbers of layers, from ``each`` on a block is there."""
    found: list[Tie] = []
    for stack in search_space.stacks:
        free = sorted((b for b in stack.blocks if may_go(search_space, b)), key=lambda block: score_of(scores, block))
        most = len(stack.entries)
        if free:
            found.append(
                Tie(
                    name=stack.name or LAYERS,
                    kind=LAYERS,
                    size=most,
                    choices=tuple(range(max(most - len(free), stack.least), most + 1)),
                    widths=tuple(free),
                    each={block: most - place for place, block in enumerate(free)},
                )
            )
    return tuple(found)


def sayable_depths(depths: Sequence[Tie], graph: Graph, says: Says) -> tuple[list[Tie], dict[str, str]]:
    """Those that a configuration can say, and the blocks of the others with the reason."""
    found: list[Tie] = []
    reasons: dict[str, str] = {}
    for tie in depths:
        try:
            reason = says(graph.plan({tie.widths[0]: ()}))[1]
        except PlanError as error:
            reason = str(error)
        if reason is None:
            found.append(tie)
        else:
            reasons |= dict.fromkeys(tie.widths, reason)
    return found, reasons


def kept_of_depth(tie: Tie, scores: Mapping[str, Any]) -> NDArray[np.float64]:
    """The share of its squared score that a stack keeps at each number of layers; layers that stay count as the mean."""
    squares = np.array([score_of(scores, block) ** 2 for block in tie.widths])  # ascending: the first goes first
    total = squares.sum() + (tie.size - len(squares)) * squares.mean()
    gone = [squares[: tie.size - choice].sum() for choice in tie.choices]
    return np.maximum(1 - np.array(gone) / max(total, 1e-30), 1e-12)


def places_in(graph: Graph, tie: Tie) -> int:
    """In how many places the blocks of a tie use any width."""
    return sum(inside(use.tensor, tie.widths) for width in graph.widths for use in width.uses)
