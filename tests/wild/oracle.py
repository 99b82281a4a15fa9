"""Is what the library did to a wild model right? Judged from outside, by its public verbs and by hand.

    trace ──► nothing touched? ──► units renamed: same outputs? ──► plans drawn at random ──► apply
          ──► nothing touched? ──► weights = slices by hand ──► costs counted ──► a life of calls = that of the masked model

A life is: the example, other inputs, other branches, other methods, a training step with its gradients and buffers.

Invariant: what the library says about itself is never taken for proof; only what it promises is compared.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

from .court import Court, Refused, sentence
from .entry import Entry
from .reference import Wrong

Outcome = Literal["right", "refused", "late", "WRONG"]
DRAWS = ("half", "random", "equal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``refused`` is before anything was promised, ``late`` a plan refused that the graph had offered; both are typed."""

    name: str
    outcome: Outcome
    why: str = ""
    free: int = 0
    frozen: int = 0
    reachable: float = 0.0
    seconds: float = 0.0
    reasons: tuple[str, ...] = ()


def judge(entry: Entry, draws: Sequence[str] = DRAWS, seed: int = 0) -> Verdict:
    """Everything about one entry. Never raises for what the library did."""
    started, court = time.perf_counter(), Court(entry, seed)
    plans = [partial(court.check_plan, draw) for draw in draws]
    rest = (court.check_proof, court.check_prune, court.check_original)
    wrongs: list[str] = []
    refused: Refused | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for check in (court.trace, court.live_whole, court.check_names, *plans, *rest):
            try:
                check()
            except Wrong as wrong:
                wrongs.append(str(wrong))
            except Refused as refusal:
                refused = refusal
            except Exception as error:
                wrongs.append(f"oracle: {sentence(error)}")
            if court.graph is None:
                break
    alike = {re.sub(r"[\d.e+-]+|\(\w+\)", "", wrong)[:60]: wrong for wrong in reversed(wrongs)}
    why = " | ".join(reversed(alike.values())) or str(refused or "")
    outcome = cast(Outcome, "WRONG" if wrongs else refused.outcome if refused else "right")
    taken = time.perf_counter() - started
    return Verdict(name=entry.name, outcome=outcome, why=why, seconds=taken, **court.anatomy())
