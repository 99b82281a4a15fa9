"""Measuring candidates: calibrate, judge, put everything back; here, or in several processes.

    with measuring(trial, num_processes=4) as measure:
        for index, score in measure({0: plan, 1: plan}, rivals):        as they finish, in any order

Invariant: a candidate scores the same wherever it is measured: same weights, same data, same random numbers, same number
of threads.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import multiprocessing, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.core.plan import Plan
from secateur.errors import InputError, SecateurError
from secateur.torch.evaluating.score import EvalFn, Running, Score, judging, score_of
from secateur.torch.narrowing.subnet import subnet
from secateur.torch.running.batch_norm import reestimate_batch_norm
from secateur.torch.running.restoring import flags_kept

Measure = Callable[[Mapping[int, Plan], Sequence[Running]], Iterator[tuple[int, Score]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """All that judging a candidate takes, besides its plan."""

    model: nn.Module
    calibration_fn: Callable[..., Any] | None
    calib_args: tuple[Any, ...]
    eval_fn: EvalFn
    eval_args: tuple[Any, ...]
    seed: int

    def __call__(self, plan: Plan, rivals: Sequence[Running]) -> Score:
        """The score of one candidate; the model is left as it was."""
        with subnet(self.model, plan) as narrowed:
            self.calibrate(narrowed)
            with judging(self.seed):
                return score_of(self.eval_fn, narrowed, self.eval_args, rivals=rivals)

    def calibrate(self, model: nn.Module) -> None:
        """Measure batch-norm statistics again, as averages over all that the calibration runs; nothing else changes."""
        with judging(self.seed):
            if self.calibration_fn is not None:
                with _averaging(model):
                    self.calibration_fn(model, *self.calib_args)
            elif self.calib_args:
                reestimate_batch_norm(model, self.calib_args[0])


@contextmanager
def measuring(trial: Trial, num_processes: int) -> Iterator[Measure]:
    """How candidates are measured: one after the other here, or side by side in processes of their own.

    Raises InputError where something of the trial cannot be sent to another process.
    """
    if num_processes == 1:
        yield lambda plans, rivals: ((index, trial(plan, rivals)) for index, plan in plans.items())
        return
    started = (_sent(trial), torch.get_num_threads())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_start, initargs=started)
    try:
        yield lambda plans, rivals: _side_by_side(pool, plans, rivals)
    finally:
        pool.shutdown(cancel_futures=True)


def _side_by_side(
    pool: ProcessPoolExecutor, plans: Mapping[int, Plan], rivals: Sequence[Running]
) -> Iterator[tuple[int, Score]]:
    failure: Exception | None = None
    try:
        waiting = {pool.submit(_run, replace(plan, graph=None), rivals): index for index, plan in plans.items()}
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


def _sent(trial: Trial) -> bytes:
    """The trial in a form that another process can read."""
    for field in fields(trial):
        part = getattr(trial, field.name)
        try:
            pickle.dumps(part)
        except Exception as problem:
            raise InputError(
                f"{field.name} cannot be sent to another process ({type(problem).__name__}: {problem}). Define functions "
                "and classes at the top level of a module, or use num_processes=1"
            ) from None
    return pickle.dumps(trial)


_STATE: dict[str, Any] = {}  # of a worker process


def _start(payload: bytes, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    _STATE["payload"] = payload


def _run(plan: Plan, rivals: Sequence[Running]) -> Score:
    if "trial" not in _STATE:
        try:
            _STATE["trial"] = pickle.loads(_STATE["payload"])  # noqa: S301 — written by our own parent process
        except Exception as problem:
            raise InputError(
                f"a worker process cannot read what it was sent ({type(problem).__name__}: {problem}). Define functions "
                "and classes in a module that can be imported, or use num_processes=1"
            ) from None
    return _STATE["trial"](plan, rivals)


@contextmanager
def _averaging(model: nn.Module) -> Iterator[None]:
    """Batch norms start anew and average over all batches they see in training mode; flags are put back."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.num_batches_tracked is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
        norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)  # type: ignore[arg-type]
    with flags_kept(model):
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
