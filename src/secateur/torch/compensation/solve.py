"""Ridge regression towards the weights that are there.

    W = argmin ‖Y − W X‖² + λ ‖W − W₀‖²  =  W₀ + (Y − W₀X) Xᵀ (X Xᵀ + λI)⁻¹          λ = ridge × mean diagonal of X Xᵀ

With an intercept, X and Y are first centred; the bias is what the means are then off by. Moments are summed over processes.

Invariant: a weight that is already right stays bit for bit what it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from secateur.torch.running.distributed import reduce_sum, world_size

_NOTHING = 1e-6  # a relative residual that is rounding
_FEW = 0.1


@dataclass(frozen=True, slots=True)
class Fit:
    """New weights ``[G, O, D]``, and what is to be added to each output (zero without an intercept) ``[G, O]``."""

    weight_GOD: torch.Tensor
    shift_GO: torch.Tensor


def refit(
    inputs_RGD: torch.Tensor, targets_RGO: torch.Tensor, weight_GOD: torch.Tensor, *, ridge: float, intercept: bool
) -> Fit | None:
    """The weights that turn inputs into targets best, near the given ones. None where these are right already."""
    x, start = inputs_RGD.float().transpose(0, 1), weight_GOD.float().mT
    off = targets_RGO.float().transpose(0, 1) - x @ start  # of the rows, not of their moments: these would cancel
    if _is_nothing(off, targets_RGO):
        return None
    mean_x, mean_off = torch.zeros_like(x[:, :1]), torch.zeros_like(off[:, :1])
    if intercept:
        mean_x, mean_off = _means(x, off)
        x, off = x - mean_x, off - mean_off
    gram, cross = (x.mT @ x).double(), (x.mT @ off).double()
    reduce_sum([gram, cross])
    few = max(x.shape[2] / (x.shape[1] * world_size()) - 0.1, 0.0)  # with few rows a fit learns them by heart
    change = _solved(gram, cross, max(ridge, _FEW * few**2)).float()
    shift = mean_off - mean_x @ change
    return Fit((start + change).mT, shift.squeeze(1))


def _solved(gram: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """(gram + λI)⁻¹ cross; λ is raised where inputs repeat each other so closely that rounding has the last word."""
    diagonal = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    while True:
        held = gram + torch.diag_embed((ridge * diagonal)[:, None].expand(-1, gram.shape[1]))
        factor, failed = torch.linalg.cholesky_ex(held)
        if not failed.any():
            return torch.cholesky_solve(cross, factor)
        ridge *= 10


def shift_only(inputs_RGD: torch.Tensor, targets_RGO: torch.Tensor, weight_GOD: torch.Tensor) -> Fit:
    """The same weights, and what the outputs are off by on average."""
    mean_x, mean_y = _means(inputs_RGD.float().transpose(0, 1), targets_RGO.float().transpose(0, 1))
    return Fit(weight_GOD, (mean_y - mean_x @ weight_GOD.float().mT).squeeze(1))


def _means(*rows_GRC: torch.Tensor) -> list[torch.Tensor]:
    """The mean over the rows of all processes."""
    sums = [rows.sum(1, keepdim=True, dtype=torch.float64) for rows in rows_GRC]
    count = sums[0].new_tensor(rows_GRC[0].shape[1])
    reduce_sum([count, *sums])
    return [(total / count).float() for total in sums]


def _is_nothing(off: torch.Tensor, targets: torch.Tensor) -> bool:
    sizes = torch.stack([off.square().sum(), targets.float().square().sum()]).double()
    reduce_sum([sizes])
    return bool(sizes[0] <= _NOTHING**2 * sizes[1])
