"""What was measured of a network: costs, size, quality with its uncertainty, times, resources, and where all this was.

    Measurement
    ├── costs, size_bytes           counted                       ├── resources     CPU, memory, GPU over time
    ├── quality {metric: MetricValue}   with a confidence interval    └── surroundings  versions, device, threads, command, seed
    ├── confusion                   true class × predicted class
    ├── times                       one Timing a batch size, every run kept
    └── origin                      the run it comes from: scenario, prunings, events (None where it is a single call)

Invariant: a measurement is data. It compares by value, and `from_json` gives back what `to_json` wrote.
"""

from __future__ import annotations

import json
from statistics import median, quantiles
from typing import Self

from pydantic import Field

from secateur.core.json.strict import check_version, fit_json, read_json
from secateur.core.record import Origin, Strict
from secateur.core.show import label, text_table
from secateur.core.text import human
from secateur.errors import ArtifactError

FORMAT_VERSION = 1


class MetricValue(Strict):
    """A metric on ``num_samples`` samples; it lies between ``low`` and ``high`` with 95 % confidence."""

    value: float
    low: float
    high: float
    num_samples: int
    higher_is_better: bool = True


class Timing(Strict):
    """Seconds of each run of one forward pass on a batch, after ``num_warmup`` runs that do not count."""

    batch_size: int
    seconds: tuple[float, ...]
    num_warmup: int

    @property
    def median_ms(self) -> float:
        """The middle run, in milliseconds."""
        return 1000 * median(self.seconds)

    @property
    def spread_ms(self) -> tuple[float, float]:
        """The 5th and the 95th percentile, in milliseconds."""
        if len(self.seconds) < 2:
            return self.median_ms, self.median_ms
        cuts = quantiles(self.seconds, n=20, method="inclusive")
        return 1000 * cuts[0], 1000 * cuts[-1]


class Resources(Strict):
    """Samples over time, ``seconds`` since the first: CPU in per cent of one core, memory of this process in bytes.

    GPU lists are empty where there is none, or none that can be asked.
    """

    seconds: tuple[float, ...] = ()
    cpu_percent: tuple[float, ...] = ()
    memory_bytes: tuple[int, ...] = ()
    gpu_percent: tuple[float, ...] = ()
    gpu_memory_bytes: tuple[int, ...] = ()


class Surroundings(Strict):
    """Where and how a measurement was made."""

    device: str
    num_threads: int
    system: str
    versions: dict[str, str]
    command: tuple[str, ...]
    made_at: str  # ISO 8601, UTC
    seed: int | None = None


class Measurement(Strict):
    """One network, measured. ``plan_id`` tells which plan made it, None for one that was never narrowed."""

    name: str
    costs: dict[str, int] = Field(default_factory=dict)
    size_bytes: int
    quality: dict[str, MetricValue] = Field(default_factory=dict)
    classes: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    times: tuple[Timing, ...] = ()
    layer_ms: dict[str, float] = Field(default_factory=dict)  # median of each layer on dummy_input
    resources: Resources = Field(default_factory=Resources)
    surroundings: Surroundings
    plan_id: str | None = None
    origin: Origin | None = None

    def to_json(self) -> str:
        """This measurement as JSON text."""
        return json.dumps({"format_version": FORMAT_VERSION, **self.model_dump(mode="json")}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """What `to_json` wrote. Raises ArtifactError, naming the place, for anything else."""
        what = "the measurement"
        data = check_version(read_json(text, what, ArtifactError), FORMAT_VERSION, what, ArtifactError)
        return fit_json(cls, {key: data[key] for key in data if key != "format_version"}, what, ArtifactError)

    def __str__(self) -> str:
        rows = [(label(metric), f"{human(value)}") for metric, value in self.costs.items()]
        rows.append(("size on disk", f"{human(self.size_bytes)}B"))
        for name, found in self.quality.items():
            rows.append(
                (name, f"{found.value:.4g}  ({found.low:.4g} to {found.high:.4g}, {found.num_samples:,} samples)")
            )
        for timing in self.times:
            low, high = timing.spread_ms
            rows.append(
                (f"time, batch of {timing.batch_size}", f"{timing.median_ms:.3g} ms  ({low:.3g} to {high:.3g} ms)")
            )
        if self.resources.memory_bytes:
            rows.append(("memory, highest", f"{human(max(self.resources.memory_bytes))}B"))
        return text_table(f"{self.name} on {self.surroundings.device}", ("", ""), rows)
