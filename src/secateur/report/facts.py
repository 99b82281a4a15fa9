"""What a report says in words and tables, computed from measurements.

    Facts((before, after)).verdict  ->  "−40% MACs, −58% parameters, accuracy 98.5% → 97.4% (inside what 540 samples tell) …"

The first measurement is what the others are compared with; the last is the result.

Invariant: facts hold nothing that was not measured, and say so where something was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

from secateur.core.measurement import Measurement, MetricValue, Timing
from secateur.core.record import Event, Pruning
from secateur.core.show import label
from secateur.core.text import human, visible

_SHARES = ("accuracy", "top5_accuracy")  # shown in per cent


@dataclass(frozen=True)
class Facts:
    """A view on measurements for the templates."""

    measurements: tuple[Measurement, ...]

    @property
    def before(self) -> Measurement:
        """What the others are compared with."""
        return self.measurements[0]

    @property
    def after(self) -> Measurement:
        """The result."""
        return self.measurements[-1]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each, no two alike."""
        given = [visible(m.name) for m in self.measurements]
        return tuple(n if given.count(n) == 1 else f"{n} ({i})" for i, n in enumerate(given, start=1))

    @cached_property
    def metric(self) -> str | None:
        """The first metric that all have."""
        shared = [name for name in self.before.quality if all(name in m.quality for m in self.measurements)]
        return shared[0] if shared else None

    @cached_property
    def prunings(self) -> tuple[Pruning, ...]:
        """What was done on the way to the result."""
        return self.after.origin.prunings if self.after.origin is not None else ()

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened on the way to the result, and when."""
        return self.after.origin.events if self.after.origin is not None else ()

    @property
    def interruptions(self) -> int:
        """How often a stage was begun again."""
        return sum(event.what == "begun" and bool(event.detail) for event in self.events)

    @property
    def scenario(self) -> str | None:
        """The scenario as text."""
        return self.after.origin.scenario if self.after.origin is not None else None

    @cached_property
    def verdict(self) -> str:
        """The result in a line."""
        if len(self.measurements) == 1:
            return f"{self.names[0]}: {', '.join(self._alone())}. Give a second measurement to compare it with."
        told = [self._cost(metric) for metric in ("macs", "params") if metric in self.before.costs]
        told += [self._quality()] if self.metric is not None else ["no quality that both were measured on"]
        told += [self._speed()] if self._pair_of_times() is not None else []
        return "; ".join([*filter(None, told), self._proof()]) + "."

    def _alone(self) -> Iterator[str]:
        for metric in ("macs", "params"):
            if metric in self.before.costs:
                yield f"{human(self.before.costs[metric])} {label(metric)}"
        for name, found in self.before.quality.items():
            yield f"{name} {shown(name, found.value)}"

    def _cost(self, metric: str) -> str:
        was, becomes = self.before.costs[metric], self.after.costs.get(metric, 0)
        return f"{change(was, becomes)} {label(metric)}"

    def _quality(self) -> str:
        assert self.metric is not None
        was, becomes = self.before.quality[self.metric], self.after.quality[self.metric]
        told = f"{self.metric} {shown(self.metric, was.value)} → {shown(self.metric, becomes.value)}"
        return f"{told} ({apart(was, becomes)})"

    def _pair_of_times(self) -> tuple[Timing, Timing] | None:
        for timing in self.before.times:
            for other in self.after.times:
                if timing.batch_size == other.batch_size:
                    return timing, other
        return None

    def _speed(self) -> str:
        pair = self._pair_of_times()
        assert pair is not None
        was, becomes = pair
        if self.before.surroundings.device != self.after.surroundings.device:
            return "times were taken on different devices and are not compared"
        where = f"at a batch of {was.batch_size} on {visible(self.after.surroundings.device)}"
        if _within(was, becomes) and _within(becomes, was):
            return f"no clear difference in time {where}"
        ratio = was.median_ms / becomes.median_ms
        word = f"{ratio:.2f}× as fast" if ratio >= 1 else f"{1 / ratio:.2f}× slower"
        return f"{word} {where}"

    def _proof(self) -> str:
        if not self.prunings:
            return "no record of how it was made"
        wrong = [p for p in self.prunings if not p.verified]
        return "narrowed = masked was verified each time" if not wrong else f"{len(wrong)} prunings were not verified"

    @cached_property
    def table(self) -> list[list[str]]:
        """A row for each figure, a column for each measurement, with its change against the first."""
        rows = [[label(metric), *self._row(metric)] for metric in self.before.costs]
        rows.append(["size on disk", *(self._bytes(m) for m in self.measurements)])
        for metric in dict.fromkeys(name for m in self.measurements for name in m.quality):
            rows.append([metric, *(with_interval(metric, m.quality.get(metric)) for m in self.measurements)])
        sizes = sorted({t.batch_size for m in self.measurements for t in m.times})
        for size in sizes:
            rows.append([f"time, batch of {size}", *(self._time(m, size) for m in self.measurements)])
        memory = [max(m.resources.memory_bytes, default=0) for m in self.measurements]
        rows.append(["memory of the process, highest", *(f"{human(n)}B" if n else "not measured" for n in memory)])
        return rows

    def _row(self, metric: str) -> Iterator[str]:
        for number, each in enumerate(self.measurements):
            value = each.costs.get(metric)
            if value is None:
                yield "not measured"
            else:
                yield human(value) + (f" ({change(self.before.costs[metric], value)})" if number else "")

    def _bytes(self, m: Measurement) -> str:
        told = f"{human(m.size_bytes)}B"
        return told if m is self.before else f"{told} ({change(self.before.size_bytes, m.size_bytes)})"

    def _time(self, m: Measurement, size: int) -> str:
        timing = next((t for t in m.times if t.batch_size == size), None)
        if timing is None:
            return "not measured"
        low, high = timing.spread_ms
        return f"{timing.median_ms:.3g} ms ({low:.3g} to {high:.3g})"

    @cached_property
    def frozen(self) -> list[tuple[str, str]]:
        """What was kept whole, and why, in any of the prunings."""
        return sorted({(name, reason) for p in self.prunings for name, reason in p.frozen.items()})

    @cached_property
    def notes(self) -> list[str]:
        """What the traces noted."""
        return list(dict.fromkeys(note for p in self.prunings for note in p.notes))

    @cached_property
    def not_compared(self) -> list[str]:
        """Widths that were narrowed and are another function by design."""
        return list(dict.fromkeys(name for p in self.prunings for name in p.not_compared))

    @cached_property
    def versions(self) -> list[list[str]]:
        """Packages, and their version in each measurement."""
        packages = dict.fromkeys(name for m in self.measurements for name in m.surroundings.versions)
        return [[name, *(m.surroundings.versions.get(name, "–") for m in self.measurements)] for name in packages]

    @cached_property
    def wrong_pairs(self) -> list[tuple[str, list[tuple[str, str, int]]]]:
        """For each measurement the ten confusions that are commonest."""
        return [(name, _confusions(m)) for name, m in zip(self.names, self.measurements, strict=True) if m.confusion]


def _confusions(m: Measurement) -> list[tuple[str, str, int]]:
    classes = [name or str(i) for i, (name, _) in enumerate(zip_longest(m.classes, m.confusion))]
    pairs = [
        (classes[true], classes[said], count)
        for true, row in enumerate(m.confusion)
        for said, count in enumerate(row)
        if true != said and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:10]


def _within(one: Timing, other: Timing) -> bool:
    """Whether the middle run of one is among the usual runs of the other."""
    low, high = other.spread_ms
    return low <= one.median_ms <= high


def change(was: float, becomes: float) -> str:
    """The change in per cent, with its sign: −40%, +3.1%, ±0%."""
    if was == becomes:
        return "±0%"
    if not was:
        return "new"
    percent = 100 * (becomes - was) / was
    return f"{'+' if percent > 0 else '−'}{abs(percent):.3g}%"


def shown(metric: str, value: float) -> str:
    """A quality as people read it."""
    return f"{100 * value:.1f}%" if metric in _SHARES else f"{value:.4g}"


def with_interval(metric: str, found: MetricValue | None) -> str:
    """A quality with its 95 % confidence interval."""
    if found is None:
        return "not measured"
    low, high = shown(metric, found.low), shown(metric, found.high)
    return f"{shown(metric, found.value)} ({low} to {high}, {found.num_samples:,} samples)"


def apart(was: MetricValue, becomes: MetricValue) -> str:
    """Whether two qualities can be told apart by the samples there are."""
    if was.low <= becomes.value <= was.high and becomes.low <= was.value <= becomes.high:
        return f"inside what {becomes.num_samples:,} samples can tell"
    better = (becomes.value > was.value) == becomes.higher_is_better
    return "better than before" if better else "worse than before"


def rows_of(table: Mapping[str, object]) -> list[list[str]]:
    """A mapping as rows of text."""
    return [[visible(key), visible(value)] for key, value in table.items()]
