"""What the loss would lose with a unit, to first order.

    on="activation":  s = Σ over positions and readers of a · ∂L/∂a     for each sample  (Molchanov et al., ICLR 2017)
    on="weight":      s = Σ over the unit's slice of w · ∂L/∂w          for each batch   (Molchanov et al., CVPR 2019)

    of="unit":     mean of |s|^power                 opposite signs inside a unit cancel
    of="element":  the same with Σ |·|^power inside   they do not (``on="weight", power=2`` is Σ (w·g)²)

Invariant: on activations neither order nor batch size matters (for a loss that is a mean over samples); on weights order
does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.core.positions import Outer
from secateur.errors import ConfigError
from secateur.torch.criteria.gates import GateDriven, gate_scores
from secateur.torch.criteria.protocol import CRITERIA
from secateur.torch.criteria.reduction import check, normalise, one_of, reduce_group
from secateur.torch.measuring.accumulate import finite
from secateur.torch.measuring.gradients import gradient_of, gradients, live_carriers
from secateur.torch.measuring.judging import judging
from secateur.torch.measuring.norms import in_order, signed_unit_sums, unit_sums, with_values
from secateur.torch.measuring.targets import aimed
from secateur.torch.measuring.weights import Carrier, outer_widths
from secateur.torch.running.distributed import reduce_sum


@CRITERIA.add("taylor")
@dataclass(frozen=True, slots=True, kw_only=True)
class Taylor(GateDriven):
    """First-order change of the loss, on activations (where units are read) or on weights.

    ``reduction`` joins the tensors of a width and ``bias`` counts biases too; both say something with ``on="weight"`` only.
    """

    name = "taylor"

    on: Literal["activation", "weight"] = "activation"
    of: Literal["unit", "element"] = "unit"
    power: int = 1
    reduction: str = "mean"
    normalizer: str | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        self.check_source()
        check(self.reduction, self.normalizer)
        one_of("on", self.on, ("activation", "weight"))
        one_of("of", self.of, ("unit", "element"))
        if self.power not in (1, 2):
            raise ConfigError(f"power is 1 or 2, not {self.power!r}")

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width that the data reaches."""
        if self.on == "weight":
            scores = self._on_weights(graph, model)
        elif self.of == "unit":
            scores = gate_scores(self, graph, model, end=self._strength)
        else:
            scores = gate_scores(self, graph, model, begin=self._strength, end=torch.abs)
        return {name: normalise(values, self.normalizer) for name, values in scores.items()}

    def _strength(self, values: torch.Tensor) -> torch.Tensor:
        return values.abs() if self.power == 1 else values.square()

    def _on_weights(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        total: dict[str, list[Values]] = {}
        with judging(model) as model:
            count = torch.zeros(1)
            data = aimed(self.source(model), self.target, model)
            asked = live_carriers(graph, model, bias=self.bias)
            for size in gradients(self.name, data, model, asked, per="batch"):
                count += size
                for name, values in self._by_tensor(asked, outer_widths(graph)).items():
                    before = total.get(name, [np.zeros(())] * len(values))
                    total[name] = [b + size * v for b, v in zip(before, values, strict=True)]
            sums = {name: [torch.from_numpy(v) for v in values] for name, values in in_order(graph, total).items()}
            reduce_sum([*(v for values in sums.values() for v in values), count], data.group)
        means = {name: [v.numpy() / count.item() for v in values] for name, values in sums.items()}
        return finite({name: reduce_group(values, self.reduction) for name, values in means.items()})

    def _by_tensor(self, asked: list[Carrier], outer: Outer) -> dict[str, list[Values]]:
        """What each tensor says of each unit, from the gradient of one batch."""
        products = with_values(asked, lambda carrier: carrier.tensor.detach() * gradient_of(carrier))
        if self.of == "element":
            return unit_sums(products, outer, self.power)
        sums = signed_unit_sums(products, outer)
        return {name: [np.abs(s) ** self.power for s in values] for name, values in sums.items()}
