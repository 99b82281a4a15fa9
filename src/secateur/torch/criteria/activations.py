"""What units do on data, without a loss: how often they are zero, how large they are.

    conv1 ── bn ── relu ── conv2      conv2 reads conv1's channels as they are after all that came between:
                          ▲ here      no layer is named, the trace knows who reads what

With ``activation="relu"`` (relu6, gelu, silu) that function is applied to what the producing layer gives instead, whatever
follows in the network, as older tools do.

Invariant: a score is a mean over all samples, positions and readers: order and grouping of the data do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.torch.criteria.protocol import CRITERIA
from secateur.torch.criteria.reduction import check, normalise, one_of
from secateur.torch.criteria.sources import DataDriven
from secateur.torch.measuring.accumulate import Tally
from secateur.torch.measuring.judging import batches, judging
from secateur.torch.measuring.readers import Read, Readers, readers_of
from secateur.torch.measuring.samples import contractions_of, over_space
from secateur.torch.running.contractions import Site, taps
from secateur.torch.running.padding import NOTHING_PADDED, Padding

Activation = Literal["relu", "relu6", "gelu", "silu"]
OfActivation = Callable[[torch.Tensor], torch.Tensor]

ACTIVATIONS: dict[str, OfActivation] = {
    "relu": nn.functional.relu,
    "relu6": nn.functional.relu6,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}


@CRITERIA.add("second_moment")
@dataclass(frozen=True, slots=True, kw_only=True)
class SecondMoment(DataDriven):
    """Mean of a²: the power of a unit's activation."""

    name = "second_moment"

    activation: Activation | None = None
    normalizer: str | None = "mean"

    def __post_init__(self) -> None:
        _check(self, self.activation, self.normalizer)

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width that a contraction reads or gives."""
        means = unit_means(self, graph, model, torch.square, activation=self.activation)
        return {name: normalise(values, self.normalizer) for name, values in means.items()}


@CRITERIA.add("apoz")
@dataclass(frozen=True, slots=True, kw_only=True)
class APoZ(DataDriven):
    """One minus the average percentage of zeros (Hu et al., Network trimming, arXiv 1607.03250): in [0, 1]."""

    name = "apoz"

    activation: Activation | None = None
    normalizer: str | None = None

    def __post_init__(self) -> None:
        _check(self, self.activation, self.normalizer)

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width that a contraction reads or gives."""
        means = unit_means(self, graph, model, _is_not_zero, activation=self.activation)
        return {name: normalise(values, self.normalizer) for name, values in means.items()}


@CRITERIA.add("mean_rank")
@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRank(DataDriven):
    """Mean of a, sign included (Molchanov et al., ICLR 2017, "mean activation"): meant for what follows a relu.

    Not normalised: where positive and negative units balance, their mean is no scale to divide by.
    """

    name = "mean_rank"

    activation: Activation | None = None
    normalizer: str | None = None

    def __post_init__(self) -> None:
        _check(self, self.activation, self.normalizer)

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width that a contraction reads or gives."""
        means = unit_means(self, graph, model, _as_it_is, activation=self.activation)
        return {name: normalise(values, self.normalizer) for name, values in means.items()}


def unit_means(
    criterion: DataDriven, graph: Graph, model: nn.Module, value: OfActivation, *, activation: Activation | None = None
) -> dict[str, Values]:
    """Mean of ``value(a)`` over all samples, positions and readers of each unit: a criterion on data in one line.

    With an ``activation``, a is that function of what the producing layer gives instead of what is read.
    """
    with judging(model) as model, torch.no_grad():
        data = criterion.source(model)
        sites = contractions_of(model, data.collect(next(iter(data.batches(model)))), samples=False).sites
        readers = readers_of(graph, sites, produced=activation is not None)
        tap = _Sums(readers, Tally.of(graph, model, data.group), value, activation)
        for batch in batches(criterion.name, data, model):
            tap.padding = Padding.of(model, data.collect(batch))
            with taps(model, tap):
                data.output(model, batch)
    return tap.tally.means()


@dataclass(slots=True)
class _Sums:
    """A tap that adds up a value of every activation."""

    readers: Readers
    tally: Tally
    value: OfActivation
    activation: str | None
    padding: Padding = NOTHING_PADDED

    def before(self, site: Site) -> torch.Tensor:
        """Add what this contraction reads."""
        self._add(site.x, site, self.readers.into(site))
        return site.x

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        """Add what it gives, as far as nobody reads it or the activation is named."""
        self._add(y, site, self.readers.out_of(site))
        return y

    def _add(self, a: torch.Tensor, site: Site, asked: tuple[Read, ...]) -> None:
        if not asked:
            return
        a = a.to(torch.promote_types(a.dtype, torch.float32))
        values = self.value(a if self.activation is None else ACTIVATIONS[self.activation](a))
        places = math.prod(a.shape[-site.spatial :]) if site.spatial else 1
        rows = self.padding.only(over_space(values, site.spatial))
        total = rows.sum(0, keepdim=True)
        for read in asked:
            num_positions = len(rows) * places * read.positions.shape[-1]
            self.tally.add({read.width: read.fold(total)[0]}, num_positions)


def _check(criterion: DataDriven, activation: str | None, normalizer: str | None) -> None:
    criterion.check_source()
    check("mean", normalizer)
    if activation is not None:
        one_of("activation", activation, tuple(ACTIVATIONS))


def _is_not_zero(a: torch.Tensor) -> torch.Tensor:
    return (a != 0).to(a.dtype)


def _as_it_is(a: torch.Tensor) -> torch.Tensor:
    return a
