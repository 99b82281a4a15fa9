"""How large the activations of a unit are on calibration data, as Minitron measures it.

    A [batch, sequence, features]  ──mean over the sequence of |A|──►  m [batch, features]  ──L2 over all samples──►  score

Each unit is measured where it is read: a feed-forward unit at the second projection, a head at the output projection (L2 over
its positions), the hidden width at what every norm gives (an activation that several projections read counts once; the scores of
all places are added up); one that is never read by itself (an expert's, in a tensor of all experts) by its weights. After
Muralidharan et al., Compact language models via pruning and knowledge distillation, arXiv 2407.14679.

Padded positions are no part of the sequence.

Invariant: sums are in float32 or wider, one number a feature and place, however long the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.torch.criteria.magnitude import L2
from secateur.torch.criteria.protocol import CRITERIA
from secateur.torch.criteria.reduction import one_of
from secateur.torch.criteria.sources import DataDriven
from secateur.torch.measuring.accumulate import finite, wide
from secateur.torch.measuring.judging import batches, judging
from secateur.torch.measuring.readers import Read, Readers, readers_of
from secateur.torch.measuring.samples import Contractions, Rows, contractions_of, over_space
from secateur.torch.running.contractions import Site, taps
from secateur.torch.running.distributed import reduce_sum
from secateur.torch.running.example import Example, batch_size
from secateur.torch.running.padding import NOTHING_PADDED, Padding

Aggregation = Literal["mean", "l2"]
AGGREGATIONS = ("mean", "l2")


@CRITERIA.add("activation_norm")
@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationNorm(DataDriven):
    """Norm of a unit's activations: ``sequence`` says how positions are summed up, ``batch`` how samples are."""

    name = "activation_norm"

    sequence: Aggregation = "mean"
    batch: Aggregation = "l2"

    def __post_init__(self) -> None:
        self.check_source()
        one_of("sequence", self.sequence, AGGREGATIONS)
        one_of("batch", self.batch, AGGREGATIONS)

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width; of one that no contraction shows, the norm of its weights."""
        with judging(model) as judged, torch.no_grad():
            data = self.source(judged)
            contractions = contractions_of(judged, data.collect(next(iter(data.batches(judged)))))
            readers = readers_of(graph, contractions.sites)
            tap = _Norms(self, readers, contractions)
            for batch in batches(self.name, data, judged):
                given = data.collect(batch)
                tap.begin(batch_size(Example.of(judged, given)), Padding.of(judged, given))
                with taps(judged, tap):
                    data.output(judged, batch)
            seen = finite(tap.scores(data.group))
            return seen | _by_weight(graph, model, set(seen))


def _by_weight(graph: Graph, model: nn.Module, seen: set[str]) -> dict[str, Values]:
    """L2 norms of the weights of widths that no contraction shows, as those of experts in one tensor."""
    rest = graph.frozen(seen, "measured")
    return L2()(rest, model) if rest.free else {}


@dataclass(slots=True)
class _Norms:
    """A tap that sums up every activation once. State: a sum for each feature of each place, and how many samples it is of."""

    asked: ActivationNorm
    readers: Readers
    contractions: Contractions
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    reads: dict[str, tuple[Read, ...]] = field(default_factory=dict)
    samples: int = 0
    batch: int = 1
    padding: Padding = NOTHING_PADDED
    calls: Counter[str] = field(default_factory=Counter)
    last: tuple[torch.Tensor | None, frozenset[str]] = (None, frozenset())

    def begin(self, batch: int, padding: Padding) -> None:
        """The next forward pass is of so many samples."""
        self.batch, self.padding, self.calls, self.last = batch, padding, Counter(), (None, frozenset())
        self.samples += batch

    def before(self, site: Site) -> torch.Tensor:
        """Add what this contraction reads, unless the one before it read the same."""
        asked = self.readers.into(site)
        known, counted = self.last
        fresh = asked if known is not site.x else tuple(r for r in asked if r.width not in counted)
        self._add(f"into {site.name}", site.x, site, fresh)
        self.last = (site.x, (counted if known is site.x else frozenset()) | {r.width for r in asked})
        return site.x

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        """Add what it gives, as far as nobody reads it."""
        self._add(f"out of {site.name}", y, site, self.readers.out_of(site))
        self.calls[site.name] += 1
        return y

    def _add(self, place: str, a: torch.Tensor, site: Site, asked: tuple[Read, ...]) -> None:
        if not asked:
            return
        rows = over_space(a.to(torch.promote_types(a.dtype, torch.float32)).abs(), site.spatial)
        way = self.contractions.rows.get((site.name, self.calls[site.name]))
        live = self.padding.live(rows.shape[:-1])
        counted = torch.ones_like(rows[..., :1]) if live is None else live.to(rows)[..., None]
        of_sample = _SEQUENCE[self.asked.sequence](*(_by_sample(v, way, self.batch) for v in (rows * counted, counted)))
        added = (of_sample.square() if self.asked.batch == "l2" else of_sample).sum(0).to(wide(a.device))
        self.sums[place] = self.sums[place] + added if place in self.sums else added
        self.reads[place] = asked

    def scores(self, group: object) -> dict[str, Values]:
        """For each unit the L2 norm over its positions, added up over the places where it is seen."""
        if not self.sums:
            return {}
        some = next(iter(self.sums.values()))
        samples = torch.tensor([float(self.samples)], dtype=some.dtype, device=some.device)
        reduce_sum([*self.sums.values(), samples], group)  # type: ignore[arg-type]
        found: dict[str, Values] = {}
        for place, total in self.sums.items():
            squares = total if self.asked.batch == "l2" else (total / samples).square()
            for read in self.reads[place]:
                norm = read.fold(squares[None])[0].sqrt().cpu().double().numpy()
                found[read.width] = norm if read.width not in found else _plus(found[read.width], norm)
        return found


def _plus(one: Values, other: Values) -> Values:
    """The sum; a width that has rows of its own in some places only has the same row everywhere in the others."""
    return np.add(one, other)


def _mean(by_sample: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    return by_sample.sum(1) / counted.sum(1).clamp_min(1)


def _l2(by_sample: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    return by_sample.square().sum(1).sqrt()


_SEQUENCE: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"mean": _mean, "l2": _l2}


def _by_sample(rows: torch.Tensor, way: Rows | None, batch: int) -> torch.Tensor:
    """``[samples, positions, features]``; where samples cannot be told apart (tokens of an expert), all as one."""
    if way is not None and way.fits(rows.shape[:-1], batch):
        return way.by_sample(rows, batch)
    return rows.flatten(0, -2)[None]
