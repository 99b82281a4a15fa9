"""The figures of one pruning: widths, layers, scores, sensitivity, compensation.

Invariant: a figure without rows has nothing to draw, and is left out of the report.
"""

from __future__ import annotations

from secateur.core.json import Json
from secateur.core.record import Pruning
from secateur.core.text import visible
from secateur.report.drawing import DASHES, MOST_BARS, PALETTE, Figure, Trace, axes, bar, bars, marker, safe


def of_pruning(pruning: Pruning, number: int) -> list[Figure]:
    """All of them, in the order of the report."""
    return [each(pruning, number) for each in (widths, layers, scores, sensitivity, compensation)]


def widths(pruning: Pruning, number: int) -> Figure:
    """Units of every width, before and after."""
    changed = [w for w in pruning.widths if w.becomes != w.was]
    drawn = changed[:MOST_BARS]
    names = [w.name for w in drawn]
    return Figure(
        name=f"widths_{number}",
        title=f"pruning {number} ({visible(pruning.mode)}): widths",
        caption=f"{len(changed)} of {len(pruning.widths)} free widths got narrower"
        + (f"; the first {MOST_BARS} are drawn, all are in the table." if len(changed) > MOST_BARS else "."),
        traces=[bar("was", names, [w.was for w in drawn], 7), bar("becomes", names, [w.becomes for w in drawn], 0)],
        layout=bars(len(names), "units"),
        columns=("width", "kind", "was", "becomes", "kept"),
        rows=[
            (visible(w.name), w.kind, str(w.was), str(w.becomes), f"{w.becomes / w.was:.0%}") for w in pruning.widths
        ],
    )


def layers(pruning: Pruning, number: int) -> Figure:
    """MACs and parameters of every module, before and after."""
    dear = sorted((la for la in pruning.layers if la.macs[0]), key=lambda layer: -layer.macs[0])[:MOST_BARS]
    names = [layer.name or "(the model itself)" for layer in dear]
    return Figure(
        name=f"layers_{number}",
        title=f"pruning {number} ({visible(pruning.mode)}): MACs by layer",
        caption="Each module's own share; the dearest first. Those without any are in the table.",
        traces=[
            bar("was", names, [la.macs[0] for la in dear], 7),
            bar("becomes", names, [la.macs[1] for la in dear], 0),
        ],
        layout=bars(len(names), "MACs"),
        columns=("layer", "MACs was", "becomes", "parameters was", "becomes "),
        rows=[
            (
                visible(la.name) or "(the model itself)",
                f"{la.macs[0]:,}",
                f"{la.macs[1]:,}",
                f"{la.params[0]:,}",
                f"{la.params[1]:,}",
            )
            for la in pruning.layers
        ],
    )


def scores(pruning: Pruning, number: int) -> Figure:
    """The scores of units, those that stay and those that go."""
    known = [w for w in pruning.widths if w.scores and w.becomes < w.was]
    kept = [(w.name, s) for w in known for i, s in enumerate(w.scores) if i in set(w.kept)]
    gone = [(w.name, s) for w in known for i, s in enumerate(w.scores) if i not in set(w.kept)]

    def cloud(title: str, points: list[tuple[str, float]], i: int, symbol: str) -> Trace:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": title,
            "y": [safe(name) for name, _ in points],
            "x": [score for _, score in points],
            "marker": {"color": PALETTE[i], "symbol": symbol, "size": 7, "opacity": 0.7},
        }

    return Figure(
        name=f"scores_{number}",
        title=f"pruning {number} ({visible(pruning.mode)}): scores and the cut",
        caption="A mark a unit, by its score before anything was removed. Where a search looks again after each round, units may "
        "stay that scored low at first.",
        traces=[cloud("stays", kept, 0, "circle"), cloud("goes", gone, 1, "x")],
        layout=bars(len(known), "score") | {"xaxis": {"title": {"text": "score"}, "type": "log"}},
        columns=("width", "least kept", "highest removed", "median"),
        rows=[
            (
                visible(w.name),
                f"{min(w.scores[i] for i in w.kept):.3g}",
                f"{max(s for i, s in enumerate(w.scores) if i not in set(w.kept)):.3g}",
                f"{sorted(w.scores)[len(w.scores) // 2]:.3g}",
            )
            for w in known
        ],
    )


def sensitivity(pruning: Pruning, number: int) -> Figure:
    """What narrowing each width alone costs."""
    curves = _curves(pruning)
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": safe(name),
            "x": [100 * n / max(curve) for n in sorted(curve)],
            "y": [curve[n] for n in sorted(curve)],
            "marker": {**marker(i), "size": 5},
            "line": {"dash": DASHES[i // len(PALETTE) % len(DASHES)], "color": PALETTE[i % len(PALETTE)]},
        }
        for i, (name, curve) in enumerate(curves.items())
    ]
    return Figure(
        name=f"sensitivity_{number}",
        title=f"pruning {number} ({visible(pruning.mode)}): sensitivity",
        caption="The loss that goes with each width at each count, the others whole, as the search saw it.",
        traces=traces,
        layout=axes("units kept, %", "loss"),
        columns=("width", "kept: loss"),
        rows=[(visible(n), ", ".join(f"{k}: {c[k]:.3g}" for k in sorted(c))) for n, c in curves.items()],
    )


def _curves(pruning: Pruning) -> dict[str, dict[int, float]]:
    rounds = pruning.evidence.get("rounds")
    last = rounds[-1] if isinstance(rounds, list) and rounds else pruning.evidence
    found = last.get("curves") if isinstance(last, dict) else None
    if not isinstance(found, dict):
        return {}
    return {
        name: {int(n): float(loss) for n, loss in curve.items() if isinstance(loss, int | float)}
        for name, curve in found.items()
        if isinstance(curve, dict) and curve
    }


def compensation(pruning: Pruning, number: int) -> Figure:
    """How well each layer gives back what it gave: on the samples that it was fitted to, and on others."""
    layers = (pruning.compensation or {}).get("layers")
    known = [la for la in layers if isinstance(la, dict)] if isinstance(layers, list) else []
    names = [str(la["name"]) for la in known]
    before, fitted = ([_number(la.get(key)) for la in known] for key in ("before", "fitted"))
    held = [
        _number(la["held_out"].get(str(la["option"]))) if isinstance(la["held_out"], dict) else None for la in known
    ]
    given = (("not compensated", before, 7), ("fitted", fitted, 0), ("held out", held, 1))
    return Figure(
        name=f"compensation_{number}",
        title=f"pruning {number} ({visible(pruning.mode)}): compensation",
        caption="Error relative to what the layer gave in the whole network, on the samples that it was fitted to and on others.",
        traces=[bar(title, names, [v or 0.0 for v in values], i) for title, values, i in given],
        layout=bars(len(names), "relative error"),
        columns=("layer", "option", "not compensated", "fitted", "held out"),
        rows=[
            (visible(name), str(la.get("option")), *("–" if v is None else f"{v:.3g}" for v in values))
            for name, la, *values in zip(names, known, before, fitted, held, strict=True)
        ],
    )


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) else None
