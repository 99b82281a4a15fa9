"""What pruning gave: the plan, what it saved, what its search saw, and how it was proved.

Invariant: a result is data; it prints as tables, and says what was left whole and what could not be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.show import plan_table
from secateur.core.verification import Verification
from secateur.modes.frontend import RefitReport
from secateur.search.evidence import Evidence, Quality, finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds of the whole network and of the narrowed one, as measured, beside the bound.

    ``predicted_ms`` is what the search believed; ``error`` is the largest relative one of the prediction on the networks that it
    was fitted to; the search was made ``attempts`` times. ``target`` is what it was measured on; ``multiple_of`` in which steps
    widths were narrowed: those that are fast there, where nobody said which.
    """

    before_ms: float
    after_ms: float
    most_ms: float
    predicted_ms: float
    error: float
    attempts: int
    target: str = "eager"
    multiple_of: int = 1

    @property
    def met(self) -> bool:
        """Whether the narrowed network was measured to be within the bound."""
        return self.after_ms <= self.most_ms

    def __str__(self) -> str:
        word = "within" if self.met else f"MISSES by {self.after_ms / self.most_ms - 1:.1%}"
        steps = f", in multiples of {self.multiple_of}" if self.multiple_of > 1 else ""
        return (
            f"latency ({self.target}): {self.before_ms:.3g} -> {self.after_ms:.3g} ms as measured, {word} the bound of "
            f"{self.most_ms:.3g} ms ({self.predicted_ms:.3g} ms predicted){steps}"
        )


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """What was pruned.

    ``before`` and ``after`` are the costs of the whole and of the narrowed network; ``frozen`` maps every width that could
    not be narrowed to the reason; ``evidence`` is what the search saw; ``verification`` compares the narrowed network with
    the masked one, before compensation changes weights; ``refitted`` names the weights that compensation changed,
    ``left_as_they_are`` those that it could not, with the reason; ``compensation`` says what was fitted and how well, on
    samples seen and not; ``seconds`` times each step; ``latency`` is there where time was bounded.
    """

    plan: Plan
    before: Mapping[str, int]
    after: Mapping[str, int]
    frozen: Mapping[str, str]
    evidence: Evidence
    verification: Verification
    refitted: tuple[str, ...] = ()
    left_as_they_are: Mapping[str, str] = field(default_factory=dict)
    compensation: RefitReport | None = field(default=None, compare=False, repr=False)
    history: Any = field(default=None, compare=False, repr=False)  # the front-end's own: which weight became which
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    latency: Latency | None = field(default=None, compare=False)

    @property
    def quality(self) -> Quality | None:
        """What the whole network, the narrowed and the compensated one are worth; None where there was nothing to tell by."""
        return self.evidence.quality

    @property
    def score(self) -> float | None:
        """What the network that came out is worth, higher is better: by ``score_func``, the loss or agreement; see `quality`."""
        return None if self.quality is None else self.quality.score

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the narrowed network."""
        return self.after["macs"]

    @property
    def params(self) -> int:
        """Parameters of the narrowed network."""
        return self.after["params"]

    def to_json(self) -> str:
        """All of it but tensors as JSON text; what is no finite number is null."""
        return json.dumps(self.as_dict(), allow_nan=False)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data; ``Plan.from_json`` reads what stands under ``plan``."""
        return {
            "plan": json.loads(self.plan.to_json()),
            "before": dict(self.before),
            "after": dict(self.after),
            "score": finite(self.score),
            "frozen": dict(self.frozen),
            "verification": {**finite(asdict(self.verification)), "passed": self.verification.passed},
            "evidence": json.loads(self.evidence.to_json()),
            "refitted": list(self.refitted),
            "left_as_they_are": dict(self.left_as_they_are),
            "compensation": None if self.compensation is None else finite(self.compensation.as_dict()),
            "seconds": dict(self.seconds),
            "latency": None if self.latency is None else asdict(self.latency),
        }

    def __str__(self) -> str:
        lines = [
            f"{name}: {self.before[name]:,} -> {self.after[name]:,} ({self.after[name] / max(self.before[name], 1):.1%})"
            for name in self.before
        ]
        timings = ", ".join(f"{step} {value:.2f} s" for step, value in self.seconds.items())
        worth = [str(self.quality)] if self.quality is not None else []
        given_back = [f"compensated: {len(self.refitted)} weights re-fitted"] if self.refitted else []
        given_back += [f"not re-fitted: {name}: {reason}" for name, reason in self.left_as_they_are.items()]
        lines += [str(self.latency)] if self.latency is not None else []
        return "\n".join(
            [plan_table(self.plan), *lines, *worth, str(self.verification), *given_back, f"timing: {timings}"]
        )


def result_of(
    graph: Graph,
    plan: Plan,
    evidence: Evidence,
    verification: Verification,
    *,
    compensation: RefitReport | None = None,
    **more: Any,
) -> PruneResult:
    """The result of pruning a graph's network by a plan; ``more`` are the fields that only a front-end knows."""
    return PruneResult(
        plan=plan,
        before={name: int(graph.cost(name)) for name in graph.costs},
        after={name: int(graph.cost(name, plan.sizes)) for name in graph.costs},
        frozen={w.name: w.frozen for w in graph.widths if w.frozen is not None},
        evidence=evidence,
        verification=verification,
        refitted=() if compensation is None else compensation.refitted,
        left_as_they_are={} if compensation is None else dict(compensation.left),
        compensation=compensation,
        **more,
    )
