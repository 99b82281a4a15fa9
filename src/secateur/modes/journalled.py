"""Scores that took data to make, kept in a journal: made once for each network, whatever is then asked of it.

    remembered(criterion, mode, task, data)(graph, model)
        every free width in the journal ──► these            otherwise ──► score, one line a width

Invariant: scores come back bit for bit, so a search that was killed ends in the plan that it would have ended in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.modes.task import Mode, Task
from secateur.search.journal import Journal, journal_file
from secateur.search.ranked import description
from secateur.torch.criteria.protocol import Criterion
from secateur.torch.running.data import Data
from secateur.torch.running.digests import digest_of_data, digest_of_weights, name_of
from secateur.torch.running.distributed import rank, reduce_sum, world_size


def journal_path(checkpoint: str | Path, task: Task, steps: int) -> Path:
    """Where a round's journal is; of several rounds each has one of its own, by the network that it begins with."""
    place = journal_file(checkpoint)
    return place if steps == 1 else place.with_stem(f"{place.stem}-{task.graph.fingerprint[:16]}")


class Remembered:
    """A criterion that looks into a journal first; it is described as the one inside."""

    def __init__(self, criterion: Criterion, path: Path, header: Mapping[str, Any]) -> None:
        self.described_as, self.path, self.header = criterion, path, header
        self.name = criterion.name

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores from the journal, or made and put there. Raises ArtifactError for a journal of something else."""
        names = [width.name for width in graph.free]
        with Journal.open(self.path, self.header) as journal:
            known = {name: entry["scores"] for name in names if (entry := journal.get(name)) is not None}
            if _everywhere(len(known) == len(names)):
                return {name: np.asarray(values) for name, values in known.items() if values is not None}
            found = self.described_as(graph, model)
            for name in names:
                if name not in known:
                    journal.record(name, {"scores": found.get(name)})
        return found


def remembered(criterion: Criterion, mode: Any, task: Task, data: Data | None) -> Criterion:
    """The criterion, with a journal where the mode was given a ``checkpoint``."""
    if mode.checkpoint is None:
        return criterion
    path = journal_path(mode.checkpoint, task, mode.steps)
    if rank() > 0:  # ranks see other batches, and write side by side
        path = path.with_stem(f"{path.stem}-rank{rank()}")
    return Remembered(criterion, path, _header(criterion, mode, task, data))


def _header(criterion: Criterion, mode: Mode, task: Task, data: Data | None) -> dict[str, Any]:
    return {
        "method": "scores",
        **origin(task, data, description(criterion), 0),
        "num_batches": mode.num_batches,
        "batches": len(data.loader) if data is not None and isinstance(data.loader, Sized) else None,
        "loss_func": None if mode.loss_func is None else name_of(mode.loss_func),
    }


def origin(task: Task, data: Data | None, made_by: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What every journal depends on: the network with its weights, the criterion, the data."""
    return {
        "model": task.graph.fingerprint,
        "weights": digest_of_weights(task.model),
        "criterion": made_by,
        "data": digest_of_data(data, seed),
    }


def _everywhere(known: bool) -> bool:
    """Whether all ranks say so: statistics are summed over ranks, so all of them score or none."""
    count = torch.tensor([float(known)])
    reduce_sum([count])
    return int(count) == world_size()
