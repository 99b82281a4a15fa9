"""A bound on time: predicted while searching, measured before it is returned.

    whole, and some random networks, measured ──► a monotone model of time ──► search under it ──► the plan measured
                                                         ▲                                            │ above the bound,
                                                         └──── fitted to that plan as well ◄──────────┘ or far below it

The target is the model as it runs here: PyTorch, eager or compiled, on the device that it is on, or ONNX Runtime; with the
threads there are and the batch of the example.

Invariant: what is said of the result was measured; where no candidate met the bound, it says by how much.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from secateur.core.budget import Budget
from secateur.core.depth import LAYERS
from secateur.core.graph import Graph
from secateur.core.latency import FS_PER_MS, METRIC, TimeModel, fitted
from secateur.core.plan import Plan
from secateur.errors import ConfigError, Infeasible, PlanError
from secateur.modes.result import Latency
from secateur.modes.rounds import Outcome
from secateur.progress import Tell
from secateur.search.limits import Limits, restrict
from secateur.torch.evaluating.stopwatch import Stopwatch

WORD = "latency_ms"
_SAMPLES = 16  # random networks that the model of time is fitted to
_MULTIPLES, _AS_GOOD = (1, 4, 8, 16, 32), 1.05
_ATTEMPTS = 5
_CLOSE = 0.95  # of the bound: nearer is not searched for
_LARGEST_STEP = 1.3  # by which the predicted bound is raised at once

Search = Callable[[Graph, Budget], Outcome]


@dataclass(frozen=True, slots=True)
class TimeBound:
    """A bound in milliseconds, with what predicts and what measures: ``counts`` are the networks whose ``times_ms`` are known."""

    most_ms: float
    model: TimeModel
    stopwatch: Stopwatch
    counts: Sequence[Mapping[str, int]]
    times_ms: Sequence[float]

    @classmethod
    def of(cls, given: object, graph: Graph, limits: Limits, stopwatch: Stopwatch, tell: Tell) -> TimeBound:
        """Read ``12.0`` (milliseconds) or ``"60%"`` (of the whole), and fit the model of time.

        Raises ConfigError for what is neither.
        """
        most = _read(given, stopwatch.whole_ms)
        space = restrict(graph, limits)
        counts: list[Mapping[str, int]] = [graph.full()]
        times = [stopwatch.whole_ms]
        plans = _at_random_times(random_plans(space, _SAMPLES), 2 if stopwatch.target == "eager" else 1)
        for number, plan in enumerate(plans):
            tell(0.1 * number / len(plans), f"timing network {number + 1} of {len(plans)}")
            counts.append(plan.sizes)
            times.append(stopwatch(plan))
        return cls(most, fitted(graph, counts, times), stopwatch, counts, times)

    def met(self, graph: Graph, others: Mapping[str, Any], search: Search) -> tuple[Outcome, Latency]:
        """The outcome of a search under the bound, measured, and corrected where that is not met or far below.

        Raises Infeasible where the smallest network is predicted to take longer.
        """
        timed, bound = self.model(graph), self.most_ms * FS_PER_MS
        tried: list[tuple[float, float, Outcome]] = []
        for _ in range(_ATTEMPTS):
            try:
                outcome = search(timed, Budget.of({**others, METRIC: max(math.floor(bound), 1)}, timed))
            except Infeasible as error:
                if error.metric == METRIC and not tried:
                    raise self._out_of_reach(error) from None
                if not tried:
                    raise
                break
            measured = self.stopwatch(outcome.plan)
            predicted = float(timed.cost(METRIC, outcome.plan.sizes)) / FS_PER_MS
            tried.append((measured, predicted, outcome))
            if _CLOSE * self.most_ms <= measured <= self.most_ms or outcome.plan.sizes == graph.full():
                break
            # a search finds where the prediction is wrong, and cuts there: what it found corrects the prediction
            timed = self._refitted(graph, tried)(graph)
            now = float(timed.cost(METRIC, outcome.plan.sizes))
            step = self.most_ms / measured * (0.98 if measured > self.most_ms else 1.0)
            bound = now * min(step, _LARGEST_STEP)
        return self._best(tried)

    def _refitted(self, graph: Graph, tried: Sequence[tuple[float, float, Outcome]]) -> TimeModel:
        counts = [*self.counts, *(outcome.plan.sizes for _, _, outcome in tried)]
        return fitted(graph, counts, [*self.times_ms, *(measured for measured, _, _ in tried)], sure=len(tried))

    def _best(self, tried: list[tuple[float, float, Outcome]]) -> tuple[Outcome, Latency]:
        """The slowest that meets the bound: it gave up least. Else the fastest, with a warning."""
        within = [each for each in tried if each[0] <= self.most_ms]
        measured, predicted, outcome = max(within, key=_time) if within else min(tried, key=_time)
        if not within:
            warnings.warn(
                f"{WORD} ≤ {self.most_ms:.3g} is missed by {measured / self.most_ms - 1:.1%}: {measured:.3g} ms as measured, "
                f"{predicted:.3g} ms as predicted, after {len(tried)} corrections. Below some width, time no longer falls",
                stacklevel=6,
            )
        found = Latency(
            before_ms=self.stopwatch.whole_ms, after_ms=measured, most_ms=self.most_ms, predicted_ms=predicted,
            error=self.model.error, attempts=len(tried), target=self.stopwatch.target,
        )  # fmt: skip
        return outcome, found

    def _out_of_reach(self, error: Infeasible) -> Infeasible:
        reachable = error.reachable / FS_PER_MS
        return Infeasible(
            f"cannot reach {WORD} ≤ {self.most_ms:.3g}: the smallest network in the search space is predicted to take "
            f"{reachable:.3g} ms, the whole takes {self.stopwatch.whole_ms:.3g} ms. Raise the bound, or free more widths",
            metric=WORD, bound=self.most_ms, reachable=reachable,
        )  # fmt: skip


def fastest_multiple(graph: Graph, stopwatch: Stopwatch, tell: Tell) -> int:
    """The multiple at which widths take least time for their MACs; the smallest of those that are as good."""
    rates: dict[int, float] = {}
    for number, multiple in enumerate(_MULTIPLES):
        tell(0.1 * number / len(_MULTIPLES), f"timing multiples of {multiple}")
        plans = [_stepped(graph, multiple, share) for share in (0.45, 0.6, 0.75)]
        rates[multiple] = median(stopwatch(plan) / float(graph.cost("macs", plan.sizes)) for plan in plans)
    return next(multiple for multiple in _MULTIPLES if rates[multiple] <= _AS_GOOD * min(rates.values()))


def _stepped(graph: Graph, multiple: int, share: float) -> Plan:
    """About this share of every width, in multiples; odd counts for multiples of one, that none be hit by chance."""
    kept: dict[str, object] = {}
    for width in restrict(graph, Limits(multiple_of=multiple)).configurable:
        if width.kind == LAYERS:
            continue  # a block stays: its units are what is stepped
        choices = [count for count in width.choices if multiple > 1 or count % 2] or list(width.choices)
        kept[width.name] = np.arange(min(choices, key=lambda count, want=share * width.size: abs(count - want)))
    return graph.plan(kept)


def _time(entry: tuple[float, float, Outcome]) -> float:
    return entry[0]


def _read(given: object, whole_ms: float) -> float:
    if isinstance(given, str) and given.strip().endswith("%"):
        try:
            share = float(given.strip()[:-1]) / 100
        except ValueError:
            share = -1.0
        if not 0 < share <= 1:
            raise ConfigError(
                f"{WORD}: {given!r} is no share of the network's time; write more than 0% and at most 100%"
            )
        return share * whole_ms
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
        raise ConfigError(f"{WORD}: a bound is a number of milliseconds or a share such as '60%', not {given!r}")
    return float(given)


def _at_random_times(plans: Sequence[Plan], rounds: int) -> list[Plan]:
    """So many rounds, each in an order of its own: what a machine does for some seconds falls on no kind of network alone.

    (One round where each timing compiles or exports a network.)
    """
    drawn = np.random.default_rng(0)
    return [plans[number] for _ in range(rounds) for number in drawn.permutation(len(plans))]


def random_plans(space: Graph, samples: int, seed: int = 0) -> list[Plan]:
    """Plans from narrow to nearly whole, each with its own counts everywhere; the same ones each time."""
    drawn = np.random.default_rng(seed)
    plans: list[Plan] = []
    for number in range(samples * 4):
        share = 0.1 + 0.9 * (number % samples) / samples
        kept: dict[str, object] = {}
        for width in space.configurable:
            wanted = width.size * min(share * drawn.uniform(0.6, 1.4), 1.0)
            kept[width.name] = np.arange(min(width.choices, key=lambda count, want=wanted: abs(count - want)))
        try:
            plans.append(space.plan(kept))
        except PlanError:  # sizes that the code must be able to tell apart
            continue
        if len(plans) == samples:
            break
    return plans
