"""The figures of a report, in its order: what was measured, what each pruning did, what it took.

Invariant: a figure is drawn where there is something to draw, and left out where there is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from secateur.core.json import Json
from secateur.core.measurement import Measurement
from secateur.core.record import Pruning
from secateur.core.text import human, visible
from secateur.report.drawing import DASHES, MOST_BARS, PALETTE, Figure, Trace, axes, bar, bars, marker, safe
from secateur.report.facts import Facts, shown
from secateur.report.pruning_figures import of_pruning


def figures_of(facts: Facts) -> list[Figure]:
    """All figures for which there is something to draw, in the order of the report."""
    return [figure for figure in _all(facts) if figure.rows]


def _all(facts: Facts) -> Iterator[Figure]:
    if facts.metric is not None:
        yield _pareto(facts, facts.metric)
        yield _bubbles(facts, facts.metric)
    yield _times(facts)
    yield _layer_times(facts)
    for number, pruning in enumerate(facts.prunings, start=1):
        yield from of_pruning(pruning, number)
    yield _training(facts)
    yield from _resources(facts)
    for number, (name, m) in enumerate(zip(facts.names, facts.measurements, strict=True), start=1):
        yield _confusion(name, m, number)


def _pareto(facts: Facts, metric: str) -> Figure:
    """Quality over MACs: what was measured, what the searches tried, and what none beats in both."""
    higher = facts.before.quality[metric].higher_is_better
    points = [
        (m.costs.get("macs", 0), m.quality[metric].value, name)
        for name, m in zip(facts.names, facts.measurements, strict=True)
    ]
    front = _front([(macs, value) for macs, value, _ in points], higher)
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "not beaten in both",
            "x": [p[0] for p in front],
            "y": [p[1] for p in front],
            "line": {"shape": "hv", "dash": "dot", "color": "#999999"},
            "hoverinfo": "skip",
        },
        *(_candidates(pruning, number) for number, pruning in enumerate(facts.prunings, start=1) if _tried(pruning)),
        *(
            {
                "type": "scatter",
                "mode": "markers",
                "name": safe(name),
                "x": [macs],
                "y": [value],
                "marker": {**marker(i), "size": 16 if i == len(points) - 1 else 11},
                "error_y": _interval(facts.measurements[i], metric),
            }
            for i, (macs, value, name) in enumerate(points)
        ),
    ]
    rows = [
        (name, f"{macs:,}", shown(metric, value), "yes" if (macs, value) in front else "no")
        for macs, value, name in points
    ]
    return Figure(
        name="pareto",
        title=f"{metric} against MACs",
        caption="Every measured network, with its 95 % confidence interval; the dotted line joins those that no other beats "
        "in both. The largest mark is the result.",
        traces=traces,
        layout=axes("MACs", safe(metric)),
        columns=("network", "MACs", metric, "on the front"),
        rows=rows,
    )


def _front(points: Sequence[tuple[float, float]], higher: bool) -> list[tuple[float, float]]:
    sign = 1 if higher else -1
    found: list[tuple[float, float]] = []
    for cost, value in sorted(set(points), key=lambda p: (p[0], -sign * p[1])):
        if not found or sign * value > sign * found[-1][1]:
            found.append((cost, value))
    return found


def _interval(m: Measurement, metric: str) -> Trace:
    found = m.quality[metric]
    return {
        "type": "data",
        "symmetric": False,
        "array": [found.high - found.value],
        "arrayminus": [found.value - found.low],
        "thickness": 1,
    }


def _tried(pruning: Pruning) -> list[Mapping[str, Json]]:
    found = pruning.evidence.get("candidates")
    return [c for c in found if isinstance(c, dict) and c.get("score") is not None] if isinstance(found, list) else []


def _candidates(pruning: Pruning, number: int) -> Trace:
    tried = _tried(pruning)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"tried in pruning {number} (its own score)",
        "x": [c["macs"] for c in tried],
        "y": [c["score"] for c in tried],
        "text": [safe(c.get("name") or f"candidate {c.get('index')}") for c in tried],
        "marker": {"color": "#999999", "symbol": "circle-open", "size": 7},
    }


def _bubbles(facts: Facts, metric: str) -> Figure:
    """Quality over time, as large as the network."""
    rows, traces = [], []
    largest = max(m.size_bytes for m in facts.measurements) or 1
    for i, (name, m) in enumerate(zip(facts.names, facts.measurements, strict=True)):
        if not m.times:
            continue
        time, value = m.times[0].median_ms, m.quality[metric].value
        rows.append((name, f"{time:.3g}", shown(metric, value), f"{human(m.size_bytes)}B"))
        size = max(60 * (m.size_bytes / largest) ** 0.5, 6)
        trace: Trace = {
            "type": "scatter",
            "mode": "markers",
            "name": safe(name),
            "x": [time],
            "y": [value],
            "text": [f"{human(m.size_bytes)}B"],
            "marker": {**marker(i), "symbol": "circle", "size": size, "opacity": 0.6, "line": {"width": 2}},
        }
        traces.append(trace)
    return Figure(
        name="bubbles",
        title="quality, time and size",
        caption="To the left is faster, the area is the size on disk.",
        traces=traces,
        layout=axes("ms for the first batch size measured", safe(metric)),
        columns=("network", "ms", metric, "size"),
        rows=rows,
    )


def _times(facts: Facts) -> Figure:
    """Every run of every measurement."""
    rows, traces = [], []
    for i, (name, m) in enumerate(zip(facts.names, facts.measurements, strict=True)):
        for timing in m.times:
            low, high = timing.spread_ms
            label = f"{name}, batch of {timing.batch_size}"
            rows.append((label, f"{timing.median_ms:.3g}", f"{low:.3g}", f"{high:.3g}", str(len(timing.seconds))))
            trace: Trace = {
                "type": "violin",
                "orientation": "h",
                "name": safe(label),
                "x": [1000 * s for s in timing.seconds],
                "box": {"visible": True},
                "spanmode": "hard",
                "meanline": {"visible": True},
                "points": False,
                "line": {"color": PALETTE[i % len(PALETTE)]},
                "showlegend": False,
            }
            traces.append(trace)
    return Figure(
        name="times",
        title="times of single runs",
        caption="One forward pass each, after a warm-up; the box is the middle half.",
        traces=traces,
        layout={
            "xaxis": {"title": {"text": "ms"}, "rangemode": "tozero"},
            "yaxis": {"autorange": "reversed"},
            "height": 140 + 70 * len(rows),
        },
        columns=("network", "median, ms", "5 %", "95 %", "runs"),
        rows=rows,
    )


def _layer_times(facts: Facts) -> Figure:
    """Time spent in each layer, before and after."""
    names = [name for name, _ in sorted(facts.before.layer_ms.items(), key=lambda pair: -pair[1])[:MOST_BARS]]
    rows, traces = [], []
    for i, (title, m) in enumerate(zip(facts.names, facts.measurements, strict=True)):
        if m.layer_ms:
            traces.append(bar(title, names, [m.layer_ms.get(name, 0.0) for name in names], i))
    for name in names:
        rows.append(
            (visible(name), *(f"{m.layer_ms[name]:.3g}" if name in m.layer_ms else "–" for m in facts.measurements))
        )
    return Figure(
        name="layer_times",
        title="time by layer",
        caption="Median milliseconds inside each layer on one sample, the slowest of the first network on top. Listening costs "
        "time, so they sum to a little more than a run takes.",
        traces=traces,
        layout=bars(len(names), "ms"),
        columns=("layer", *facts.names),
        rows=rows,
    )


def _training(facts: Facts) -> Figure:
    """Loss and score of each epoch."""
    trained = facts.after.origin.training if facts.after.origin is not None else ()
    rows, traces = [], []
    for number, each in enumerate(trained, start=1):
        for i, key in enumerate(("losses", "scores")):
            values = each.get(key)
            if not isinstance(values, list) or not values:
                continue
            title = f"training {number}: {('loss', 'validation score')[i]}"
            trace: Trace = {
                "type": "scatter",
                "mode": "lines+markers",
                "name": title,
                "x": list(range(1, len(values) + 1)),
                "y": values,
                "yaxis": ("y", "y2")[i],
                "marker": marker(number - 1),
                "line": {"dash": DASHES[i]},
            }
            traces.append(trace)
            rows.append((title, ", ".join(f"{v:.4g}" for v in values if isinstance(v, int | float))))
    second: Trace = {"title": {"text": "score"}, "overlaying": "y", "side": "right"}
    return Figure(
        name="training",
        title="training",
        caption="Mean loss of each epoch, and the score on the validation part after it.",
        traces=traces,
        layout=axes("epoch", "loss") | {"yaxis2": second},
        columns=("training", "by epoch"),
        rows=rows,
    )


def _resources(facts: Facts) -> Iterator[Figure]:
    """CPU, memory and GPU while measuring."""
    kinds = (
        ("cpu_percent", "CPU", "% of one core", 1.0),
        ("memory_bytes", "memory of the process", "MB", 1e-6),
        ("gpu_percent", "GPU", "%", 1.0),
        ("gpu_memory_bytes", "GPU memory", "MB", 1e-6),
    )
    for key, title, unit, scale in kinds:
        rows, traces = [], []
        for i, (name, m) in enumerate(zip(facts.names, facts.measurements, strict=True)):
            values = [scale * v for v in getattr(m.resources, key)]
            if not values:
                continue
            trace: Trace = {
                "type": "scatter",
                "mode": "lines",
                "name": safe(name),
                "x": list(m.resources.seconds),
                "y": values,
                "line": {"color": PALETTE[i % len(PALETTE)], "dash": DASHES[i % len(DASHES)]},
            }
            traces.append(trace)
            rows.append((name, f"{sum(values) / len(values):.4g}", f"{max(values):.4g}", str(len(values))))
        yield Figure(
            name=key,
            title=f"{title} over time",
            caption="Sampled while measuring, quality and times together.",
            traces=traces,
            layout=axes("s", unit),
            columns=("network", f"mean, {unit}", "highest", "samples"),
            rows=rows,
        )


def _confusion(name: str, m: Measurement, number: int) -> Figure:
    """True class against the class that was said."""
    classes = [safe(c) for c in m.classes] or [str(i) for i in range(len(m.confusion))]
    rows = []
    for i, row in enumerate(m.confusion):
        said = sum(line[i] for line in m.confusion)
        precision, recall = (f"{row[i] / total:.1%}" if total else "–" for total in (said, sum(row)))
        rows.append((visible(m.classes[i]) if m.classes else str(i), f"{sum(row):,}", precision, recall))
    return Figure(
        name=f"confusion_{number}",
        title=f"confusions of {visible(name)}",
        caption="Rows are the true classes, columns what was said; in the table, precision and recall of each class.",
        traces=[
            {
                "type": "heatmap",
                "z": [list(row) for row in m.confusion],
                "x": classes,
                "y": classes,
                "colorscale": "Cividis",
                "xgap": 1,
                "ygap": 1,
            }
        ],
        layout=axes("said", "true")
        | {
            "yaxis": {"title": {"text": "true"}, "autorange": "reversed", "type": "category"},
            "xaxis": {"title": {"text": "said"}, "type": "category"},
            "height": 520,
        },
        columns=("class", "samples", "precision", "recall"),
        rows=rows,
    )
