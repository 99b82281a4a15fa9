"""First-order scores from gates: how the loss moves when a unit's gate begins to close.

    conv1 ── bn ── relu ──┬── · gate ── conv2        the gate of a unit stands before every contraction that sums over it;
                          └── · gate ── conv3        s = ∂L/∂gate = Σ over positions and readers of a · ∂L/∂a

For each sample of the data there is one s a unit; ``gate_gradient`` is the mean of s² (what GradNAS sums, and the Fisher
information of a gate: Theis et al., arXiv 1801.05787), ``taylor`` on activations the mean of |s| (Molchanov et al.,
ICLR 2017). Both are changes of one loss, in its own unit: they compare across widths and are not normalised.

Invariant: with ``per="sample"`` a score does not depend on how samples are grouped into batches, nor on their order, if
the loss is a mean over samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.errors import InputError
from secateur.torch.criteria.protocol import CRITERIA
from secateur.torch.criteria.reduction import check, normalise, one_of
from secateur.torch.criteria.sources import DataDriven
from secateur.torch.criteria.unseen import Unseen
from secateur.torch.measuring.accumulate import Tally, wide
from secateur.torch.measuring.gradients import backward, gradient_of, live_carriers
from secateur.torch.measuring.judging import batches, judging
from secateur.torch.measuring.norms import signed_unit_sums, with_values
from secateur.torch.measuring.readers import Read, Readers, readers_of
from secateur.torch.measuring.samples import Contractions, contractions_of, over_space
from secateur.torch.measuring.targets import TARGETS, Target, aimed
from secateur.torch.measuring.weights import Carrier, outer_widths
from secateur.torch.running.contractions import Site, taps
from secateur.torch.running.data import Data
from secateur.torch.running.example import Example, batch_size

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDriven(DataDriven):
    """A criterion on gates. ``target="output"`` differentiates the strength of the output instead of the loss (see
    `targets`): often far better, and without labels.
    """

    target: Target = "loss"

    def check_source(self) -> None:
        """Raise ConfigError where the target or the source of data cannot be used."""
        DataDriven.check_source(self)
        one_of("target", self.target, TARGETS)


@CRITERIA.add("gate_gradient")
@dataclass(frozen=True, slots=True, kw_only=True)
class GateGradient(GateDriven):
    """Mean over samples of (∂L/∂gate)².

    ``per="batch"`` squares the gradient of a batch's loss instead: faster, noisier, and it depends on the batch size.
    ``unseen`` raises what units score that these samples hardly need, where a classifier has classes that it answers none of
    them with: to what is expected on others (see `unseen`). It has no effect with ``per="batch"``.
    """

    name = "gate_gradient"

    per: Literal["sample", "batch"] = "sample"
    normalizer: str | None = None
    unseen: bool = True

    def __post_init__(self) -> None:
        self.check_source()
        check("mean", self.normalizer)
        one_of("per", self.per, ("sample", "batch"))

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width that the data reaches."""
        _, scores = self.scores_of(graph, model)
        return {name: normalise(values, self.normalizer) for name, values in scores.items()}

    def scores_of(self, graph: Graph, model: nn.Module) -> tuple[dict[str, Values], dict[str, Values]]:
        """Scores on the data, and what they are expected to be on other samples."""
        told = Unseen() if self.unseen and self.per == "sample" else None
        scores = _scores(self, graph, model, _Asked(end=torch.square, begin=_as_it_is, per=self.per), told)
        return scores, scores if told is None else told.expected(scores)


def gate_scores(
    criterion: GateDriven,
    graph: Graph,
    model: nn.Module,
    *,
    end: Change,
    begin: Change | None = None,
    per: Literal["sample", "batch"] = "sample",
) -> dict[str, Values]:
    """Mean over samples of ``end``(Σ over positions of ``begin``(a · ∂L/∂a)), for each unit."""
    return _scores(criterion, graph, model, _Asked(end=end, begin=begin or _as_it_is, per=per))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is made of products before they are added up, and of the sums."""

    end: Change
    begin: Change
    per: Literal["sample", "batch"]


def _scores(
    criterion: GateDriven, graph: Graph, model: nn.Module, asked: _Asked, told: Unseen | None = None
) -> dict[str, Values]:
    """See `gate_scores`; who is ``told`` hears every sample's."""
    if not graph.free:
        return {}
    with judging(model) as model:
        data = aimed(criterion.source(model), criterion.target, model)
        first = data.collect(next(iter(data.batches(model))))
        seen = contractions_of(model, first, samples=asked.per == "sample")
        where = readers_of(graph, seen.sites)
        last = _by_parameters(graph, model, where)
        tally, count = Tally.of(graph, model, data.group), 0
        for batch in batches(criterion.name, data, model):
            run = _Gates(seen=seen, readers=where, begin=asked.begin)
            run.batch = batch_size(Example.of(model, data.collect(batch))) if asked.per == "sample" else 1
            output = _backward(run, model, data, batch, [carrier.tensor for carrier in last])
            run.add_parameters(last, graph)
            found = {name: asked.end(values) for name, values in run.whole().items()}
            tally.add({name: values.sum(0) for name, values in found.items()}, run.batch)
            if told is not None and not data.is_of_numbers(batch):
                told.add(found, output, data.group)
            count += run.batch
    return tally.means(of=count)


