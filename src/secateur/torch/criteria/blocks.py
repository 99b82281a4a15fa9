"""Which blocks matter: every criterion has a word on them, since they compete with the units for one budget.

    weights alone        norm of the branch         ┐ ÷ mean over the blocks × mean score of a unit:
    looking at data      1 − cos of input, output   ┘ an average block is worth an average unit
    gates                ∂L/∂gate of the branch       in the unit of the loss, as it is for units

Invariant: in every stack that is nothing but blocks, somebody is the best; whoever allocates keeps that one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from secateur.core.depth import LAYERS
from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.torch.criteria.gates import GateGradient
from secateur.torch.criteria.protocol import CRITERIA, Criterion
from secateur.torch.criteria.random import Random
from secateur.torch.criteria.sources import DataDriven
from secateur.torch.criteria.taylor import Taylor
from secateur.torch.measuring.accumulate import Tally
from secateur.torch.measuring.blocks import branch_norms, free_blocks, influence, watched
from secateur.torch.measuring.gradients import backward
from secateur.torch.measuring.judging import batches, judging
from secateur.torch.measuring.targets import aimed
from secateur.torch.running.example import Example, batch_size
from secateur.torch.running.padding import NOTHING_PADDED, Padding
from secateur.torch.running.walking import parameters_of


@CRITERIA.add("block_influence")
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockInfluence(DataDriven):
    """1 − cos between what a block is given and what it gives, on average over the data; widths other than depth stay whole."""

    name = "block_influence"

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of the free blocks that the data reaches."""
        return _influences(self, graph, model)


def judged_with_blocks(criterion: Criterion, graph: Graph, model: nn.Module) -> dict[str, Values]:
    """What a criterion says of all free widths, its blocks included."""
    blocks = free_blocks(graph)
    if not blocks or isinstance(criterion, BlockInfluence | Random):
        return criterion(graph, model)
    bare = graph.with_widths(width for width in graph.widths if width.kind != LAYERS)
    scores = criterion(bare, model) if bare.free else {}
    if isinstance(criterion, GateGradient | Taylor):
        return {**scores, **_gates(criterion, graph, model)}
    if isinstance(criterion, DataDriven):
        return {**scores, **_beside(scores, _influences(criterion, graph, model))}
    norms = branch_norms(graph, model, getattr(criterion, "power", 2.0))
    return {**scores, **_beside(scores, {name: np.array([norm]) for name, norm in norms.items()})}


def _beside(scores: Mapping[str, Values], blocks: Mapping[str, Values]) -> dict[str, Values]:
    """Blocks on the scale of units: the average block is worth what the average unit is."""
    units = float(np.mean([np.mean(values) for values in scores.values()])) if scores else 1.0
    average = float(np.mean(list(blocks.values()))) or 1.0
    return {name: values / average * units for name, values in blocks.items()}


def _influences(criterion: DataDriven, graph: Graph, model: nn.Module) -> dict[str, Values]:
    blocks = free_blocks(graph)
    only = graph.with_widths(width for width in graph.widths if width.name in blocks)
    with judging(model) as judged, torch.no_grad():
        data = criterion.source(judged)
        tally = Tally.of(only, judged, data.group)
        padding = NOTHING_PADDED

        def look(name: str, given: torch.Tensor, gone_on: torch.Tensor, gave: torch.Tensor) -> None:
            rows = influence(given, gone_on, blocks[name].axis)
            tally.add({name: padding.mean(rows).sum(0, keepdim=True)}, len(rows))

        with watched(judged, only, look):
            for batch in batches(criterion.name, data, judged):
                padding = Padding.of(judged, data.collect(batch))
                data.output(judged, batch)
        return tally.means()


def _gates(criterion: GateGradient | Taylor, graph: Graph, model: nn.Module) -> dict[str, Values]:
    """The same s as of a unit, of a gate on the branch: Σ (y − x) · ∂L/∂y over a sample."""
    blocks = free_blocks(graph)
    only = graph.with_widths(width for width in graph.widths if width.name in blocks)
    per_sample = not isinstance(criterion, GateGradient) or criterion.per == "sample"
    change = torch.square if isinstance(criterion, GateGradient) or criterion.power == 2 else torch.abs
    with judging(model) as judged:
        data = aimed(criterion.source(judged), criterion.target, judged)
        tally = Tally.of(only, judged, data.group)
        count = 0
        _ask_for_gradients(judged, blocks)
        for batch in batches(criterion.name, data, judged):
            number = batch_size(Example.of(judged, data.collect(batch))) if per_sample else 1
            sums: dict[str, torch.Tensor] = {}

            def look(
                name: str,
                given: torch.Tensor,
                gone_on: torch.Tensor,
                gave: torch.Tensor,
                number: int = number,
                sums: dict[str, torch.Tensor] = sums,
            ) -> None:
                _hear(name, gone_on - given, gave, number, sums)

            with watched(judged, only, look):
                output = data.output(judged, batch)
            backward(data.loss_of(output, batch))
            judged.zero_grad(set_to_none=True)
            tally.add({name: change(values).sum(0, keepdim=True) for name, values in sums.items()}, number)
            count += number
    return tally.means(of=count)


def _ask_for_gradients(model: nn.Module, blocks: Collection[str]) -> None:
    """Let what blocks give have a gradient: of their vectors one is enough, and cheap."""
    for name in blocks:
        mine = [p for p in parameters_of(model.get_submodule(name)) if p.is_floating_point()]
        for parameter in [p for p in mine if p.dim() < 2] or mine:
            parameter.requires_grad_()


def _hear(name: str, branch: torch.Tensor, gave: torch.Tensor, number: int, sums: dict[str, torch.Tensor]) -> None:
    """Add s of each sample once the gradient of what a block gave is there."""
    if not gave.requires_grad:
        return
    branch = branch.detach().to(torch.promote_types(gave.dtype, torch.float32))

    def hear(gradient: torch.Tensor) -> None:
        product = branch * gradient.to(branch) * number
        by_sample = product.flatten(1).sum(1) if len(product) == number else product.sum().expand(number) / number
        sums[name] = sums[name] + by_sample if name in sums else by_sample

    gave.register_hook(hear)
