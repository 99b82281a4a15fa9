"""The smallest, the central and the whole network of a search space, and how many networks there are in it.

    minimum(graph)   centroid(graph)   maximum(graph)        {width: count}

Invariant: each is a network that the search space holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from secateur.core.graph import Graph


def search_space_size(graph: Graph) -> int:
    """How many networks there are to choose from."""
    return math.prod(len(width.choices) for width in graph.configurable)


def minimum(graph: Graph) -> dict[str, int]:
    """The smallest network of the search space."""
    return _subnet(graph, lambda choices: choices[0])


def centroid(graph: Graph) -> dict[str, int]:
    """The network in the middle: of each width the choice nearest the median of its choices, the smaller on a tie."""
    return _subnet(graph, _central)


def maximum(graph: Graph) -> dict[str, int]:
    """The largest network of the search space."""
    return _subnet(graph, lambda choices: choices[-1])


def _central(choices: tuple[int, ...]) -> int:
    middle = median(choices)
    return min(choices, key=lambda choice: (abs(choice - middle), choice))


def _subnet(graph: Graph, pick: Callable[[tuple[int, ...]], int]) -> dict[str, int]:
    return {w.name: w.size if w.frozen is not None else pick(w.choices) for w in graph.widths}
