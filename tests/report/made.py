"""Measurements with everything in them, made by hand."""

from __future__ import annotations

from secateur.core.measurement import Measurement, MetricValue, Resources, Surroundings, Timing
from secateur.core.record import Event, LayerChange, Origin, Pruning, WidthChange

PRUNING = Pruning(
    mode="fastnas",
    constraints={"macs": "50%"},
    before={"macs": 1000, "params": 200},
    after={"macs": 500, "params": 90},
    widths=(
        WidthChange(
            name="conv1.out_channels", kind="channels", was=4, becomes=2, scores=(0.1, 3.0, 0.2, 4.0), kept=(1, 3)
        ),
        WidthChange(name="conv2.out_channels", kind="channels", was=8, becomes=8),
    ),
    layers=(
        LayerChange(name="conv1", macs=(600, 300), params=(80, 40)),
        LayerChange(name="", macs=(400, 200), params=(0, 0)),
    ),
    frozen={"head.out_features": "the model's output"},
    notes=("a note of the trace",),
    not_compared=("norm.features",),
    verified=True,
    verification="verified: narrowed = masked on 2 exact widths",
    evidence={
        "curves": {"conv1.out_channels": {"1": 0.5, "2": 0.1, "4": 0.0}},
        "candidates": [{"index": 0, "score": 0.9, "macs": 480, "name": "largest"}],
        "rounds": [],
    },
    compensation={
        "layers": [{"name": "conv2.weight", "option": "full", "before": 0.5, "fitted": 0.1, "held_out": {"full": 0.2}}]
    },
)


def measurement(
    name: str, *, value: float = 0.9, macs: int = 1000, times: float = 0.002, pruned: bool = False
) -> Measurement:
    events = (
        Event(at="2026-01-01T00:00:00", stage="prune-1", what="begun"),
        Event(at="2026-01-01T00:00:01", stage="prune-1", what="begun", detail="again, after an interruption"),
        Event(at="2026-01-01T00:00:02", stage="prune-1", what="done", seconds=1.5),
    )
    origin = Origin(
        scenario='{"name": "x"}',
        events=events,
        prunings=(PRUNING,),
        training=({"losses": [2.0, 1.0], "scores": [0.5, 0.8]},),
    )
    return Measurement(
        name=name,
        costs={"macs": macs, "params": macs // 5},
        size_bytes=4 * macs,
        quality={"accuracy": MetricValue(value=value, low=value - 0.02, high=value + 0.02, num_samples=500)},
        classes=("cat", "dog"),
        confusion=((240, 10), (20, 230)),
        times=(Timing(batch_size=1, seconds=(times, times * 1.1, times * 1.3), num_warmup=2),),
        layer_ms={"conv1": 0.5, "conv2": 0.25},
        resources=Resources(seconds=(0.0, 0.1), cpu_percent=(50.0, 90.0), memory_bytes=(10**8, 2 * 10**8)),
        surroundings=Surroundings(
            device="cpu (x)",
            num_threads=1,
            system="s",
            versions={"torch": "2"},
            command=("secateur",),
            made_at="now",
            seed=1,
        ),
        plan_id="ab12" if pruned else None,
        origin=origin if pruned else None,
    )


BEFORE = measurement("whole")
AFTER = measurement("small", value=0.89, macs=500, times=0.001, pruned=True)
