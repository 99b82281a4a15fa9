"""Kernels that take only multiples of a number, found by trying: before what one touches is frozen, it runs at 2, 4, 8, 16.

    channels 32, tried at 5      "must be divisible by 4"      at 2, 4 again, at 4 it runs: channels 4, 8, …, 32

Invariant: what is held to multiples was seen to run at such counts past where it had failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from secateur.core.plan import Plan
from secateur.core.space import Space, align, leaves
from secateur.errors import PlanError
from secateur.torch.tracing.observe import Observation, Run
from secateur.torch.tracing.rehearsal import Rehearsal, run_narrowed

_MULTIPLES = (2, 4, 8, 16)


def hold_to_multiple(
    seen: Observation, run: Run, plan: Plan, failed: Rehearsal, touched: Iterable[Space], leaf_of: Mapping[str, Space]
) -> int | None:
    """Hold what a failing operator touches to the first multiple at which it runs; None if it runs at none."""
    ours = {id(leaf) for space in touched for leaf in leaves(space) if not leaf.frozen}
    names = [name for name in plan.kept if id(leaf_of[name].root()) in ours]
    graph = plan.graph
    if graph is None:
        return None
    for multiple in _MULTIPLES if names else ():
        counts = {name: _near(graph[name].choices, plan.sizes[name], multiple) for name in names}
        if None in counts.values() or all(plan.sizes[name] == count for name, count in counts.items()):
            continue
        if all(leaf_of[name].root().multiple % multiple == 0 for name in names):
            continue  # held to it already, and it failed
        try:
            trial = graph.plan({**plan.arrays, **{name: range(count) for name, count in counts.items() if count}})
        except PlanError:
            continue
        if _gets_further(seen, run, trial, failed, leaf_of):
            for name in names:
                align(leaf_of[name], multiple)
            return multiple
    return None


def _near(choices: Iterable[int], count: int, multiple: int) -> int | None:
    """The allowed multiple that is nearest to a count, the whole width aside."""
    allowed = [choice for choice in choices if choice % multiple == 0][:-1]
    return min(allowed, key=lambda choice: abs(choice - count), default=None)


def _gets_further(seen: Observation, run: Run, trial: Plan, failed: Rehearsal, leaf_of: Mapping[str, Space]) -> bool:
    rehearsal = Rehearsal(run, {id(leaf_of[name].root()): trial.sizes[name] for name in trial.kept})
    try:
        run_narrowed(run, trial, rehearsal, seen.outside)
    except Exception:
        return rehearsal.following and rehearsal.place > failed.place
    return True
