"""Code that decides: by a size, by a count, by the numbers that flow.

if c > 8: …                 another size may take the other path
for i in range(c): …        the loop runs once for each unit
if h.mean() > 0: …          the other path has weights, too

c the size of the hidden axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .idioms import ANY, FLAT, Sandwich, along, first, idiom, rest
from .joins import pointwise_layer
from .making import Maker, Shape, block


@idiom()
def branch_on_a_larger_size(self: Sandwich, h: Tensor) -> Tensor:
    return h.tanh() if h.shape[self.axis] > 5 else h.sigmoid()


@idiom()
def branch_on_an_even_size(self: Sandwich, h: Tensor) -> Tensor:
    return h if h.shape[self.axis] % 2 == 0 else -h


@idiom()
def branch_on_membership(self: Sandwich, h: Tensor) -> Tensor:
    return h * (0.5 if h.shape[self.axis] in (3, 4, 8, 16) else 2.0)


@idiom()
def looked_up_by_size(self: Sandwich, h: Tensor) -> Tensor:
    return h * {2: 0.5, 4: 0.7, 5: 1.3, 8: 1.5}.get(h.shape[self.axis], 0.9)


@idiom()
def smallest_power_of_two(self: Sandwich, h: Tensor) -> Tensor:
    k = 1
    while k < h.shape[self.axis]:
        k *= 2
    return h / k


@idiom()
def compared_with_a_float(self: Sandwich, h: Tensor) -> Tensor:
    return h + (1.0 if float(h.shape[self.axis]) >= 6.5 else 0.0)


@idiom()
def the_larger_of_two_sizes(self: Sandwich, h: Tensor) -> Tensor:
    return h / max(h.shape[self.axis], h.shape[0], 3)


@idiom()
def loop_over_channels(self: Sandwich, h: Tensor) -> Tensor:
    h = torch.movedim(h, self.axis, 0)
    return torch.movedim(torch.stack([h[i] * (1 + 0.1 * i) for i in range(h.shape[0])]), 0, self.axis)


@idiom()
def loop_over_every_second_channel(self: Sandwich, h: Tensor) -> Tensor:
    h = torch.movedim(h.clone(), self.axis, 0)
    for i in range(0, h.shape[0], 2):
        h[i] = -h[i]
    return torch.movedim(h, 0, self.axis)


@idiom()
def running_total_over_channels(self: Sandwich, h: Tensor) -> Tensor:
    total, outs = torch.zeros(()), []
    for part in h.unbind(self.axis):
        total = total + part
        outs.append(total.tanh())
    return torch.stack(outs, self.axis)


@idiom()
def zip_of_halves(self: Sandwich, h: Tensor) -> Tensor:
    pieces = h.split(1, self.axis)
    return torch.cat([a * b.sigmoid() for a, b in zip(pieces, reversed(pieces), strict=True)], self.axis)


@idiom()
def rows_of_a_weight(self: Sandwich, h: Tensor) -> Tensor:
    return h * along(torch.stack([row.abs().sum() for row in self.up.weight]), h, self.axis)


@idiom()
def branch_on_data(self: Sandwich, h: Tensor) -> Tensor:
    return h.tanh() if h.mean() > 0 else h.sigmoid()


@idiom()
def branch_on_an_item(self: Sandwich, h: Tensor) -> Tensor:
    return h * 0.5 if h.sum().item() > 0.5 else h


@idiom()
def list_of_floats(self: Sandwich, h: Tensor) -> Tensor:
    means = torch.movedim(h, self.axis, -1).reshape(-1, h.shape[self.axis]).mean(0).tolist()
    return h * along(torch.tensor(means), h, self.axis)


@idiom()
def through_numpy(self: Sandwich, h: Tensor) -> Tensor:
    return h + 0.5 * torch.from_numpy(np.tanh(h.detach().numpy()))


@idiom()
def order_by_numpy(self: Sandwich, h: Tensor) -> Tensor:
    strength = torch.movedim(h, self.axis, -1).reshape(-1, h.shape[self.axis]).abs().sum(0)
    order = np.argsort(np.asarray(strength.detach()))
    return h.index_select(self.axis, torch.from_numpy(order.copy()))


@idiom()
def strongest_channel(self: Sandwich, h: Tensor) -> Tensor:
    means = torch.movedim(h, self.axis, -1).reshape(-1, h.shape[self.axis]).mean(0)
    return h - h.select(self.axis, int(means.argmax())).unsqueeze(self.axis)


@idiom()
def positive_numbers_only(self: Sandwich, h: Tensor) -> Tensor:
    return h / (1 + h[h > 0].sum())


@idiom()
def assigned_by_mask(self: Sandwich, h: Tensor) -> Tensor:
    h = h.clone()
    h[h < 0] = 0.1
    return h


@idiom()
def channels_in_two_paths(self: Sandwich, h: Tensor) -> Tensor:
    k = 3 if h.shape[self.axis] > 4 else 1
    return torch.cat([first(h, k, self.axis).relu(), rest(h, k, self.axis)], self.axis)


class TaskHeads(nn.Module):
    """One of several layers runs, picked by an integer; the others share its widths."""

    def __init__(self, at: Shape, hidden: int, out: int, tasks: int, task: int) -> None:
        super().__init__()
        inner = Shape(at.stream, (*at.space, hidden) if at.axis == -1 else (hidden, *at.space))
        self.stem = pointwise_layer(at, hidden)
        self.heads = nn.ModuleList(pointwise_layer(inner, out) for _ in range(tasks))
        self.task = task

    def forward(self, x: Tensor) -> Tensor:
        return self.heads[int(self.task)](F.relu(self.stem(x)))


@block(*ANY)
def heads_that_did_not_run(make: Maker, at: Shape) -> nn.Module:
    tasks = make.choose.integer(2, 3)
    return TaskHeads(at, make.width(at), make.width(at), tasks, make.choose.integer(0, tasks - 1))


class BranchOnData(nn.Module):
    """A layer for bright inputs, another one for dark ones."""

    def __init__(self, at: Shape, hidden: int, out: int) -> None:
        super().__init__()
        inner = Shape(at.stream, (*at.space, hidden) if at.axis == -1 else (hidden, *at.space))
        self.stem = pointwise_layer(at, hidden)
        self.bright, self.dark = pointwise_layer(inner, out), pointwise_layer(inner, out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.bright(h) if float(x.mean()) > 0 else self.dark(h)


@block(*ANY)
def layers_for_bright_and_dark(make: Maker, at: Shape) -> nn.Module:
    return BranchOnData(at, make.width(at), make.width(at))


class Routed(nn.Module):
    """A hand-written top-1 router: a sample goes through one expert, and some experts through none."""

    def __init__(self, dim: int, hidden: int, experts: int, top: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim)) for _ in range(experts)
        )
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat).softmax(-1).topk(self.top, dim=-1)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == i)
            if rows.numel() > 0:
                out[rows] += expert(flat[rows]) * weights[rows, place].unsqueeze(-1)
        return x + out.view_as(x)


@block(*FLAT, weight=3)
def routed_experts(make: Maker, at: Shape) -> nn.Module:
    experts = make.choose.integer(2, 4)
    return Routed(at.channels, make.width(at, high=12), experts, make.choose.integer(1, 2))


class LongInputsOnly(nn.Module):
    """A table that only longer inputs reach, and a layer for large batches only."""

    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        self.near, self.far = nn.Parameter(torch.empty(tokens, dim)), nn.Parameter(torch.empty(8, dim))
        self.large_batches = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        table = self.near if x.shape[1] <= len(self.near) else torch.cat([self.near, self.far])
        x = x + table[: x.shape[1]]
        return self.large_batches(x) if x.shape[0] > 64 else x


@block("tokens")
def parts_for_longer_inputs(make: Maker, at: Shape) -> nn.Module:
    return LongInputsOnly(at.channels, at.sizes[0])


class ByKey(nn.Module):
    """Layers in a dict; the key is computed from the sizes of the input."""

    def __init__(self, layers: dict[str, nn.Module], axis: int) -> None:
        super().__init__()
        self.layers, self.axis = nn.ModuleDict(layers), axis

    def forward(self, x: Tensor) -> Any:
        return self.layers["wide" if x.shape[self.axis] > 4 else "slim"](x)


@block(*ANY)
def layers_by_key(make: Maker, at: Shape) -> nn.Module:
    out = make.width(at)
    return ByKey({"wide": pointwise_layer(at, out), "slim": pointwise_layer(at, out)}, at.axis)
