"""Diagonal Fisher information of the weights: what removing them costs to second order.

    score(unit) = ½ · mean over tensors of Σ over the unit's slice of w² · F,     F = mean over samples of (∂L/∂w)²

(LeCun et al., Optimal brain damage, NeurIPS 1989, with the Fisher information for the Hessian's diagonal.) Exact: one
backward pass a sample, for parameters of every kind; ``gate_gradient`` is the quick relative that takes whole batches.

Invariant: with ``per="sample"`` neither the order of samples nor their grouping into batches matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.torch.criteria.protocol import CRITERIA
from secateur.torch.criteria.reduction import check, normalise, one_of, reduce_group
from secateur.torch.criteria.sources import DataDriven
from secateur.torch.measuring.accumulate import finite, wide
from secateur.torch.measuring.gradients import gradient_of, gradients, live_carriers
from secateur.torch.measuring.judging import judging
from secateur.torch.measuring.norms import in_order, unit_sums, with_values
from secateur.torch.measuring.weights import outer_widths
from secateur.torch.running.distributed import reduce_sum


@CRITERIA.add("fisher")
@dataclass(frozen=True, slots=True, kw_only=True)
class Fisher(DataDriven):
    """Σ of w² · F over each unit's slices.

    ``per="batch"`` squares the gradient of each batch's loss: one pass a batch, but it depends on the batch size.
    """

    name = "fisher"

    per: Literal["sample", "batch"] = "sample"
    reduction: str = "mean"
    normalizer: str | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        DataDriven.check_source(self)
        check(self.reduction, self.normalizer)
        one_of("per", self.per, ("sample", "batch"))

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width that lives in a parameter."""
        with judging(model) as model:
            data = self.source(model)
            asked = live_carriers(graph, model, bias=self.bias)
            squares = {
                carrier.name: torch.zeros_like(carrier.tensor, dtype=wide(carrier.tensor.device)) for carrier in asked
            }
            num_passes = torch.zeros(1)
            for _ in gradients(self.name, data, model, asked, per=self.per):
                num_passes += 1
                for carrier in asked:
                    squares[carrier.name] += gradient_of(carrier).square()
            reduce_sum([*squares.values(), num_passes], data.group)
            cost = with_values(asked, lambda i: i.tensor.detach().square() * squares[i.name] / (2 * num_passes.item()))
            parts = in_order(graph, unit_sums(cost, outer_widths(graph), 1))
        scores = {name: reduce_group(values, self.reduction) for name, values in parts.items()}
        return {name: normalise(values, self.normalizer) for name, values in finite(scores).items()}