@dataclass(slots=True, kw_only=True)
class _Gates:
    """A tap that collects s of every unit and sample over one batch; state, because hooks write into it."""

    seen: Contractions
    readers: Readers
    begin: Change
    batch: int = 1
    changes: dict[str, torch.Tensor] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    def before(self, site: Site) -> torch.Tensor:
        """Let the input be a tensor of its own, so that its gradient is what this reader says."""
        self.calls[site.name] += 1
        asked = self.readers.into(site)
        return site.x if not asked else self._watched(site, site.x, asked, 1.0)

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        """The same for outputs. Units seen there are factors of a product: both factors say the same, each counts half."""
        asked = self.readers.out_of(site)
        return y if not asked else self._watched(site, y, asked, 0.5)

    def _watched(self, site: Site, a: torch.Tensor, asked: tuple[Read, ...], share: float) -> torch.Tensor:
        if not a.is_floating_point():
            return a
        own = a.view_as(a) if a.requires_grad else a.detach().requires_grad_()
        call = (site.name, self.calls[site.name] - 1)
        hear = partial(
            self._hear, asked=asked, share=share, a=own.detach(), version=own._version, spatial=site.spatial, call=call
        )
        own.register_hook(hear)
        return own

    def _hear(
        self,
        gradient: torch.Tensor,
        *,
        a: torch.Tensor,
        version: int,
        spatial: int,
        call: tuple[str, int],
        asked: tuple[Read, ...],
        share: float,
    ) -> None:
        if a._version != version:
            raise InputError(
                f"{call[0]}: the model overwrites its input in place after reading it: it cannot be judged"
            )
        dtype = torch.promote_types(a.dtype, torch.float32)
        product = self.begin(a.to(dtype) * gradient.to(dtype) * self.batch)  # of one sample's loss, not of the mean
        apart = self._by_sample(over_space(product, spatial), call) * share
        for read in asked:
            folded = read.fold(apart)
            before = self.changes.get(read.width)
            self.changes[read.width] = folded if before is None else before + folded

    def _by_sample(self, values: torch.Tensor, call: tuple[str, int]) -> torch.Tensor:
        """``[*rows, F]`` to ``[batch, F]``; where samples cannot be told apart, each has its even share."""
        rows = self.seen.rows.get(call)
        if self.batch > 1 and rows is not None and rows.fits(values.shape[:-1], self.batch):
            return rows.by_sample(values, self.batch).sum(1)
        return (values.flatten(0, -2).sum(0, keepdim=True) / self.batch).expand(self.batch, -1)

    def add_parameters(self, last: list[Carrier], graph: Graph) -> None:
        """What the parameters say of widths that no activation shows: the same for every sample."""
        there = [carrier for carrier in last if carrier.tensor.grad is not None]
        products = with_values(there, lambda carrier: carrier.tensor.detach() * gradient_of(carrier))
        for carrier in there:
            carrier.tensor.grad = None
        for name, values in signed_unit_sums(products, outer_widths(graph)).items():
            mean = np.mean(np.broadcast_arrays(*values), axis=0)
            self.changes[name] = torch.as_tensor(mean).expand(self.batch, *mean.shape)

    def whole(self) -> dict[str, torch.Tensor]:
        """s for each sample, ``[batch, size]`` or ``[batch, outer, size]``."""
        return {name: values.to(wide(values.device)) for name, values in self.changes.items()}


def _backward(run: _Gates, model: nn.Module, data: Data, batch: object, parameters: list[torch.Tensor]) -> object:
    for parameter in parameters:
        parameter.requires_grad_()
    with taps(model, run):
        output = data.output(model, batch)
    backward(data.loss_of(output, batch))
    return output


def _by_parameters(graph: Graph, model: nn.Module, where: Readers) -> list[Carrier]:
    """The parameters that carry widths that no activation shows."""
    rest = graph.with_widths(width for width in graph.free if width.name in where.unseen)
    return live_carriers(rest, model) if where.unseen else []


def _as_it_is(values: torch.Tensor) -> torch.Tensor:
    return values
