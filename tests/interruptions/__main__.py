"""The command: ``python -m tests.interruptions 1000 [--seed 0] [--networks residual bert] [--calls trace "apply in place"]``.

Prints each finding as it is made and a table at the end; fails if anything was changed.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch

from .calls import CALLS
from .harness import Report, interruptions
from .networks import SUBJECTS

WORDS = ("interrupted", "interrupted when done", "went on", "raised something else", "finished")


def table(report: Report) -> str:
    """One line for each call: how often it was met by a signal, and what became of it."""
    by_call: dict[str, Counter[str]] = {}
    for (_, call, word), number in report.words.items():
        by_call.setdefault(call, Counter())[word] += number
    width = max(map(len, by_call), default=4) + 2
    lines = ["call".ljust(width) + "".join(word.rjust(len(word) + 3) for word in WORDS)]
    for call in [call.name for call in CALLS if call.name in by_call]:
        lines.append(call.ljust(width) + "".join(str(by_call[call][word]).rjust(len(word) + 3) for word in WORDS))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", nargs="*", default=(), choices=SUBJECTS)
    parser.add_argument("--calls", nargs="*", default=())
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    report = interruptions(
        given.count, seed=given.seed, networks=tuple(given.networks), calls=tuple(given.calls),
        tell=lambda line: print(line, flush=True),
    )  # fmt: skip
    print(table(report))
    for (network, call), sentence in report.refused.items():
        print(f"refused: {network}, {call}: {sentence[:160]}")
    print(f"{report.signals} signals in {time.perf_counter() - began:.0f} s: {len(report.findings)} findings")
    if report.findings:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
