"""Scores from the weights alone: norms of what carries a unit, and batch-norm scales.

    score(unit) = (mean over tensors of Σ |w|^p over the unit's slice)^(1/p), then ÷ the mean over the width

The root is taken once, after the tensors are reduced: so a score is a norm in units of the weights, and widths compare.

Invariant: a unit's score does not depend on where in its width it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.errors import InputError
from secateur.search.matching import owner
from secateur.torch.criteria.protocol import CRITERIA
from secateur.torch.criteria.reduction import check, normalise, reduce_group
from secateur.torch.measuring.norms import in_order, unit_sums
from secateur.torch.measuring.weights import Carrier, carriers, outer_widths


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnitude:
    """The norm of each unit's slices.

    ``reduction`` joins the tensors of a width, ``normalizer`` makes widths comparable, ``bias`` counts biases too.
    """

    name = "magnitude"
    power = 1.0

    reduction: str = "mean"
    normalizer: str | None = "mean"
    bias: bool = False

    def __post_init__(self) -> None:
        check(self.reduction, self.normalizer)

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width that lives in a parameter."""
        parts = unit_sums(carriers(graph, model, bias=self.bias), outer_widths(graph), self.power)
        return {
            name: normalise(reduce_group(values, self.reduction) ** (1 / self.power), self.normalizer)
            for name, values in in_order(graph, parts).items()
        }


@CRITERIA.add("l1")
@dataclass(frozen=True, slots=True, kw_only=True)
class L1(Magnitude):
    """Sum of absolute weights."""

    name = "l1"
    power = 1.0


@CRITERIA.add("l2")
@dataclass(frozen=True, slots=True, kw_only=True)
class L2(Magnitude):
    """Euclidean norm."""

    name = "l2"
    power = 2.0


@CRITERIA.add("bn_scale")
@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNormScale:
    """The absolute scale that batch norm gives a unit (Liu et al., Network slimming, ICCV 2017).

    Widths without batch norm are left out. Raises InputError where no free width has any.
    """

    name = "bn_scale"

    reduction: str = "mean"
    normalizer: str | None = "mean"

    def __post_init__(self) -> None:
        check(self.reduction, self.normalizer)

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of the free widths under a batch norm."""
        scales = [carrier for carrier in carriers(graph, model) if _is_scale(graph, carrier)]
        if not scales:
            raise InputError(
                "bn_scale: no free width passes a batch norm with a scale; use another criterion, such as l1"
            )
        parts = in_order(graph, unit_sums(scales, outer_widths(graph), 1))
        return {
            name: normalise(reduce_group(values, self.reduction), self.normalizer) for name, values in parts.items()
        }


def _is_scale(graph: Graph, carrier: Carrier) -> bool:
    types = graph.module_types.get(owner(graph, carrier.name), ())
    return carrier.tensor.dim() == 1 and carrier.name.endswith("weight") and any("BatchNorm" in kind for kind in types)
