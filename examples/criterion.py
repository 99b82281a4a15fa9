"""A criterion, to copy: a score for every unit of every free width, higher is better.

    python examples/criterion.py        runs the checks that our own criteria run

One from the weights and one from data. Registered by name, a criterion can be asked for in a mode's config:
``{"criterion": "root_sum"}``; an object of it does as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from secateur.criteria import (
    CRITERIA,
    DataDriven,
    carriers,
    in_order,
    normalise,
    outer_widths,
    reduce_group,
    unit_means,
    unit_sums,
)
from secateur.testing import check_criterion


@CRITERIA.add("root_sum")
@dataclass(frozen=True, kw_only=True)
class RootSum:
    """Σ √|w| over each unit's slice, the mean over the tensors that carry it, relative to the mean of its width."""

    name = "root_sum"

    def __call__(self, graph, model):
        """``{width: [size]}``, or ``[outer size, size]`` where a width has an outer one."""
        sums = in_order(graph, unit_sums(carriers(graph, model), outer_widths(graph), power=0.5))
        return {name: normalise(reduce_group(by_tensor, "mean"), "mean") for name, by_tensor in sums.items()}


@CRITERIA.add("mean_magnitude")
@dataclass(frozen=True, kw_only=True)
class MeanMagnitude(DataDriven):
    """Mean of |a| where units are read: over all samples, positions and readers."""

    name = "mean_magnitude"

    def __call__(self, graph, model):
        """The data is the criterion's own (``data_loader=…``) or that of the mode it runs in."""
        return unit_means(self, graph, model, torch.abs)


CHECKS = [*check_criterion(RootSum()), *check_criterion(MeanMagnitude())]

if __name__ == "__main__":
    for check in CHECKS:
        check()
        print("holds:", check)
