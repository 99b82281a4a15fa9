"""What a unit's going costs once its readers are fitted anew, one unit after the other.

    x_RF ──► A = mean of x xᵀ          ∂L/∂x ──► G = Σ of g gᵀ over a sample        of what a reader is given
    cost of unit U                     tr  G[U,U] (A⁻¹[U,U])⁻¹                      how much that matters which others do not tell
    once it has gone                   A⁻¹ and G of the others, whose columns of the reader stand in for it

Of two units that say the same the first to go costs nothing, and the second what both are worth. The optimal brain surgeon
(Hassibi and Stork, NeurIPS 1992), of units and with Kronecker factors (The LLM Surgeon, arXiv 2312.17244); over all units of a
width their costs have the scale of ``gate_gradient``, which is that of what no contraction reads, too.
(R rows, F features, U units of m positions.)

Invariant: one pass over the data, and no more than `_ROOM` numbers of moments: of larger networks fewer units are held
against each other at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.torch.criteria.gates import GateGradient
from secateur.torch.criteria.protocol import CRITERIA
from secateur.torch.criteria.reduction import normalise
from secateur.torch.measuring.accumulate import finite, wide
from secateur.torch.measuring.gradients import backward
from secateur.torch.measuring.judging import batches, judging
from secateur.torch.measuring.readers import Readers, readers_of
from secateur.torch.measuring.samples import contractions_of
from secateur.torch.measuring.targets import aimed
from secateur.torch.running.contractions import Site, taps
from secateur.torch.running.distributed import Group, reduce_sum
from secateur.torch.running.example import Example, batch_size
from secateur.torch.running.padding import NOTHING_PADDED, Padding

_RIDGE = 0.01  # of a correlation: what a fit would hardly use; few rows tell less
_LOOKS = 128  # how often costs are looked at anew while the units of a width go
_ROWS = 4096  # of each contraction in one batch
_WIDEST = 1024  # features that are held against each other
_FEWEST = 16
_ROOM = 2**28  # numbers in all moments together


@CRITERIA.add("brain_surgeon")
@dataclass(frozen=True, slots=True, kw_only=True)
class BrainSurgeon(GateGradient):
    """The cost of each unit when it goes after all that cost less, with its readers fitted anew."""

    name = "brain_surgeon"

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Costs of every free width that the data reaches."""
        scores, costs = self.scores_of(graph, model)
        for name, parts in _looked_at(self, graph, model).items():
            if name in scores:
                # nobody knows what stands in for a unit on other samples
                costs[name] = _costs(parts, scores[name]) + (costs[name] - scores[name]).clip(0)
        return {name: normalise(values, self.normalizer) for name, values in finite(costs).items()}


