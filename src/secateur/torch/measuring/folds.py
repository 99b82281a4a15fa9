"""Which samples are left out together: those that resemble each other.

    samples ── what they look like at every contraction ── two halves, cut where the gap is widest ── two halves each
                                                           fold 0 | fold 1 ‖ fold 2 | fold 3

Crops of one photograph, or windows of one text, nearly repeat each other. Left out one by one they are predicted by their
likes, and what was learnt by heart looks good; left out together they say what a fit is worth on a photograph not seen.

Invariant: the same samples give the same folds, however they are spread over batches and processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from secateur.torch.running.distributed import Group, rank, reduce_sum, world_size

_LEVELS = 2
FOLDS = 2**_LEVELS  # at most
_MOST_FEATURES = 64  # of one contraction: enough to tell which samples are alike
_STEPS = 64  # of the power iteration: a rough axis serves, only the order of samples along it matters


def owners(at_R: torch.Tensor, total: int, samples: int) -> torch.Tensor:
    """The number of the sample that each of these flat positions, of ``total``, belongs to."""
    return at_R * samples // total


def looks(rows_RO: torch.Tensor, owner_R: torch.Tensor, samples: int) -> torch.Tensor:
    """What each sample looks like: its mean row, ``[samples, features]``; zeros for a sample that has none."""
    step = max(-(-rows_RO.shape[1] // _MOST_FEATURES), 1)
    rows_RF = rows_RO[:, ::step].float()
    sums_SF = rows_RF.new_zeros(samples, rows_RF.shape[1]).index_add_(0, owner_R, rows_RF)
    return sums_SF / owner_R.bincount(minlength=samples).clamp_min(1)[:, None]


def folds_of(looks_SF: Sequence[torch.Tensor], group: Group = None) -> torch.Tensor:
    """The fold of each sample of this process, from what all samples of the group look like at several places."""
    first, everyone_SP = _gathered(torch.cat(list(looks_SF), 1), group)
    weight_P = torch.cat([part.new_full((part.shape[1],), part.shape[1] ** -0.5) for part in looks_SF])
    off_SP = everyone_SP - everyone_SP.mean(0)
    off_SP = off_SP / off_SP.square().mean(0).sqrt().clamp_min(torch.finfo(torch.float32).tiny) * weight_P
    found_S = torch.zeros(len(off_SP), dtype=torch.long, device=off_SP.device)
    for _ in range(_LEVELS):
        whole_S = found_S.clone()
        for part in whole_S.unique().tolist():
            inside = (whole_S == part).nonzero().flatten()
            found_S[inside] = 2 * part + _halves(off_SP[inside])
    return found_S[first : first + len(looks_SF[0])]


def _halves(looks_SP: torch.Tensor) -> torch.Tensor:
    """0 or 1 for each: two parts, apart along the axis of the greatest spread, each at least a quarter of all."""
    along_S = _along_principal_axis(looks_SP - looks_SP.mean(0))
    order = along_S.argsort()
    least = max(len(order) // 4, 1)
    gaps = along_S[order].diff()[least - 1 : len(order) - least]
    half_S = torch.zeros_like(order)
    if len(gaps):
        half_S[order[least + int(gaps.argmax()) :]] = 1
    return half_S


def _along_principal_axis(off_SP: torch.Tensor) -> torch.Tensor:
    axis_P = off_SP[off_SP.square().sum(1).argmax()]  # not a random start: the folds must be the same each time
    for _ in range(_STEPS):
        axis_P = torch.nn.functional.normalize(off_SP.T @ (off_SP @ axis_P), dim=0)
    return off_SP @ axis_P


def _gathered(mine_SP: torch.Tensor, group: Group) -> tuple[int, torch.Tensor]:
    """The rows of all processes, in the order of their ranks, and where those of this one begin."""
    counts = mine_SP.new_zeros(world_size(group), dtype=torch.float64)
    counts[rank(group)] = len(mine_SP)
    reduce_sum([counts], group)
    first = int(counts[: rank(group)].sum())
    everyone_SP = mine_SP.new_zeros(int(counts.sum()), mine_SP.shape[1])
    everyone_SP[first : first + len(mine_SP)] = mine_SP
    reduce_sum([everyone_SP], group)
    return first, everyone_SP
