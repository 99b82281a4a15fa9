"""The long fuzz: ``python -m tests.fuzz.sweep 20000 [--start 0] [--jobs 2]``.

Prints every wrong answer and every refusal with its seed, and how much could be narrowed; fails if anything was wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections import Counter
from dataclasses import dataclass, field

import torch

from .networks import random_network
from .oracle import Verdict, judge


@dataclass(slots=True)
class Outcome:
    """What a sweep found."""

    networks: int = 0
    free: int = 0
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    frozen: Counter[str] = field(default_factory=Counter)

    def add(self, seed: int, verdict: Verdict) -> None:
        self.networks += 1
        self.free += verdict.free
        self.compared += verdict.exact
        self.frozen.update(reason.split(" in ")[0][:60] for reason in verdict.frozen)
        if verdict.wrong:
            self.wrong.append(f"seed {seed}: {verdict.wrong}")
        if verdict.refused:
            self.refused.append(f"seed {seed}: {verdict.refused}")


def _judge_seed(seed: int) -> tuple[int, Verdict]:
    torch.set_num_threads(1)
    try:
        return seed, judge(random_network(seed), seed)
    except Exception as error:  # an error that is not of our tree is a wrong answer
        return seed, Verdict(wrong=f"{type(error).__name__}: {error}")


def sweep(count: int, start: int = 0, jobs: int = 2) -> Outcome:
    """Judge this many random networks in worker processes."""
    outcome = Outcome()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for seed, verdict in pool.imap_unordered(_judge_seed, range(start, start + count), chunksize=25):
            outcome.add(seed, verdict)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    started = time.perf_counter()
    outcome = sweep(given.count, given.start, given.jobs)
    for line in [*(f"WRONG {w}" for w in outcome.wrong), *(f"refused {r}" for r in outcome.refused)]:
        print(line)
    print(
        f"{outcome.networks} networks in {time.perf_counter() - started:.0f} s: {len(outcome.wrong)} wrong, "
        f"{len(outcome.refused)} refused, {outcome.free} free widths, {outcome.compared} compared as exact"
    )
    for reason, times in outcome.frozen.most_common(15):
        print(f"{times:7d}  {reason}")
    if outcome.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
