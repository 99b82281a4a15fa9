"""What scores on some samples say of samples that are not among them.

    units of a width, by what they scored on three folds     the same units on the fourth
    ▁▁▁▁▁▂▂▃▅█                                         ──►   ▂▂▂▃▃▃▄▄▆█        a rising curve through these, of all folds

    expected  =  seen × mean score + (1 − seen) × its place on the curve        seen: share of classes that are answered

Five photographs use few of a thousand classes: a unit that they do not need scores next to nothing, and so does one that nobody
needs. Folds are samples that resemble each other; what scored nothing without a fold scores something on it, and this is what is
expected on samples that resemble none. Where every class is among the answers the samples stand for all, and scores are as they
are. The curve is isotonic regression, joined at the middles of its blocks (Oron and Flournoy, arXiv 1701.05964).

Invariant: the order of the units of a width stays; widths are weighed against each other anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.core.layout import Values
from secateur.torch.measuring.classes import ClassCounts
from secateur.torch.measuring.folds import FOLDS, folds_of
from secateur.torch.running.distributed import Group, reduce_sum, world_size

_FEWEST = 8  # samples
_ROOM = 2**27  # numbers that are kept; of networks with more units fewer samples draw the curve
_FEATURES = 64  # of a width, to tell which samples are alike
_GROUPS = 256  # of units that score alike, on the curve
_ORDER = 1e-6  # of a score, added where the curve is flat


@dataclass(slots=True)
class Unseen:
    """Scores of every unit on each sample, and the classes that are answered. State, because it grows with every batch."""

    by_batch: list[dict[str, torch.Tensor]] = field(default_factory=list)
    answered: ClassCounts = field(default_factory=ClassCounts)
    numbers: int = 0
    group: Group = None

    def add(self, values: Mapping[str, torch.Tensor], output: object, group: Group = None) -> None:
        """What units scored on the samples of a batch: ``[B, size]`` or ``[B, outer, size]``, while there is room."""
        self.group = group
        self.answered.add(output)
        if self.answered.is_classifier and self.numbers < _ROOM:
            self.by_batch.append({name: v.detach().flatten(1).float().cpu() for name, v in values.items()})
            self.numbers += sum(v.numel() for v in self.by_batch[-1].values())

    def expected(self, means: Mapping[str, Values]) -> dict[str, Values]:
        """These mean scores, as they are expected of other samples; as they are where there is too little to tell."""
        seen, found = self.answered.share(self.group), dict(means)
        if seen >= 1:  # in all processes, or in none
            return found
        scores = {name: torch.cat([batch[name] for batch in self.by_batch]) for name in self._always_there(means)}
        if not scores:
            return found
        fold_S = folds_of([_looks(scores_SU) for scores_SU in scores.values()], self.group)
        count_F = fold_S.bincount(minlength=FOLDS).double()
        reduce_sum([count_F], self.group)
        if int((count_F > 0).sum()) < 2 or count_F.sum() < _FEWEST:
            return found
        for name, scores_SU in scores.items():
            sums_FU = torch.zeros(FOLDS, scores_SU.shape[1], dtype=torch.float64)
            sums_FU.index_add_(0, fold_S, scores_SU.double())
            reduce_sum([sums_FU], self.group)
            carried = _carried(np.asarray(means[name]), sums_FU.numpy(), count_F.numpy())
            found[name] = seen * np.asarray(means[name]) + (1 - seen) * carried
        return found

    def _always_there(self, means: Mapping[str, Values]) -> list[str]:
        """The widths that every batch of every process says something of."""
        there = [bool(self.by_batch) and all(name in batch for batch in self.by_batch) for name in means]
        counts = torch.tensor([*map(float, there)], dtype=torch.float64)
        reduce_sum([counts], self.group)
        return [name for name, count in zip(means, counts.tolist(), strict=True) if count == world_size(self.group)]


def _looks(scores_SU: torch.Tensor) -> torch.Tensor:
    """What each sample looks like: which units matter to it, however much; roots, since a few matter far more."""
    looks_SF = scores_SU[:, :: max(-(-scores_SU.shape[1] // _FEATURES), 1)].abs()
    return (looks_SF / looks_SF.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)).sqrt()


def _carried(mean: Values, sums_FU: NDArray[np.float64], count_F: NDArray[np.float64]) -> Values:
    """Each mean score along the curve from what units scored on the other folds to what they scored on the one left out."""
    judged = count_F > 0
    rest_FU = (sums_FU.sum(0) - sums_FU)[judged] / (count_F.sum() - count_F[judged])[:, None]
    left_out_FU = sums_FU[judged] / count_F[judged][:, None]
    weights_FU = np.broadcast_to(count_F[judged][:, None], rest_FU.shape)
    x, y = _rising(rest_FU.ravel(), left_out_FU.ravel(), weights_FU.ravel())
    return np.interp(mean, x, y) + _ORDER * mean


def _rising(
    x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middles of the blocks of isotonic regression of y on x, by pooling neighbours that fall."""
    sums_P3 = np.stack([weight, weight * x, weight * y], 1)[np.argsort(x, kind="stable")]
    blocks: list[NDArray[np.float64]] = []
    for part_P3 in np.array_split(sums_P3, min(len(sums_P3), _GROUPS)):
        block = part_P3.sum(0)
        while blocks and (blocks[-1][1:] / blocks[-1][0] >= block[1:] / block[0]).any():
            block = blocks.pop() + block
        blocks.append(block)
    weights, sums_x, sums_y = np.transpose(blocks)
    return sums_x / weights, sums_y / weights
