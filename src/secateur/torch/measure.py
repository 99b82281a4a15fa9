"""`measure`: what a network costs, how good it is, how long it takes, on this machine.

    measure(model, loader, ("accuracy",), dummy_input=x)   ->   Measurement: print it, keep it as JSON, report it

Invariant: the model is left as it was, training flags and random state included.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from torch import nn
from torch.utils.benchmark import Timer

from secateur.core.given import check_given
from secateur.core.measurement import Measurement, MetricValue, Surroundings, Timing
from secateur.core.plan import digest_of
from secateur.errors import InputError
from secateur.torch.apply import plans_of
from secateur.torch.evaluating.layer_times import layer_times
from secateur.torch.evaluating.metrics import IGNORED, METRICS, Metric, classes_of, quality
from secateur.torch.evaluating.resources import sampled
from secateur.torch.running.data import Data
from secateur.torch.running.example import Example, batch_size
from secateur.torch.running.explaining import data_explained
from secateur.torch.running.randomness import seeded
from secateur.torch.running.restoring import left_as_found, named_tensors
from secateur.torch.running.walking import parameters_of
from secateur.torch.trace import trace
from secateur.version import installed_version

_PACKAGES = ("secateur", "torch", "numpy", "transformers", "timm", "torchvision", "onnxruntime")
_MOST_CLASSES = 1000  # of a confusion matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How times are taken: ``num_runs`` forward passes after ``num_warmup``, for each batch size.

    ``batch_sizes`` of None is that of ``dummy_input``; others repeat its first sample.
    """

    batch_sizes: Sequence[int] | None = None
    num_runs: int = 50
    num_warmup: int = 5


def measure(
    model: nn.Module,
    data: Iterable[object] | Data | None = None,
    metrics: Sequence[str] | Mapping[str, Metric] = ("accuracy",),
    *,
    dummy_input: object = None,
    name: str | None = None,
    timings: Timings | None = None,
) -> Measurement:
    """Measure a model: quality on ``data``; costs and times on ``dummy_input`` (its first batch by default).

    ``metrics`` are names ("accuracy", "top5_accuracy", "cross_entropy", "perplexity"), or your own by name. Without ``data``
    there is no quality. Raises InputError for metrics that do not fit the data, TraceError where the model does not run.
    """
    named = _named(metrics)
    if name is not None:
        check_given("measure", "name", name, str)
    if timings is not None and not isinstance(timings, Timings):
        raise InputError(f"timings are Timings(batch_sizes=…, num_runs=…, num_warmup=…), not {timings!r:.60}")
    source = data if isinstance(data, Data) or data is None else Data(loader=data, num_batches=sys.maxsize)
    given = dummy_input if dummy_input is not None else _first(model, source)
    device = next((p.device for p in parameters_of(model)), torch.device("cpu"))
    plans = plans_of(model)
    with left_as_found(model), seeded(0), torch.no_grad(), sampled(device) as samples:
        model.eval()
        graph = trace(model, given, check=False)
        with data_explained(model, source):
            found, confusion = _quality(model, source, named) if source is not None else ({}, ())
        times = _times(Example.of(model, given), timings or Timings(), device)
        by_layer = layer_times(Example.of(model, given).beside_model())
    return Measurement(
        name=name or type(model).__name__,
        costs={metric: int(graph.cost(metric)) for metric in graph.costs},
        size_bytes=sum(
            t.numel() * t.element_size() for t in {id(t): t for t in named_tensors(model).values()}.values()
        ),
        quality=found,
        confusion=confusion,
        times=times,
        layer_ms=by_layer,
        resources=samples.resources(),
        surroundings=_surroundings(device),
        plan_id=digest_of(plans[-1])[:16] if plans else None,
    )


def _first(model: nn.Module, data: Data | None) -> object:
    if data is None:
        raise InputError("measure needs data, or a dummy_input to count and time on")
    return data.collect(next(iter(data.batches(model))))


def _named(metrics: Sequence[str] | Mapping[str, Metric]) -> dict[str, Metric]:
    if isinstance(metrics, str):
        raise InputError(f"metrics: write a list, [{metrics!r}]")
    named = dict(metrics) if isinstance(metrics, Mapping) else {name: METRICS[name] for name in metrics}
    for name, metric in named.items():
        if any(not hasattr(metric, part) for part in ("higher_is_better", "per_sample", "of_mean")):
            raise InputError(
                f"metrics: {name!r} is no metric: one has higher_is_better, per_sample(output, batch), which gives a number a "
                f"sample, and of_mean(mean); not {type(metric).__name__}"
            )
    return named


def _quality(
    model: nn.Module, data: Data, metrics: Mapping[str, Metric]
) -> tuple[dict[str, MetricValue], tuple[tuple[int, ...], ...]]:
    values: dict[str, list[torch.Tensor]] = {name: [] for name in metrics}
    counted: torch.Tensor | None = None
    for batch in data.batches(model):
        output = data.output(model, batch)
        for name, metric in metrics.items():
            values[name].append(metric.per_sample(output, batch).cpu())
        counted = _counted(counted, output, batch)
    found = {name: quality(metric, torch.cat(values[name])) for name, metric in metrics.items()}
    return found, tuple(map(tuple, counted.tolist())) if counted is not None else ()


def _counted(so_far: torch.Tensor | None, output: object, batch: object) -> torch.Tensor | None:
    """The confusion matrix, true class × predicted class, where the data are classes and there are not too many."""
    try:
        logits, labels = classes_of(output, batch)
    except InputError:
        return None
    classes = logits.shape[-1]
    if logits.dim() != 2 or classes > _MOST_CLASSES or (so_far is not None and len(so_far) != classes):
        return None
    counted = labels != IGNORED
    places = (labels * classes + logits.argmax(-1))[counted].cpu()
    counts = torch.bincount(places, minlength=classes * classes).view(classes, classes)
    return counts if so_far is None else so_far + counts


def _times(example: Example, timings: Timings, device: torch.device) -> tuple[Timing, ...]:
    placed = example.beside_model()
    found = []
    for size in timings.batch_sizes or (None,):
        batch = placed if size is None else placed.map(lambda t, n=size: t[:1].repeat(n, *[1] * (t.dim() - 1)))
        timer = Timer(
            "model(*args, **kwargs)",
            globals={"model": example.model, "args": batch.args, "kwargs": batch.kwargs},
            num_threads=torch.get_num_threads(),
        )
        for _ in range(timings.num_warmup):
            timer.timeit(1)
        seconds = tuple(timer.timeit(1).median for _ in range(timings.num_runs))
        found.append(Timing(batch_size=batch_size(batch), seconds=seconds, num_warmup=timings.num_warmup))
    return tuple(found)


def _surroundings(device: torch.device) -> Surroundings:
    installed = {package: shown for package in _PACKAGES if (shown := installed_version(package)) is not None}
    versions = {"python": platform.python_version(), **installed}
    shown = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return Surroundings(
        device=f"{device.type} ({shown})",
        num_threads=torch.get_num_threads(),
        system=platform.platform(),
        versions=versions,
        command=tuple(sys.argv),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=torch.initial_seed() % 2**63,
    )
