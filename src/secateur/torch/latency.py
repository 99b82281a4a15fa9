"""A bound on time: predicted while searching, measured before it is returned.

    whole, and some random networks, measured ──► a monotone model of time ──► search under it ──► the plan measured
                                                         ▲                                            │ above the bound,
                                                         └──── fitted to that plan as well ◄──────────┘ or far below it

The target is the model as it runs here: PyTorch, eager or compiled, on the device that it is on, or ONNX Runtime; with the
threads there are and the batch of the example.

Invariant: what is said of the result was measured; where no candidate met the bound, it says by how much.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Any, TypeVar

import numpy as np

from secateur.core.budget import LATENCY as WORD
from secateur.core.budget import Budget
from secateur.core.depth import LAYERS
from secateur.core.graph import Graph
from secateur.core.latency import FS_PER_MS, METRIC, TimeModel, fitted
from secateur.core.plan import Plan
from secateur.errors import ConfigError, Infeasible, InputError, PlanError
from secateur.modes.result import Latency
from secateur.modes.rounds import Outcome
from secateur.progress import Tell
from secateur.search.limits import Limits, restrict
from secateur.torch.evaluating.known_times import Clock

_SAMPLES = 16  # random networks that the model of time is fitted to
_MULTIPLES, _SHARES = (4, 8, 16, 32), (0.45, 0.6, 0.75)
_WORTH_IT = 1.1  # times what is saved at the counts around a multiple
_ATTEMPTS = 5
_CLOSE = 0.95  # of the bound: nearer is not searched for
_LARGEST_STEP = 1.3  # by which the predicted bound is raised at once

Search = Callable[[Graph, Budget], Outcome]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TimeBound:
    """A bound in milliseconds, with what predicts and what measures: ``counts`` are the networks whose ``times_ms`` are known."""

    most_ms: float
    model: TimeModel
    stopwatch: Clock
    counts: Sequence[Mapping[str, int]]
    times_ms: Sequence[float]

    @classmethod
    def of(
        cls, most: float, graph: Graph, limits: Limits, stopwatch: Clock, tell: Tell, known: Clock | None = None
    ) -> TimeBound:
        """A bound of so many milliseconds, with a model of time that is fitted to what these limits allow.

        ``known`` is asked for the times that are fitted to; the ``stopwatch``, which measures, for those of results.
        """
        space = restrict(graph, limits)
        counts: list[Mapping[str, int]] = [graph.full()]
        times = [stopwatch.whole_ms]
        plans = _at_random_times(random_plans(space, _SAMPLES), 2 if stopwatch.target == "eager" else 1)
        for number, plan in enumerate(plans):
            tell(0.1 * number / len(plans), f"timing network {number + 1} of {len(plans)}")
            counts.append(plan.sizes)
            times.append((known or stopwatch)(plan))
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
        """The slowest that meets the bound: it gave up least. Else the fastest."""
        within = [each for each in tried if each[0] <= self.most_ms]
        measured, predicted, outcome = max(within, key=_time) if within else min(tried, key=_time)
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


class Replayed(Iterable[_T]):
    """What an iterator gives, each made when it is first asked for; state, because it is kept for whoever asks again."""

    def __init__(self, given: Iterator[_T]) -> None:
        self._rest = given
        self._made: list[_T] = []

    def __iter__(self) -> Iterator[_T]:
        yield from self._made
        for one in self._rest:
            self._made.append(one)
            yield one


def warn_of_a_miss(latency: Latency) -> None:
    """Say by how much a bound is missed, as measured."""
    if latency.met:
        return
    warnings.warn(
        f"{WORD} ≤ {latency.most_ms:.3g} is missed by {latency.after_ms / latency.most_ms - 1:.1%}: {latency.after_ms:.3g} ms as "
        f"measured, {latency.predicted_ms:.3g} ms as predicted, after {latency.attempts} corrections. Below some width, time no "
        "longer falls",
        stacklevel=8,
    )


def fastest_multiple(graph: Graph, limits: Limits, stopwatch: Clock, tell: Tell) -> int:
    """The multiple at which narrowing saves more time for its MACs than at the counts around it; 1 if there is none."""
    found = 1
    for number, multiple in enumerate(_MULTIPLES):
        tell(0.1 * number / len(_MULTIPLES), f"timing multiples of {multiple}")
        gains: list[float] = []
        for at, around in _beside_multiples(graph, limits, multiple, found):
            saved = _saved(at, graph, stopwatch)
            if saved > 0:
                gains.append(saved / max(_saved(around, graph, stopwatch), 0.1 * saved))
        if gains and median(gains) >= _WORTH_IT:
            found = multiple
    return found


def _saved(plan: Plan, graph: Graph, stopwatch: Clock) -> float:
    """Milliseconds for each MAC that a plan takes."""
    taken = graph.macs - int(graph.cost("macs", plan.sizes))
    return (stopwatch.whole_ms - stopwatch(plan)) / taken if taken > 0 else 0.0


def _beside_multiples(graph: Graph, limits: Limits, multiple: int, step: int) -> Iterator[tuple[Plan, Plan]]:
    """Plans that narrow to odd multiples, which are none of the next larger, about some shares of what has such counts; each with
    one of as many units in all but a step more here and a step less there."""
    try:
        stepped = restrict(graph, limits.model_copy(update={"multiple_of": multiple})).configurable
    except InputError:  # other limits leave no such counts
        return
    free = {width.name: set(width.choices) for width in restrict(graph, limits).configurable}
    units = (width for width in stepped if width.kind != LAYERS)  # blocks stay
    odd = {width.name: [count for count in width.choices[:-1] if count % (2 * multiple)] for width in units}
    odd = {name: counts for name, counts in odd.items() if 0 < len(counts) < len(free[name]) - 1}
    for share in _SHARES if odd else ():
        at = {
            name: min(counts, key=lambda n, most=share * graph[name].size: abs(n - most))
            for name, counts in odd.items()
        }
        around = {
            name: next((c for c in (count + sign, count - sign) if c in free[name]), count)
            for (name, count), sign in zip(at.items(), cycle((step, -step)), strict=False)
        }
        with contextlib.suppress(PlanError):  # sizes that the code must be able to tell apart
            yield _first(graph, at), _first(graph, around)


def _first(graph: Graph, counts: Mapping[str, int]) -> Plan:
    return graph.plan({name: np.arange(count) for name, count in counts.items()})


def _time(entry: tuple[float, float, Outcome]) -> float:
    return entry[0]


def most_ms(given: object, whole_ms: float) -> float:
    """``12.0`` (milliseconds) or ``"60%"`` (of the whole). Raises ConfigError for what is neither."""
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
