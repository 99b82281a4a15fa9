"""One process for each architecture, so that a crash or an endless loop is one row of the table.

    judge_all(names, num_jobs=2)      yields (verdict, seconds) as they come

Processes are forked from one that has imported the libraries but computed nothing: a fresh one costs milliseconds.

Invariant: every name comes back exactly once.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from .catalogue import catalogue
from .judge import Verdict, timed

TIMEOUT_S = 180.0
_CONTEXT = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class _Worker:
    name: str
    process: BaseProcess
    pipe: Connection
    started: float


def judge_all(
    names: Sequence[str], *, num_jobs: int = 2, timeout_s: float = TIMEOUT_S
) -> Iterator[tuple[Verdict, float]]:
    """Judge these entries, ``num_jobs`` at a time."""
    entries = {entry.name: entry for entry in catalogue()}
    waiting, running = list(reversed(names)), []
    _import_libraries(names)
    while waiting or running:
        while waiting and len(running) < num_jobs:
            running.append(_start(entries[waiting.pop()]))
        wait([worker.pipe for worker in running], timeout=1.0)
        for worker in list(running):
            found = _outcome(worker, timeout_s)
            if found is not None:
                running.remove(worker)
                yield found


def _import_libraries(names: Sequence[str]) -> None:
    from .shim import declare_torchvision_operators

    declare_torchvision_operators()
    families = {name.partition("/")[0] for name in names}
    if "timm" in families:
        import timm  # noqa: F401
    if "torchvision" in families:
        import torchvision  # noqa: F401
    if "hf" in families:
        import transformers  # noqa: F401


def _start(entry: Any) -> _Worker:
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(entry, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(entry.name, process, ours, time.perf_counter())


def _work(entry: Any, pipe: Connection) -> None:
    torch.set_num_threads(1)
    pipe.send(timed(entry))
    pipe.close()


def _outcome(worker: _Worker, timeout_s: float) -> tuple[Verdict, float] | None:
    """What a worker has to say, or what there is to say of it; None while it works."""
    elapsed = time.perf_counter() - worker.started
    if worker.pipe.poll():
        try:
            found = worker.pipe.recv()
        except EOFError:
            worker.process.join()
            found = _lost(worker, f"the process died with exit code {worker.process.exitcode}"), elapsed
    elif elapsed > timeout_s:
        worker.process.kill()
        found = _lost(worker, f"no answer in {timeout_s:.0f} s"), elapsed
    else:
        return None
    worker.process.join()
    worker.pipe.close()
    return found


def _lost(worker: _Worker, why: str) -> Verdict:
    return Verdict(name=worker.name, outcome="failed", why=why)
