"""Inexact widths in another order: what a statistic runs over must not depend on which unit stands where.

    whole        units 0 1 2 3 of an inexact width
    reordered    units 2 0 3 1 of it, in every tensor that has them        -> the same outputs, to rounding

Fewer units of an inexact width are another function by design, so nothing can be held against them. That no unit has a number
of its own, which the ones behind it would lose, can: then another order of all of them is the same function.

Invariant: whatever gives a unit a number by its place, in whatever way, shows here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from secateur.core.layout import Indices, has_widths, touches
from secateur.torch.narrowing.slices import Cache, narrow_tensor, remade
from secateur.torch.running.constants import narrowable_tensors
from secateur.torch.verifying.comparing import Setup
from secateur.torch.verifying.running import Side


@dataclass(frozen=True)
class Reordered(Setup):
    """The whole network on one side, on the other the same with the units of some widths in another order."""

    orders: Mapping[str, Indices] = field(default_factory=dict)

    @classmethod
    def inexact(cls, setup: Setup) -> Reordered | None:
        """The inexact widths that a plan narrows, each in an order of its own; None where there are none."""
        generator, graph = np.random.default_rng(0), setup.graph
        orders = {name: generator.permutation(graph[name].size) for name in setup.base.kept if graph[name].size > 1}
        orders = {name: order for name, order in orders.items() if name not in setup.plan.drops}
        nothing = graph.plan({})
        return cls(setup.model, setup.outside, graph, nothing, nothing, orders) if orders else None

    @property
    def widths(self) -> list[str]:
        """The widths whose units stand in another order."""
        return list(self.orders)

    def only(self, widths: Sequence[str]) -> Setup:
        """The same for some of the widths."""
        return replace(self, orders={name: self.orders[name] for name in widths})

    def told(self, names: str) -> str:
        """What is done to these widths, in words."""
        return f"the units of {names} in another order change"

    def narrowed(self) -> Side:
        """Nothing narrowed, the order another one."""
        made: dict[str, torch.Tensor] = {}
        tied: dict[int, torch.Tensor] = {}
        cache: Cache = {}
        for name, tensor in narrowable_tensors(self.model).items():
            layout = self.graph.layouts.get(name, ())
            if not (has_widths(layout) and any(touches(axis, self.orders) for axis in layout)):
                continue
            if id(tensor) not in tied:
                tied[id(tensor)] = remade(tensor, narrow_tensor(tensor.detach(), layout, self.orders, cache))
            made[name] = tied[id(tensor)]
        return Side(self.model, self.outside, made, self.plan)

    @cached_property
    def _arrays_left(self) -> Mapping[str, Indices]:
        return self.orders
