"""Plans drawn by lot: what a rule or an engine must get right for any kept sets."""

from __future__ import annotations

import numpy as np

from secateur.core.depth import emptied
from secateur.core.graph import Graph
from secateur.core.layout import Indices
from secateur.core.plan import Plan
from secateur.errors import Coincidence


def random_plan(graph: Graph, seed: int, *, avoid_one: bool = False) -> Plan:
    """Kept sets drawn at random, another set under each outer index where that is allowed.

    ``avoid_one`` keeps at least two units of every width that has three or more.
    """
    generator = np.random.default_rng(seed)
    for _ in range(20):
        kept: dict[str, Indices] = {}
        for width in graph.free:
            counts = [c for c in width.choices if c > 1 or width.size < 3 or not avoid_one]
            count = int(generator.choice(counts))
            rows = graph[width.outer].size if width.outer else 1
            drawn = [np.sort(generator.choice(width.size, count, replace=False)) for _ in range(rows)]
            kept[width.name] = np.stack(drawn) if width.outer else drawn[0]
        while emptied(graph.stacks, {name for name, array in kept.items() if not array.size}) is not None:
            back = str(generator.choice([name for name, array in kept.items() if not array.size]))
            kept[back] = np.arange(1)  # a block of a stack stays
        try:
            return graph.plan(kept)
        except Coincidence:  # two sizes that the code tells apart became one: draw again
            continue
    return graph.plan({})
