"""Time as a cost: fitted to measured networks, with terms that can only grow.

    ms(counts) = constant + Σ over kinds of layers  a · MACs  +  b · bytes written  +  c · bytes of weights        a, b, c ≥ 0

A kind is a type of module and in how many widths its MACs grow: a depthwise convolution, in one, takes longer for each of them.

The terms are those of costs that every graph has, so that the same fit serves the graphs of all rounds.

Invariant: the fitted cost is monotone; it is counted in femtoseconds, so that costs stay integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.cost import Peak, Polynomial, Term
from secateur.core.graph import Graph
from secateur.core.tape import Counts

METRIC = "latency_fs"
FS_PER_MS = 10**12
_SWEEPS = 2000
_REWEIGHTED = 8
_SURE = 4.0  # what a network that is about to be returned weighs beside a random one

Features = Mapping[str, Polynomial]


@dataclass(frozen=True, slots=True)
class TimeModel:
    """Femtoseconds for each unit of each feature; ``error`` is the largest relative one on the networks it was fitted to."""

    rates: Mapping[str, float]
    error: float

    def __call__(self, graph: Graph) -> Graph:
        """The graph with its time as one more cost."""
        return graph.with_cost(METRIC, Polynomial(tuple(self._terms(graph))))

    def _terms(self, graph: Graph) -> Iterator[Term]:
        """Terms whose coefficients are integers: a rate below one rounds up to a fs a unit, which is next to nothing."""
        for name, feature in features_of(graph).items():
            rate = self.rates.get(name, 0.0)
            for term in feature.terms:
                coefficient = round(rate * term.coefficient)
                if coefficient > 0:
                    yield Term(coefficient, term.axes, term.module)


def features_of(graph: Graph) -> Features:
    """What time may depend on, each a cost of the graph that never falls as widths grow."""
    found: dict[str, list[Term]] = {"constant": [Term(1, ())]}
    for term in _terms(graph, "macs"):
        kind = next(iter(graph.module_types.get(term.module, ())), "other").rpartition(".")[2]
        found.setdefault(f"macs of {kind} in {len(term.axes)} widths", []).append(term)
    found["bytes written"] = _terms(graph, "peak_activation_bytes")
    found["bytes of weights"] = _terms(graph, "weight_bytes")
    return {name: Polynomial(tuple(terms)) for name, terms in found.items() if terms}


def _terms(graph: Graph, metric: str) -> list[Term]:
    cost = graph.costs.get(metric)
    return [t for t in cost.terms if t.coefficient > 0] if isinstance(cost, Polynomial | Peak) else []


def fitted(graph: Graph, counts: Sequence[Counts], times_ms: Sequence[float], sure: int = 0) -> TimeModel:
    """The fit with the smallest relative errors on these networks; no rate is negative. Of the last ones, as many as are
    ``sure``, the errors count most.
    """
    features = features_of(graph)
    rows = np.array([[float(f.value(c)) for f in features.values()] for c in counts])
    times = np.asarray(times_ms) * FS_PER_MS
    scale = np.maximum(rows.max(axis=0), 1.0)
    rates = robust(rows / scale / times[:, None], np.ones(len(times)), sure) / scale
    error = float(np.abs(rows @ rates / times - 1).max())
    return TimeModel(dict(zip(features, map(float, rates), strict=True)), error)


def robust(matrix: NDArray[np.float64], wanted: NDArray[np.float64], sure: int = 0) -> NDArray[np.float64]:
    """As `nonnegative`, with what lies far off counting for less: another process may have run just then (Huber's weights).
    The last ones that are ``sure`` count for more, however far off they lie.
    """
    weights, found = np.ones(len(wanted)), np.zeros(matrix.shape[1])
    for again in range(_REWEIGHTED + 1):
        off = np.abs(matrix @ found - wanted)
        if again and np.median(off) > 0:
            weights = np.minimum(1.0, 1.5 * np.median(off) / np.maximum(off, 1e-12))
        weights[len(wanted) - sure :] = _SURE
        found = nonnegative(matrix * np.sqrt(weights)[:, None], wanted * np.sqrt(weights))
    return found


def nonnegative(matrix: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with no negative coefficient, coordinate by coordinate, a little drawn to the smaller."""
    square = matrix.T @ matrix
    square[np.diag_indices_from(square)] *= 1 + 1e-6
    right = matrix.T @ wanted
    found = np.zeros(len(right))
    for _ in range(_SWEEPS):
        before = found.copy()
        for j in range(len(found)):
            rest = right[j] - square[j] @ found + square[j, j] * found[j]
            found[j] = max(rest / square[j, j], 0.0) if square[j, j] > 0 else 0.0
        if np.abs(found - before).max() <= 1e-10 * max(np.abs(found).max(), 1e-300):
            break
    return found
