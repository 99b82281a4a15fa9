"""A criterion bound to a model: what a search asks for scores.

judge_of(L1(), model)(search_space)  ->  {"conv1.out_channels": array of 64, …}
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.core.graph import Graph
from secateur.search.allocate import Scores
from secateur.search.ranked import Judge, description
from secateur.torch.criteria.blocks import judged_with_blocks
from secateur.torch.criteria.protocol import Criterion
from secateur.torch.running.randomness import seeded


@dataclass(frozen=True, slots=True)
class _OfModel:
    criterion: Criterion
    model: nn.Module
    seed: int | None

    @property
    def described(self) -> Mapping[str, Any]:
        return description(self.criterion)

    def __call__(self, search_space: Graph) -> Scores:
        with nullcontext() if self.seed is None else seeded(self.seed):
            return judged_with_blocks(self.criterion, search_space, self.model)


def judge_of(criterion: Criterion, model: nn.Module, *, seed: int | None = None) -> Judge:
    """What scores the units of this model; with a ``seed``, from random numbers of its own."""
    return _OfModel(criterion, model, seed)
