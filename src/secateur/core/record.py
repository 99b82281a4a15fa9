"""What one pruning did, as data that stands beside a measurement and outlives the objects it came from.

    Pruning(mode="progressive", widths=(WidthChange(name="conv1.out_channels", was=64, becomes=40), …), evidence={…})

Invariant: a record is data; it compares by value, and nothing in it holds a model.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Strict(BaseModel):
    """Frozen, strict, finite: what measurements are made of."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class WidthChange(Strict):
    """One width: what it was and what it becomes; the ``scores`` of its units, and which were ``kept``, where it is known."""

    name: str
    kind: str
    was: int
    becomes: int
    scores: tuple[float, ...] = ()
    kept: tuple[int, ...] = ()


class LayerChange(Strict):
    """One module's share of the multiply-accumulates and of the parameters, before and after."""

    name: str
    macs: tuple[int, int]
    params: tuple[int, int]


class Pruning(Strict):
    """One pruning: what was asked, what was done, what was seen, and how it was proved."""

    mode: str
    constraints: dict[str, JsonValue] = Field(default_factory=dict)
    options: dict[str, JsonValue] = Field(default_factory=dict)
    before: dict[str, int]
    after: dict[str, int]
    widths: tuple[WidthChange, ...]
    layers: tuple[LayerChange, ...] = ()
    frozen: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()
    verified: bool
    verification: str
    seconds: dict[str, float] = Field(default_factory=dict)
    evidence: dict[str, JsonValue] = Field(default_factory=dict)
    compensation: dict[str, JsonValue] | None = None


class Event(Strict):
    """Something that happened to a run: a stage begun, ended, found done, or gone on with after an interruption."""

    at: str  # ISO 8601, UTC
    stage: str
    what: str
    seconds: float | None = None
    detail: str = ""


class Origin(Strict):
    """The run that a measurement comes from: its scenario as text, and what happened."""

    scenario: str
    events: tuple[Event, ...] = ()
    prunings: tuple[Pruning, ...] = ()
    training: tuple[dict[str, JsonValue], ...] = ()
