"""What a search saw before it decided: kept beside the plan, printed and written as JSON by whoever wants to see it.

    Found(plan, evidence)        print(evidence)        Path("evidence.json").write_text(evidence.to_json())

Invariant: evidence is data; nothing in it holds a model, and nothing here prints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from secateur.core.plan import Plan
from secateur.core.show import text_table
from secateur.search.candidates import Candidate
from secateur.search.sensitivity import Sensitivity
from secateur.search.threshold import Curves


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What networks are worth by one measure, higher is better: the ``whole`` one, the ``narrowed`` one, and that one
    ``compensated`` where anything was fitted. None where the measure had no answer.
    """

    measure: str
    whole: float | None
    narrowed: float | None
    compensated: float | None = None

    @property
    def score(self) -> float | None:
        """That of the network that comes out."""
        return self.narrowed if self.compensated is None else self.compensated

    def __str__(self) -> str:
        steps = {"whole": self.whole, "narrowed": self.narrowed, "compensated": self.compensated}
        said = [f"{name} {value:.4g}" for name, value in steps.items() if value is not None]
        return f"{self.measure}: {', '.join(said) or 'no number'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one search saw.

    ``sensitivity`` are the scores measured with one width narrowed at a time; ``curves`` the loss at every choice of every
    free width, and ``sizes`` the counts that were chosen; ``candidates`` whole networks that were measured, best first.
    ``quality`` says what the result is worth, where there were the means to tell.
    ``num_measured`` evaluations were made and ``num_read`` read from a journal, in ``seconds``. Where there were several
    rounds, ``rounds`` has what each of them saw, and the rest is that of the last.
    """

    method: str
    sensitivity: Sensitivity | None = None
    curves: Curves = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    quality: Quality | None = None
    num_measured: int = 0
    num_read: int = 0
    seconds: float = 0.0
    rounds: tuple[Evidence, ...] = ()

    @property
    def losses(self) -> dict[str, float]:
        """The loss of each width at the count that was chosen."""
        chosen = ((name, curve.get(self.sizes.get(name, -1))) for name, curve in self.curves.items())
        return {name: loss for name, loss in chosen if loss is not None}

    def __str__(self) -> str:
        worth = [str(self.quality)] if self.quality is not None else []
        if self.rounds:
            return "\n".join([*(f"round {n}: {each}" for n, each in enumerate(self.rounds, start=1)), *worth])
        tables = [_losses(self)] if self.curves else []
        tables += [_candidates(self.candidates)] if self.candidates else []
        return "\n".join([self._headline(), *worth, *tables])

    def _headline(self) -> str:
        read = f", {self.num_read} read from the journal" if self.num_read else ""
        made = f", {self.num_measured} networks measured{read}" if self.num_measured or self.num_read else ""
        return f"{self.method}: {self.seconds:.2f} s{made}"

    def to_json(self) -> str:
        """All of it as JSON text; what is no finite number is null."""
        return json.dumps(finite(asdict(self)), allow_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search gives: the plan, and what it saw."""

    plan: Plan
    evidence: Evidence


def _losses(evidence: Evidence) -> str:
    """What was measured of each width, and what was chosen of it."""
    drops = evidence.sensitivity.drops if evidence.sensitivity is not None else {}
    rows = [
        (
            name,
            _measured(drops.get(name, {})),
            f"{evidence.sizes[name]} of {max(evidence.curves[name])}",
            f"{loss:.4g}",
            f"{max(evidence.curves[name].values()):.4g}",
        )
        for name, loss in evidence.losses.items()
    ]
    columns = ("Width", "count: measured drop of the score", "chosen", "its loss", "loss at the smallest")
    return text_table("Sensitivity", columns, rows)


def _measured(drops: Mapping[int, float]) -> str:
    return ", ".join(f"{count}: {drop:.4g}" for count, drop in sorted(drops.items())) or "-"


def _candidates(candidates: Iterable[Candidate]) -> str:
    rows = [
        (c.name or str(c.index), _number(c.score), _number(c.agreement), f"{c.share:.0%}", f"{c.macs:,}")
        for c in candidates
    ]
    return text_table("Candidates", ("Candidate", "score", "agreement", "share of the data", "MACs"), rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def finite(value: object) -> Any:
    """Plain JSON values; what is no finite number is null."""
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