def _with(total: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    """The sum, in the memory of the total where there is one: moments made anew would lie scattered among activations."""
    return total.add_(more) if total.dim() else more


def _looked_at(criterion: GateGradient, graph: Graph, model: nn.Module) -> dict[str, list[_Inputs]]:
    """The moments of all readers of each width."""
    if not graph.free:
        return {}
    with judging(model) as judged:
        data = aimed(criterion.source(judged), criterion.target, judged)
        first = data.collect(next(iter(data.batches(judged))))
        readers = readers_of(graph, contractions_of(judged, first, samples=False).sites)
        look = _BothWays(readers, _parts(readers))
        if not readers.inputs:
            return {}
        for batch in batches(criterion.name, data, judged):
            given = data.collect(batch)
            look.begin(batch_size(Example.of(judged, given)), Padding.of(judged, given))
            with taps(judged, look):
                output = data.output(judged, batch)
            backward(data.loss_of(output, batch))
            look.end()
    found: dict[str, list[_Inputs]] = {}
    for part in (part for parts in look.parts.values() for part in parts):
        part.summed(data.group)
        if part.rows:
            found.setdefault(part.width, []).append(part)
    return found


def _parts(readers: Readers) -> dict[str, list[_Inputs]]:
    """Each reader's inputs, as many units together as there is room for."""
    total = sum(read.positions.numel() for reads in readers.inputs.values() for read in reads)
    widest = max(_FEWEST, min(_WIDEST, _ROOM // (2 * total))) if total else _WIDEST
    return {
        name: [
            _Inputs(width=read.width, units=units, positions_Um=positions_Um[units])
            for read in reads
            for positions_Um in (read.positions.flatten(0, -2),)
            for units in np.array_split(np.arange(len(positions_Um)), -(-positions_Um.numel() // widest))
            if len(units)
        ]
        for name, reads in readers.inputs.items()
    }


@dataclass(slots=True, kw_only=True)
class _Inputs:
    """Some units of a width among the inputs of a reader; state, because its moments grow with every batch."""

    width: str
    units: np.ndarray
    positions_Um: torch.Tensor
    rows: float = 0
    sum_F: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    inputs_FF: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    back_FF: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def each(self) -> int:
        return self.positions_Um.shape[1]

    def add(self, site: Site, rows_RF: torch.Tensor) -> None:
        """More rows of the reader's input. What a bias, or a norm behind a convolution, takes up is no matter: the mean."""
        own_RF = rows_RF[:, self.positions_Um.flatten().to(rows_RF.device)].to(wide(rows_RF.device))
        squares_FF = own_RF.mT @ own_RF
        if site.groups > 1:
            group_F = self.positions_Um.flatten().to(rows_RF.device) // site.weight.shape[site.inputs]
            squares_FF = squares_FF * (group_F[:, None] == group_F)
        if site.bias is not None or site.spatial:
            self.sum_F = _with(self.sum_F, own_RF.sum(0))
        self.inputs_FF = _with(self.inputs_FF, squares_FF)
        self.rows += len(own_RF)

    def hear(self, rows_RF: torch.Tensor) -> None:
        """What came back to it, each row of a sample's loss."""
        own_RF = rows_RF[:, self.positions_Um.flatten().to(rows_RF.device)].to(wide(rows_RF.device))
        self.back_FF = _with(self.back_FF, own_RF.mT @ own_RF)

    def summed(self, group: Group) -> None:
        """Of all processes."""
        features = self.positions_Um.numel()
        like = self.inputs_FF if self.rows else torch.zeros((), dtype=torch.float64)
        self.sum_F = (self.sum_F.to(like) + like.new_zeros(features)).contiguous()
        self.inputs_FF = (self.inputs_FF.to(like) + like.new_zeros(features, features)).contiguous()
        self.back_FF = (self.back_FF.to(like) + like.new_zeros(features, features)).contiguous()
        count = like.new_tensor(self.rows)
        reduce_sum([self.sum_F, self.inputs_FF, self.back_FF, count], group)
        self.rows = float(count)

    def matters(self) -> float:
        """What all units would cost if nothing stood in for any: Σ over them of E (a · g)², rows on their own."""
        blocks = self.blocks(self.inputs_FF) * self.blocks(self.back_FF)
        return float(blocks.sum()) / self.rows

    def blocks(self, matrix_FF: torch.Tensor) -> torch.Tensor:
        """``[U, m, m]``: of each unit with itself."""
        return (
            matrix_FF.unflatten(0, (-1, self.each)).unflatten(2, (-1, self.each)).diagonal(dim1=0, dim2=2).movedim(2, 0)
        )

    def inverse(self) -> torch.Tensor:
        """A⁻¹, from correlations that are shrunk by as much as they may be chance."""
        mean_F = self.sum_F / self.rows
        covariance_FF = self.inputs_FF / self.rows - mean_F[:, None] * mean_F
        spread_F = covariance_FF.diagonal().clamp_min(torch.finfo(torch.float32).tiny).sqrt()
        shrunk_FF = covariance_FF / spread_F[:, None] / spread_F / (1 + _RIDGE + len(mean_F) / self.rows)
        shrunk_FF.diagonal().fill_(1)
        return torch.linalg.inv(shrunk_FF) / spread_F[:, None] / spread_F


def _costs(parts: Sequence[_Inputs], plain: Values) -> Values:
    """Of each unit when it goes, on the scale of these scores."""
    matters = sum(part.matters() for part in parts)
    if not matters > 0:
        return plain
    patients = [_Patient(part) for part in parts]
    left, costs = np.ones(plain.size, dtype=bool), np.zeros(plain.size)
    highest, together = 0.0, -(-plain.size // _LOOKS)
    while left.any():
        now = np.zeros(plain.size)
        for patient in patients:
            now[patient.part.units] += patient.costs()
        cheapest = np.flatnonzero(left)[np.argsort(now[left], kind="stable")[:together]]
        # what goes later is worth no less than what went before it
        costs[cheapest] = np.maximum.accumulate(np.maximum(now[cheapest], highest))
        highest, left[cheapest] = costs[cheapest[-1]], False
        for patient in patients:
            patient.without(np.flatnonzero(np.isin(patient.part.units, cheapest)))
    return (costs * (plain.sum() / matters)).reshape(plain.shape)


class _Patient:
    """A part while its units go one after the other; state: A⁻¹ and G of those that are left."""

    def __init__(self, part: _Inputs) -> None:
        self.part, self.inverse_FF, self.back_FF = part, part.inverse(), part.back_FF.clone()

    def costs(self) -> np.ndarray:
        """Of each unit if it went now; 0 of those that have gone."""
        own, back = self.part.blocks(self.inverse_FF), self.part.blocks(self.back_FF)
        if self.part.each == 1:
            return (back / own).flatten().cpu().numpy()
        return torch.linalg.solve(own, back).diagonal(dim1=1, dim2=2).sum(1).clamp_min(0).cpu().numpy()

    def without(self, units: np.ndarray) -> None:
        """Let these go: their readers' other columns take on what they tell of them."""
        if not len(units):
            return
        each = self.part.each
        gone = torch.as_tensor((units[:, None] * each + np.arange(each)).ravel(), device=self.inverse_FF.device)
        rows_SF = self.inverse_FF[gone]
        told_FS = torch.linalg.solve(rows_SF[:, gone], rows_SF).mT
        moved_FF = told_FS @ self.back_FF[gone]
        self.back_FF += told_FS @ self.back_FF[gone][:, gone] @ told_FS.mT - moved_FF - moved_FF.mT
        self.inverse_FF -= told_FS @ rows_SF
        for matrix_FF, alone in ((self.back_FF, 0.0), (self.inverse_FF, 1.0)):
            matrix_FF[gone], matrix_FF[:, gone] = 0.0, 0.0
            matrix_FF[gone, gone] = alone


class _BothWays:
    """A tap on what readers are given, and what comes back to it. State: the batch at hand."""

    def __init__(self, readers: Readers, parts: Mapping[str, list[_Inputs]]) -> None:
        self.readers, self.parts = readers, parts
        self.begin(1, NOTHING_PADDED)

    def begin(self, samples: int, padding: Padding) -> None:
        """Another batch."""
        self.samples, self.padding = samples, padding
        self.given: list[tuple[Site, torch.Tensor]] = []
        self.hooks: list[RemovableHandle] = []

    def end(self) -> None:
        """Let go of a batch: its hooks hold what holds their tensors, a circle through autograd that no collector sees."""
        for hook in self.hooks:
            hook.remove()
        self.given.clear()

    def before(self, site: Site) -> torch.Tensor:
        """Several readers of one thing are one reader: together they matter as much as all that comes back to it."""
        if not self.readers.into(site) or not site.x.is_floating_point():
            return site.x
        for other, own in self.given:
            if other.x is site.x and self._same(other, site):
                return own
        own = site.x.view_as(site.x) if site.x.requires_grad else site.x.detach().requires_grad_()
        self.given.append((site, own))
        for part, rows_RF in self._rows(site, site.x.detach()):
            part.add(site, rows_RF)
        self.hooks.append(own.register_hook(lambda gradient: self._hear(site, gradient)))
        return own

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        return y

    def _hear(self, site: Site, gradient: torch.Tensor) -> None:
        for part, rows_RF in self._rows(site, gradient * self.samples):  # of one sample's loss, not of the mean
            part.hear(rows_RF * self._thinned(gradient, site) ** 0.5)

    def _rows(self, site: Site, tensor: torch.Tensor) -> Iterator[tuple[_Inputs, torch.Tensor]]:
        rows_RF = self.padding.only(tensor.movedim(site.features, -1))[:: self._thinned(tensor, site)]
        return ((part, rows_RF) for part in self.parts[site.name])

    def _thinned(self, tensor: torch.Tensor, site: Site) -> int:
        """Of so many rows one is looked at."""
        return max(1, tensor.numel() // max(tensor.shape[site.features], 1) // _ROWS)

    def _same(self, one: Site, other: Site) -> bool:
        """Whether two readers of one tensor read the same of it."""
        first, second = self.readers.inputs[one.name], self.readers.inputs[other.name]
        return (one.groups, len(first)) == (other.groups, len(second)) and all(
            a.width == b.width and torch.equal(a.positions, b.positions) for a, b in zip(first, second, strict=True)
        )
