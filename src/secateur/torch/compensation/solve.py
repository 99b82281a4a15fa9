"""Ridge regression towards the weights that are there, held as tightly as samples left out want it.

    W = argmin ‖Y − W X‖² + λ ‖W − W₀‖²  =  W₀ + (Y − W₀X) Xᵀ (X Xᵀ + λI)⁻¹          λ = ridge × mean diagonal of X Xᵀ

    options   nothing │ the bias alone │ ridge 10 … 0.001      each fitted without a fold and judged on it, fold by fold:
                                                               from the folds' moments, so rows are multiplied once

With an intercept, X and Y are first centred; the bias is what the means are then off by. Moments are summed over the
processes of a group.
R rows, G groups, D inputs of one output (its group × kernel), O outputs of a group.

Invariant: a weight that is already right stays bit for bit what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from secateur.torch.measuring.folds import FOLDS
from secateur.torch.running.distributed import Group, reduce_sum

Option = float | Literal["bias", "nothing"]  # a ridge, only the means, or leave it

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

_NOTHING = 1e-6  # a relative residual that is rounding


@dataclass(frozen=True, slots=True)
class Fit:
    """New weights ``[G, O, D]``, and what is to be added to each output (zero without an intercept) ``[G, O]``.

    ``before`` and ``fitted`` are what the outputs are off by, as a share of their variance; ``held_out`` is that on samples
    left out, for every option tried (empty where no sample could be left out).
    """

    weight_GOD: torch.Tensor
    shift_GO: torch.Tensor
    option: Option
    before: float
    fitted: float
    held_out: Mapping[Option, float]


def refit(
    inputs_RGD: torch.Tensor,
    targets_RGO: torch.Tensor,
    weight_GOD: torch.Tensor,
    fold_R: torch.Tensor,
    *,
    options: Sequence[Option],
    intercept: bool,
    group: Group = None,
) -> Fit | None:
    """The weights that turn inputs into targets best, near the given ones. None where these are right already.

    Of several options the one counts that is best on the folds left out; of equals, and where there is only one fold, the
    first.
    """
    start_GDO = weight_GOD.float().mT
    order = fold_R.argsort(stable=True)
    x, y = (rows[order].float().transpose(0, 1) for rows in (inputs_RGD, targets_RGO))
    off = y - x @ start_GDO  # of the rows, not of their moments: these would cancel
    if _is_nothing(off, y, group):
        return None
    rows = _Regression(x, off, fold_R.bincount(minlength=FOLDS).tolist(), intercept=intercept, group=group)
    scale = _variation(y, group)
    held_out: dict[Option, float] = {o: error / scale for o, error in rows.held_out(options).items()}
    option = min(options, key=lambda o: held_out.get(o, 0.0))
    change, none = rows.changes([option, "nothing"])
    if isinstance(option, float):
        weight_GOD = (start_GDO + change.weight_GDO).mT
    return Fit(weight_GOD, rows.shift(change), option, rows.error(none) / scale, rows.error(change) / scale, held_out)


@dataclass(frozen=True, slots=True)
class _Change:
    """What is added to the weights, and to the outputs where inputs are at their means."""

    weight_GDO: torch.Tensor
    shift_G1O: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Moments:
    """Sums over rows: how many, of inputs, of what the outputs are off by, and of their products."""

    count: torch.Tensor
    x_G1D: torch.Tensor
    off_G1O: torch.Tensor
    gram_GDD: torch.Tensor
    cross_GDO: torch.Tensor

    @classmethod
    def of(cls, x_GRD: torch.Tensor, off_GRO: torch.Tensor, group: Group) -> _Moments:
        """Products in single precision, sums over folds and processes in double."""
        count = x_GRD.new_tensor(x_GRD.shape[1], dtype=torch.float64)
        sums = [t.sum(1, keepdim=True, dtype=torch.float64) for t in (x_GRD, off_GRO)]
        products = [(x_GRD.mT @ t).double() for t in (x_GRD, off_GRO)]
        reduce_sum([count, *sums, *products], group)
        return cls(count, *sums, *products)

    def parts(self) -> tuple[torch.Tensor, ...]:
        return self.count, self.x_G1D, self.off_G1O, self.gram_GDD, self.cross_GDO

    def without(self, other: _Moments) -> _Moments:
        """The moments of the other rows."""
        return _Moments(*(a - b for a, b in zip(self.parts(), other.parts(), strict=True)))

    def centred(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The products about the means of these rows."""
        mean_x = self.x_G1D.mT / self.count
        return self.gram_GDD - mean_x @ self.x_G1D, self.cross_GDO - mean_x @ self.off_G1O


