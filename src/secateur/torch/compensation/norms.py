"""Batch norm after what comes into it has changed: each channel keeps the mean and the spread that it had.

    original   x ── (x − m) / s ──► mean μ, spread σ on the calibration samples, whatever they are
    narrowed   x'── (x'− m')/ s'──► the same μ and σ on the same samples

Taking the moments of what arrives instead makes every mean 0 and every spread 1 on these samples, which they never were: the
network is moved from what it was trained on to what it was calibrated on.  (S samples, K folds, C channels.)

Invariant: statistics change only where those found without a fold of samples suit that fold better than those that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from secateur.torch.measuring.folds import FOLDS, owners
from secateur.torch.running.distributed import Group, reduce_sum

_MOST_POSITIONS = 1024  # of one sample; both networks are looked at in the same ones
_TRUST = 0.01  # of the trained variance goes into both spreads: what is dead on these samples is not blown up


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a batch norm subtracts and divides by."""

    mean_C: torch.Tensor
    variance_C: torch.Tensor
    eps: float

    @property
    def spread_C(self) -> torch.Tensor:
        return (self.variance_C.double() + self.eps).sqrt()

    def narrowed(self, kept: torch.Tensor | None) -> Statistics:
        """Of these channels alone."""
        return self if kept is None else Statistics(self.mean_C[kept], self.variance_C[kept], self.eps)


@dataclass(frozen=True, slots=True)
class ChannelSums:
    """Sums of (x − reference) and of its square over positions, by sample; squares of what is far from zero would cancel."""

    reference_C: torch.Tensor
    count_S: torch.Tensor
    first_SC: torch.Tensor
    second_SC: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """In the order of the fields."""
        return self.reference_C, self.count_S, self.first_SC, self.second_SC

    def narrowed(self, kept: torch.Tensor | None) -> ChannelSums:
        """Of these channels alone."""
        if kept is None:
            return self
        return ChannelSums(self.reference_C[kept], self.count_S, self.first_SC[:, kept], self.second_SC[:, kept])


def channel_sums(x: torch.Tensor, reference_C: torch.Tensor, samples: int) -> ChannelSums:
    """The sums over what is about to be normalised, ``[N, C, …]``, on a grid of positions."""
    while x[0, 0].numel() > _MOST_POSITIONS:
        x = x[(..., *(slice(None, None, 2) for _ in x.shape[2:]))]
    space = list(range(2, x.dim()))
    off = x.detach().float() - reference_C.float().reshape(-1, *(1 for _ in space))
    first_NC, second_NC = (off.sum(space), off.square().sum(space)) if space else (off, off.square())
    owner_N = owners(torch.arange(len(x), device=x.device), len(x), samples)
    count_N = x.new_full((len(x),), x[0, 0].numel(), dtype=torch.float32)
    sums = (part.new_zeros(samples, *part.shape[1:]) for part in (count_N, first_NC, second_NC))
    parts = zip(sums, (count_N, first_NC, second_NC), strict=True)
    return ChannelSums(reference_C.clone(), *(total.index_add_(0, owner_N, part) for total, part in parts))


def settled(
    now: Sequence[ChannelSums],
    then: Sequence[ChannelSums],
    fold_S: torch.Tensor,
    trained: Statistics,
    there: Statistics | None,
    group: Group = None,
) -> Statistics | None:
    """The statistics under which ``now`` comes out as ``then`` did under those trained; None to leave those ``there``.

    ``now`` and ``then`` are the sums of each pass. Without ``there`` nothing is tried on samples left out.
    """
    now_K, then_K = (_by_fold(sums, fold_S, group) for sums in (now, then))
    folds = [fold for fold in range(FOLDS) if float(now_K.sums_3KC[0, fold, 0]) > 0]
    if there is not None:
        off_there = off_matched = 0.0
        for fold in folds:
            left_out, others = [fold], [other for other in folds if other != fold]
            found = _matched(now_K.of(others), then_K.of(others), trained) if others else there
            off_there += _off(now_K.of(left_out), then_K.of(left_out), there, trained)
            off_matched += _off(now_K.of(left_out), then_K.of(left_out), found, trained)
        if off_matched >= off_there:
            return None
    return _matched(now_K.of(folds), then_K.of(folds), trained)


@dataclass(frozen=True, slots=True)
class _ChannelMoments:
    """Mean and variance of each channel, over ``count`` positions."""

    mean_C: torch.Tensor
    variance_C: torch.Tensor
    count: float


@dataclass(frozen=True, slots=True)
class _FoldSums:
    reference_C: torch.Tensor
    sums_3KC: torch.Tensor  # how many, first, second

    def of(self, folds: Sequence[int]) -> _ChannelMoments:
        count_C, first_C, second_C = self.sums_3KC[:, list(folds)].sum(1)
        off_C = first_C / count_C
        variance_C = (second_C / count_C - off_C.square()).clamp_min(0)
        return _ChannelMoments(self.reference_C.double() + off_C, variance_C, float(count_C[0]))


def _by_fold(sums: Sequence[ChannelSums], fold_S: torch.Tensor, group: Group) -> _FoldSums:
    first_SC, second_SC = (torch.cat([getattr(part, name) for part in sums]) for name in ("first_SC", "second_SC"))
    count_SC = torch.cat([part.count_S for part in sums])[:, None].expand_as(first_SC)
    rows_3SC = torch.stack([count_SC, first_SC, second_SC]).double()
    sums_3KC = rows_3SC.new_zeros(3, FOLDS, rows_3SC.shape[2]).index_add_(1, fold_S, rows_3SC)
    reduce_sum([sums_3KC], group)
    return _FoldSums(sums[0].reference_C, sums_3KC)


def _matched(now: _ChannelMoments, then: _ChannelMoments, trained: Statistics) -> Statistics:
    trust_C = _TRUST * trained.spread_C.square()
    ratio_C = ((now.variance_C + trust_C) / (then.variance_C + trust_C)).sqrt()
    spread_C = trained.spread_C * ratio_C
    mean_C = now.mean_C - ratio_C * (then.mean_C - trained.mean_C.double())
    return Statistics(mean_C, (spread_C.square() - trained.eps).clamp_min(0), trained.eps)


def _off(now: _ChannelMoments, then: _ChannelMoments, found: Statistics, trained: Statistics) -> float:
    """How far means and spreads are from what the original gave on the same samples."""
    mean_C = (now.mean_C - found.mean_C) / found.spread_C - (then.mean_C - trained.mean_C) / trained.spread_C
    spread_C = now.variance_C.sqrt() / found.spread_C - then.variance_C.sqrt() / trained.spread_C
    return now.count * float(mean_C.square().sum() + spread_C.square().sum())
