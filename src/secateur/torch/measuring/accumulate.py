"""Sums over batches (and processes) for every unit, and what becomes of them.

    tally.add({"conv1.out_channels": [64]}, 32)  …  tally.means()   ──►   Σ over batches ÷ number of samples

Invariant: sums are float64 wherever the device has it; a width that nothing was added to has no mean, rather than zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.torch.running.data import NotFinite
from secateur.torch.running.distributed import Group, reduce_sum
from secateur.torch.running.walking import parameters_of


@dataclass(slots=True)
class Tally:
    """One sum and one count for each free width; state, because it grows with every batch."""

    sums: dict[str, torch.Tensor]
    counts: dict[str, float]
    group: Group = None

    @classmethod
    def of(cls, graph: Graph, model: nn.Module, group: Group = None) -> Tally:
        """All zero, on the model's device; ``group`` are the processes that add up together."""
        device = next((p.device for p in parameters_of(model)), torch.device("cpu"))
        shapes = {w.name: (() if w.outer is None else (graph[w.outer].size,)) + (w.size,) for w in graph.free}
        sums = {name: torch.zeros(shape, dtype=wide(device), device=device) for name, shape in shapes.items()}
        return cls(sums, dict.fromkeys(sums, 0.0), group)

    def add(self, values: Mapping[str, torch.Tensor], count: float) -> None:
        """Add what a batch says, each width ``[size]`` or ``[outer, size]``, as this many samples."""
        for name, added in values.items():
            total = self.sums[name]
            total += added.to(total)
            self.counts[name] += count

    def means(self, *, of: float | None = None) -> dict[str, Values]:
        """Σ ÷ count of each width that anything was added to; ``of`` counts for all widths alike, also for those that a
        batch did not reach. Raises NotFinite where a value is not finite.
        """
        if not self.sums:
            return {}
        some = next(iter(self.sums.values()))
        counts = torch.tensor([*self.counts.values(), of or 0.0], dtype=some.dtype, device=some.device)
        reduce_sum([*self.sums.values(), counts], self.group)
        *by_width, for_all = counts.tolist()
        averages: dict[str, Values] = {}
        for (name, total), count in zip(self.sums.items(), by_width, strict=True):
            if count:
                averages[name] = total.cpu().double().numpy() / (count if of is None else for_all)
        return finite(averages)


def finite(scores: dict[str, Values]) -> dict[str, Values]:
    """These scores. Raises NotFinite where one is not finite."""
    strange = next((name for name, values in scores.items() if not np.isfinite(values).all()), None)
    if strange is not None:
        raise NotFinite(f"{strange}: activations or gradients are not finite; does the loss overflow on this data?")
    return scores


def wide(device: torch.device) -> torch.dtype:
    """The type that sums are kept in."""
    return torch.float32 if device.type == "mps" else torch.float64
