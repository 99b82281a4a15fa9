"""Scores that took data to make, kept in a journal: made once for each network, whatever is then asked of it.

    journalled(criterion, frontend, task, mode)(search_space)
        every free width in the journal ──► these            otherwise ──► score, one line a width

Invariant: scores come back bit for bit, so a search that was killed ends in the plan that it would have ended in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from secateur.core.graph import Graph
from secateur.modes.frontend import Frontend
from secateur.modes.task import Task
from secateur.search.allocate import Scores
from secateur.search.journal import Journal, is_number, journal_file, name_of
from secateur.search.ranked import Judge
from secateur.search.ranks import Ranks


class Scoring(Protocol):
    """Options of a mode that keeps scores."""

    checkpoint: str | Path | None
    steps: int
    num_batches: int
    loss_func: Any


@dataclass(frozen=True, slots=True)
class _Journalled:
    """A judge that looks into a journal first; it is described as the one inside."""

    judge: Judge
    path: Path
    header: Mapping[str, Any]
    ranks: Ranks

    @property
    def described(self) -> Mapping[str, Any]:
        return self.judge.described

    def __call__(self, search_space: Graph) -> Scores:
        """Scores from the journal, or made and put there. Raises ArtifactError for a journal of something else."""
        names = [width.name for width in search_space.free]
        with Journal.open(self.path, self.header, fits=partial(_are_scores, search_space)) as journal:
            known = {name: entry["scores"] for name in names if (entry := journal.get(name)) is not None}
            if _everywhere(len(known) == len(names), self.ranks):
                return {name: np.asarray(values) for name, values in known.items() if values is not None}
            found = self.judge(search_space)
            for name in names:
                if name not in known:
                    journal.record(name, {"scores": found.get(name)})
        return found


def _are_scores(search_space: Graph, key: str, values: Mapping[str, Any]) -> bool:
    """Whether an entry has the scores of a width, for each outer index where it has one; None for a width not judged."""
    if list(values) != ["scores"]:
        return False
    scores = values["scores"]
    if scores is None:
        return True
    rows = scores if isinstance(scores, list) and scores and isinstance(scores[0], list) else [scores]
    if not all(isinstance(row, list) and len(row) == len(rows[0]) and all(map(is_number, row)) for row in rows):
        return False
    known = {width.name: width.size for width in search_space.widths}
    return len(rows[0]) == known.get(key, len(rows[0]))


def journalled(criterion: object, frontend: Frontend, task: Task, mode: Scoring, *, seed: int | None = None) -> Judge:
    """What scores units, with a journal where the mode was given a ``checkpoint``."""
    judge = frontend.judge(criterion, seed=seed)
    if mode.checkpoint is None:
        return judge
    path, rank = journal_path(mode.checkpoint, task.graph, mode.steps), frontend.ranks.number
    if rank > 0:  # ranks see other batches, and write side by side
        path = path.with_stem(f"{path.stem}-rank{rank}")
    header = {
        "method": "scores",
        **origin(task.graph, judge, frontend, seed=0),
        "num_batches": mode.num_batches,
        "loss_func": None if mode.loss_func is None else name_of(mode.loss_func),
    }
    return _Journalled(judge, path, header, frontend.ranks)


def journal_path(checkpoint: str | Path, graph: Graph, steps: int) -> Path:
    """Where a round's journal is; of several rounds each has one of its own, by the network that it begins with."""
    place = journal_file(checkpoint)
    return place if steps == 1 else place.with_stem(f"{place.stem}-{graph.fingerprint[:16]}")


def origin(graph: Graph, judge: Judge, frontend: Frontend, *, seed: int) -> dict[str, Any]:
    """What every journal depends on: the network with its weights, the criterion, the data."""
    return {"model": graph.fingerprint, "criterion": judge.described, **frontend.digests(seed)}


def _everywhere(known: bool, ranks: Ranks) -> bool:
    """Whether all ranks say so: statistics are summed over ranks, so all of them score or none."""
    return ranks.sum([float(known)])[0] == ranks.size
