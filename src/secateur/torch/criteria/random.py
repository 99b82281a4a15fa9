"""Scores by lot: the baseline that any criterion has to beat.

    Random(seed=3)    the same scores for a width of the same name and size, whatever else is in the graph

Invariant: no global random generator is read or moved.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.torch.criteria.protocol import CRITERIA


@CRITERIA.add("random")
@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Uniform scores in [0, 1). ``seed`` is a number, or a generator that moves on with every call."""

    name = "random"

    seed: int | np.random.Generator = 0

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width."""
        scores: dict[str, Values] = {}
        for width in graph.free:
            shape = (width.size,) if width.outer is None else (graph[width.outer].size, width.size)
            scores[width.name] = self._generator(width.name).random(shape)
        return scores

    def _generator(self, name: str) -> np.random.Generator:
        if isinstance(self.seed, np.random.Generator):
            return self.seed
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])
