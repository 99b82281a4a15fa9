"""``prune_bias=False``: a masked row is a constant, and what reads it can take the constant into its own bias.

    x[u] = act(bias[u]) at every place   ->   bias_next += W_next[:, u] · x[u]        then unit u may go

The constants are measured, on a copy of the model: whatever lies between is allowed, as long as what arrives is constant.

Invariant: nothing is folded unless the folded copy gives the same outputs, on the example and on noise of its shape.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Along, widths_of
from secateur.core.plan import Plan
from secateur.core.positions import places
from secateur.torch.narrowing.masks import mask_plan, remove_masks, tensor_of
from secateur.torch.narrowing.tolerances import BY_DTYPE, FLOAT32
from secateur.torch.pruners.sparsifier.entries import Entry, bias_of
from secateur.torch.pruners.sparsifier.units import plan_of_masks
from secateur.torch.running.contractions import Site, taps
from secateur.torch.running.example import Example
from secateur.torch.running.outputs import output_tensors

Deltas = dict[str, torch.Tensor]  # what to add to which bias


class _NotFoldable(Exception):
    """Why the constants of a width cannot be folded."""


@torch.no_grad()
def constants(model: nn.Module, entries: Sequence[Entry], graph: Graph, plan: Plan) -> Deltas:
    """What to add to biases so that units with a constant may go; sets ``folded`` of the entries concerned.

    An entry whose constants have to stay gets the reason in ``constant``.
    """
    asked = [e for e in entries if e.bias is not None and not e.prune_bias and e.frozen is None and not e.mask.all()]
    if not asked:
        return {}
    twin = copy.deepcopy(model).eval()
    remove_masks(twin, leave_zeros=True)
    examples = _examples(graph.example, twin)
    tap = _Sites()
    with taps(twin, tap):
        before = [_outputs(twin, example) for example in examples]
    deltas: Deltas = {}
    for entry in asked:
        entry.folded = True
    widths = {name for entry in asked for name in widths_of(entry.axis)}
    for name in sorted(widths):
        mine = [entry for entry in asked if name in widths_of(entry.axis)]
        try:
            removed = _newly_removed(name, plan, plan_of_masks(entries, graph))
            shifts = _deltas_of(name, removed, mine, graph, twin, tap) if len(removed) else {}
        except _NotFoldable as reason:
            _keep(mine, str(reason))
        else:
            for bias, delta in shifts.items():
                deltas[bias] = deltas[bias] + delta if bias in deltas else delta
    if deltas and not _same(twin, plan_of_masks(entries, graph), deltas, examples, before):
        _keep(asked, "folding their constants changed the output")
        return {}
    return deltas


@dataclass
class _Sites:
    """A tap that keeps what every contraction reads."""

    seen: dict[str, list[Site]] = field(default_factory=dict)

    def before(self, site: Site) -> torch.Tensor:
        self.seen.setdefault(site.name, []).append(site)
        return site.x

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        return y


def _keep(entries: Sequence[Entry], reason: str) -> None:
    for entry in entries:
        entry.folded, entry.constant = False, reason


def _newly_removed(name: str, plan: Plan, folded: Plan) -> list[int]:
    if np.asarray(folded.kept[name]).ndim > 1 or np.asarray(plan.kept[name]).ndim > 1:
        raise _NotFoldable("channels of groups are not folded")
    return sorted(set(plan.kept[name]) - set(folded.kept[name]))  # type: ignore[arg-type]


def _deltas_of(
    name: str, removed: Sequence[int], entries: Sequence[Entry], graph: Graph, twin: nn.Module, tap: _Sites
) -> Deltas:
    if not all(isinstance(entry.axis, Along) for entry in entries):
        raise _NotFoldable("several rows make one of their units")
    shifts: Deltas = {}
    for fqn in dict.fromkeys(use.tensor for use in graph[name].uses):
        layout = graph.layouts[fqn]
        sites = [site for site in tap.seen.get(fqn, []) if name in set(widths_of(layout[site.inputs]))]
        if not sites and any(name in set(widths_of(axis)) for axis in layout[1:]):
            raise _NotFoldable(f"{fqn} reads them in a way that is not followed")
        if sites:
            bias = bias_of(twin, graph, fqn)
            if bias is None or any(site.bias is None for site in sites):
                raise _NotFoldable(f"{fqn} reads them and has no bias to take them")
            positions = next(p for width, p in places(layout[sites[0].inputs], {}) if width == name)
            delta = _delta(fqn, sites, torch.from_numpy(positions[list(removed)].ravel()))
            shifts[bias] = shifts[bias] + delta if bias in shifts else delta
    return shifts


def _delta(fqn: str, sites: Sequence[Site], columns: torch.Tensor) -> torch.Tensor:
    """What the constants in these columns add to what a contraction gives."""
    site = sites[0]
    padding = site.options.get("padding", 0)
    padded = padding not in (0, "valid") and (isinstance(padding, str) or any(np.ravel(padding)))
    if site.kind == "transposed" or site.groups != 1 or padded:
        raise _NotFoldable(f"{fqn} reads them with padding or in groups, so they differ at the border")
    columns = columns.to(site.x.device)
    rows = torch.cat([s.x.movedim(s.features, -1)[..., columns].flatten(0, -2) for s in sites]).double()
    if float((rows - rows[0]).abs().max()) > BY_DTYPE.get(site.x.dtype, FLOAT32) * max(float(rows.abs().max()), 1e-30):
        raise _NotFoldable(f"{fqn} does not read the same number everywhere")
    weight = site.weight.movedim(site.inputs, -1).double()[..., columns]
    return weight.flatten(1, -2).sum(1) @ rows[0] if weight.dim() > 2 else weight @ rows[0]


def _examples(example: Example, twin: nn.Module) -> list[Example]:
    here = Example(twin, example.args, example.kwargs).beside_model()
    generator = torch.Generator().manual_seed(0)

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor) if tensor.is_floating_point() else tensor

    return [here, here.map(noise)]


def _outputs(model: nn.Module, example: Example) -> list[torch.Tensor]:
    return output_tensors(model(*example.args, **example.kwargs))


def _same(
    twin: nn.Module, plan: Plan, deltas: Deltas, examples: Sequence[Example], before: Sequence[list[torch.Tensor]]
) -> bool:
    mask_plan(twin, plan)
    add(twin, deltas)
    return all(_pairs_agree(old, _outputs(twin, example)) for example, old in zip(examples, before, strict=True))


def _pairs_agree(old: list[torch.Tensor], new: list[torch.Tensor]) -> bool:
    return all(_agree(a, b) for a, b in _floating(old, new))


def _floating(old: list[torch.Tensor], new: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    yield from ((a, b) for a, b in zip(old, new, strict=True) if a.is_floating_point() and a.numel())


def _agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    gap, scale = float((a.double() - b.double()).abs().max()), float(a.double().abs().max())
    return gap <= BY_DTYPE.get(a.dtype, FLOAT32) * max(scale, 1e-30)


@torch.no_grad()
def add(model: nn.Module, deltas: Mapping[str, torch.Tensor]) -> None:
    """Add to biases, also where they are masked."""
    for name, delta in deltas.items():
        bias = tensor_of(model, name)
        assert bias is not None
        bias += delta.to(bias)
