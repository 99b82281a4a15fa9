"""Layer-adaptive magnitude: how much of what would remain is lost with a unit.

    score(unit) = ‖unit‖² / Σ of ‖other‖² over all units of the width that are not smaller

The strongest unit of any width scores 1, so that one threshold over the whole network leaves no width empty (Lee et
al., Layer-adaptive sparsity for the magnitude-based pruning, ICLR 2021).

Invariant: scores lie in [0, 1], and the strongest unit of a width alone has 1 (tied ones share it).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.torch.criteria.protocol import CRITERIA
from secateur.torch.criteria.reduction import check, lamp, reduce_group
from secateur.torch.measuring.norms import in_order, unit_sums
from secateur.torch.measuring.weights import carriers, outer_widths


@CRITERIA.add("lamp")
@dataclass(frozen=True, slots=True, kw_only=True)
class LAMP:
    """Squared norm over the squared norms of all units that are not smaller."""

    name = "lamp"

    reduction: str = "mean"
    bias: bool = False

    def __post_init__(self) -> None:
        check(self.reduction, None)

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width that lives in a parameter."""
        parts = in_order(graph, unit_sums(carriers(graph, model, bias=self.bias), outer_widths(graph), 2))
        return {name: lamp(reduce_group(values, self.reduction)) for name, values in parts.items()}
