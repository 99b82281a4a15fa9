"""The long fuzz: ``python -m tests.fuzz.sweep 20000 [--start 0] [--jobs 2] [--to FILE] [--plain] [--depth]``.

    seeds ──► workers, a few at a time ──► a line in the file for each network ──► what was found, at once and at the end

Prints every wrong answer and every refusal as it is found, and how far it is. The file (``.fuzz/<engine>.jsonl`` by default,
where the engine is a digest of the code) keeps what was found when the sweep is stopped; the same command goes on from there.
Fails if anything was wrong.

Invariant: a network whose line is in the file is not judged again by the same code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import secateur

from .making import Network
from .networks import random_network
from .oracle import Verdict, judge

CHUNK, PATIENCE, EVERY = 10, 300, 15.0  # networks a task; seconds of the processor for a network; seconds between lines
Tell = Callable[[str], None]
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """Which networks: ``plain`` ones only as tutorials write them, with ``depth`` those with blocks that may go whole."""

    plain: bool = False
    depth: bool = False

    def network(self, seed: int) -> Network:
        """The network of that seed."""
        return random_network(seed, plain=self.plain, deep=self.depth)

    def __str__(self) -> str:
        return "".join(f"-{word}" for word in ("plain", "depth") if getattr(self, word))


@dataclass(slots=True)
class Outcome:
    """What a sweep found."""

    networks: int = 0
    free: int = 0
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    frozen: Counter[str] = field(default_factory=Counter)

    def add(self, line: Line) -> str | None:
        """Count a verdict; what it says against the engine, if anything."""
        self.networks += 1
        self.free += line["free"]
        self.compared += line["exact"]
        self.frozen.update(line["frozen"])
        for word, found in (("wrong", self.wrong), ("refused", self.refused)):
            if line[word]:
                found.append(f"seed {line['seed']}: {line[word]}")
                return f"{word.upper() if word == 'wrong' else word} {found[-1]}"
        return None

    def __str__(self) -> str:
        return (
            f"{self.networks} networks: {len(self.wrong)} wrong, {len(self.refused)} refused, {self.free} free widths, "
            f"{self.compared} compared as exact"
        )


def sweep(
    count: int, start: int = 0, *, jobs: int = 2, kind: Kind = Kind(), to: Path | None = None, tell: Tell = print
) -> Outcome:
    """Judge this many random networks in worker processes; those whose verdicts are in the file are only counted."""
    outcome, began, told = Outcome(), time.monotonic(), time.monotonic()
    known = {line["seed"]: line for line in _lines(to)}
    seeds = [seed for seed in range(start, start + count) if seed not in known]
    for seed in range(start, start + count):
        if seed in known and (said := outcome.add(known[seed])):
            tell(said)
    for line in _judged(seeds, jobs, kind):
        _keep(line, to)
        if said := outcome.add(line):
            tell(said)
        if time.monotonic() - told > EVERY:
            told = time.monotonic()
            done = outcome.networks - (count - len(seeds))
            left = (told - began) / done * (len(seeds) - done)
            tell(f"{outcome}; about {left / 60:.0f} minutes left")
    return outcome


def _judged(seeds: list[int], jobs: int, kind: Kind) -> Iterator[Line]:
    """Verdicts as they come, from processes that are told a few seeds at a time."""
    chunks = iter([seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)])
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        running: set[Future[list[Line]]] = {pool.submit(_judge_all, c, kind) for c in islice(chunks, 2 * jobs)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_judge_all, chunk, kind) for chunk in islice(chunks, len(done))}
            for future in done:
                yield from future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who stops the sweep stops the parent
    signal.signal(signal.SIGPROF, _too_long)
    torch.set_num_threads(1)


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"more than {PATIENCE} seconds")


def _judge_all(seeds: list[int], kind: Kind) -> list[Line]:
    return [judged(partial(kind.network, seed), seed, depth=kind.depth) for seed in seeds]


def judged(build: Callable[[], Any], seed: int, *, depth: bool = False) -> Line:
    """The verdict on a network, as data; any error that is not of Secateur's tree is a wrong answer."""
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        verdict = judge(build, seed, depth=depth)
    except Exception as error:
        verdict = Verdict(wrong=f"{type(error).__name__}: {error}"[:500])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    reasons = Counter(reason.split(" in ")[0][:60] for reason in verdict.frozen)
    line: Line = {"seed": seed, "wrong": verdict.wrong, "refused": verdict.refused, "free": verdict.free}
    line |= {"exact": verdict.exact, "frozen": dict(reasons), "seconds": round(time.monotonic() - began, 2)}
    if verdict.wrong or verdict.refused:
        line["recipe"] = build().recipe
    return line


def engine() -> str:
    """A digest of the code that is judged and of the code that judges."""
    digest = hashlib.sha256()
    for root in (Path(secateur.__file__).parent, Path(__file__).parent):
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _lines(path: Path | None) -> list[Line]:
    """What is in the file; a last line that was cut off is taken away."""
    if path is None or not path.exists():
        return []
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        path.write_bytes(whole + b"\n" if whole else b"")
    return [json.loads(text) for text in whole.split(b"\n") if text]


def _keep(line: Line, path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="only code as tutorials write it")
    parser.add_argument("--depth", action="store_true", help="with lists of blocks that may go whole")
    parser.add_argument("--to", type=Path, help="the file of verdicts")
    given = parser.parse_args()
    kind = Kind(given.plain, given.depth)
    to = given.to or Path(".fuzz") / f"{engine()}{kind}.jsonl"
    try:
        outcome = sweep(given.count, given.start, jobs=given.jobs, kind=kind, to=to, tell=partial(print, flush=True))
    except KeyboardInterrupt:
        raise SystemExit(f"stopped; what was found is in {to}, and the same command goes on from there") from None
    print(outcome)
    for reason, times in outcome.frozen.most_common(15):
        print(f"{times:7d}  {reason}")
    if outcome.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
