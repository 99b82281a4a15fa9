"""Where candidates are measured: here, one after the other, or in several processes side by side.

    with measuring(Evaluator(model=model, score_func=accuracy), num_processes=4) as measure:
        for key, evaluation in measure({"0": plan, "1": plan}, rivals):        as they finish, in any order

Invariant: a candidate scores the same wherever it is measured: same weights, same data, same random numbers, same number
of threads.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import multiprocessing

from secateur.core.plan import Plan
from secateur.errors import InputError, SecateurError
from secateur.search.measured import Evaluation, Measure, Running
from secateur.torch.evaluating.evaluator import Evaluator


@contextmanager
def measuring(evaluator: Evaluator, num_processes: int = 1) -> Iterator[Measure]:
    """How candidates are measured: one after the other here, or side by side in processes of their own.

    Raises InputError where something that scoring takes cannot be sent to another process.
    """
    if num_processes == 1:
        yield lambda plans, rivals: ((key, evaluator(plan, rivals)) for key, plan in plans.items())
        return
    started = (_sent(evaluator.settings), torch.get_num_threads())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_start, initargs=started)
    try:
        yield lambda plans, rivals: _side_by_side(pool, plans, rivals)
    finally:
        pool.shutdown(cancel_futures=True)


def _side_by_side(
    pool: ProcessPoolExecutor, plans: Mapping[str, Plan], rivals: Sequence[Running]
) -> Iterator[tuple[str, Evaluation]]:
    failure: Exception | None = None
    try:
        waiting = {pool.submit(_run, replace(plan, graph=None), rivals): key for key, plan in plans.items()}
        for future in as_completed(waiting):
            if future.cancelled():
                continue
            failed = future.exception()
            if failed is None:
                yield waiting[future], future.result()
            elif isinstance(failed, Exception):  # what is under way is still waited for: it counts as finished
                failure = failure or failed
                for other in waiting:
                    other.cancel()
    except BrokenProcessPool as problem:
        failure = problem
    if isinstance(failure, BrokenProcessPool):
        raise SecateurError(
            "a worker process died. Either memory ran out (use fewer num_processes), or the script has no "
            "`if __name__ == '__main__':` around what starts the search. Finished candidates are in the journal"
        )
    if failure is not None:
        raise failure


def _sent(settings: Mapping[str, object]) -> bytes:
    """The settings of an evaluator in a form that another process can read."""
    for name, part in settings.items():
        try:
            pickle.dumps(part)
        except Exception as problem:
            raise InputError(
                f"{name} cannot be sent to another process ({type(problem).__name__}: {problem}). Define functions "
                "and classes at the top level of a module, or use num_processes=1"
            ) from None
    return pickle.dumps(dict(settings))


_STATE: dict[str, Any] = {}  # of a worker process


def _start(payload: bytes, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    _STATE["payload"] = payload


def _run(plan: Plan, rivals: Sequence[Running]) -> Evaluation:
    if "evaluator" not in _STATE:
        try:
            settings = pickle.loads(_STATE["payload"])  # noqa: S301 — written by our own parent process
        except Exception as problem:
            raise InputError(
                f"a worker process cannot read what it was sent ({type(problem).__name__}: {problem}). Define functions "
                "and classes in a module that can be imported, or use num_processes=1"
            ) from None
        _STATE["evaluator"] = Evaluator(**settings)
    return _STATE["evaluator"](plan, rivals)