class _Regression:
    """Rows by fold, centred where there is an intercept, and their moments."""

    def __init__(
        self, x_GRD: torch.Tensor, off_GRO: torch.Tensor, counts: Sequence[int], *, intercept: bool, group: Group
    ) -> None:
        self.intercept, self.group = intercept, group
        self.mean_x, self.mean_off = torch.zeros_like(x_GRD[:, :1]), torch.zeros_like(off_GRO[:, :1])
        if intercept:
            self.mean_x, self.mean_off = _means(x_GRD, off_GRO, group=group)
            x_GRD, off_GRO = x_GRD - self.mean_x, off_GRO - self.mean_off
        self.folds = list(zip(x_GRD.split(list(counts), 1), off_GRO.split(list(counts), 1), strict=True))
        self.moments = [_Moments.of(*fold, group) for fold in self.folds]
        self.all = _Moments(
            *(torch.stack(parts).sum(0) for parts in zip(*(m.parts() for m in self.moments), strict=True))
        )

    def held_out(self, options: Sequence[Option]) -> dict[Option, float]:
        """For each option, the sum of squares that is left where it was fitted without the fold that it is judged on.

        Nothing where there is only one fold.
        """
        errors = torch.zeros(len(options), dtype=torch.float64)
        judged = [number for number, moments in enumerate(self.moments) if moments.count > 0]
        if len(judged) < 2:
            return {}
        for number in judged:
            changes = self.changes(options, self.all.without(self.moments[number]))
            errors += torch.stack([self._left(number, change) for change in changes]).cpu()
        reduce_sum([errors], self.group)
        return dict(zip(options, errors.tolist(), strict=True))

    def error(self, change: _Change) -> float:
        """The sum of squares that a change leaves on all rows."""
        total = torch.stack([self._left(number, change) for number in range(len(self.folds))]).sum()
        reduce_sum([total], self.group)
        return float(total)

    def changes(self, options: Sequence[Option], moments: _Moments | None = None) -> list[_Change]:
        """What each option makes of these moments, by default of all rows."""
        moments = moments or self.all
        gram, cross = moments.centred() if self.intercept else (moments.gram_GDD, moments.cross_GDO)
        return [self._change(option, moments, gram, cross) for option in options]

    def shift(self, change: _Change) -> torch.Tensor:
        """What is to be added to the outputs, ``[G, O]``, beside the change of the weights."""
        return (change.shift_G1O + self.mean_off - self.mean_x @ change.weight_GDO).squeeze(1)

    def _change(self, option: Option, moments: _Moments, gram: torch.Tensor, cross: torch.Tensor) -> _Change:
        if option == "nothing":
            return _Change(torch.zeros_like(cross, dtype=torch.float32), -self.mean_off)
        weight = _solved(gram, cross, option) if isinstance(option, float) else torch.zeros_like(cross)
        shift = (moments.off_G1O - moments.x_G1D @ weight) / moments.count
        return _Change(weight.float(), (shift if self.intercept else shift * 0).float())

    def _left(self, number: int, change: _Change) -> torch.Tensor:
        x, off = self.folds[number]
        return (off - x @ change.weight_GDO - change.shift_G1O).square().sum(dtype=torch.float64)


def _solved(gram: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """(gram + λI)⁻¹ cross; λ is raised where inputs repeat each other so closely that rounding has the last word."""
    diagonal = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    while True:
        held = gram + torch.diag_embed((ridge * diagonal)[:, None].expand(-1, gram.shape[1]))
        factor, failed = torch.linalg.cholesky_ex(held)
        if not failed.any():
            return torch.cholesky_solve(cross, factor)
        ridge *= 10


def _means(*rows_GRC: torch.Tensor, group: Group) -> list[torch.Tensor]:
    """The mean over the rows of all processes."""
    sums = [rows.sum(1, keepdim=True, dtype=torch.float64) for rows in rows_GRC]
    count = sums[0].new_tensor(rows_GRC[0].shape[1])
    reduce_sum([count, *sums], group)
    return [(total / count).float() for total in sums]


def _variation(y_GRO: torch.Tensor, group: Group) -> float:
    """The sum of squares of outputs about their means."""
    (mean,) = _means(y_GRO, group=group)
    total = (y_GRO - mean).square().sum(dtype=torch.float64)
    reduce_sum([total], group)
    return max(float(total), torch.finfo(torch.float32).tiny)


def _is_nothing(off: torch.Tensor, targets: torch.Tensor, group: Group) -> bool:
    sizes = torch.stack([off.square().sum(), targets.square().sum()]).double()
    reduce_sum([sizes], group)
    return bool(sizes[0] <= _NOTHING**2 * sizes[1])
