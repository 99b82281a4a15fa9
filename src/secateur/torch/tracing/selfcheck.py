"""Nothing broken leaves the building: what a graph says can be narrowed is narrowed, and run.

    narrow every free width, each to another share ──► run ──► each operator gives the sizes its spaces foretold?
                ▲                                          │ no: freeze what that operator touched, why
                └──────────────────────────────────────────┤ the same calls, with the same numbers?
                                                           │ no: freeze the widths whose size the code uses unseen

Runs on tensors without data (milliseconds a round), or on real ones where the trace needed them. The first run is one in
training mode, where that was not heard: what trains narrowed as it evaluates whole does both as foretold.

Invariant: ends with a graph whose narrowed network has been seen to run.
"""

from __future__ import annotations

import contextlib
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from secateur.core.coincidence import Avoided, unless_coincident
from secateur.core.equations import Contradiction, solve
from secateur.core.graph import Graph, Width
from secateur.core.layout import Sum, widths_of
from secateur.core.plan import Plan
from secateur.core.settle import counted
from secateur.core.space import Space, freeze, leaves
from secateur.errors import PlanError, TraceError
from secateur.torch.tracing.cuts import beside_calculated
from secateur.torch.tracing.multiples import hold_to_multiple
from secateur.torch.tracing.observe import Observation, Run
from secateur.torch.tracing.rehearsal import (
    COUNTS,
    Mismatch,
    Rehearsal,
    run_narrowed,
    told,
    trains_alike,
    trains_as_foretold,
)
from secateur.torch.tracing.unheard import follow_unheard
from secateur.torch.tracing.written import may_count

ROUNDS = 60
SMALL = (0.05, 0.2)  # of a width: a threshold in the code, ``if width > 24``, lies above few units
MIDDLING = (0.3, 0.8)
_FEW = 150  # operators: in a larger network code runs several times, with a count of its own each time
_DRAWS = 12  # for a count that no other width has


class TrainsOtherwise(Exception):
    """The model does something else in training: that must be heard, too."""


def check_by_running(seen: Observation, graph: Graph, leaf_of: Mapping[str, Space]) -> str | None:
    """Narrow and run; None if all went as foretold, else what was frozen because of it. Raises TrainsOtherwise."""
    if not graph.free:
        _refuse_other_training(seen)
        return None
    free = [w for w in graph.free if len(w.choices) > 1]
    beside = beside_calculated(seen)
    pairs = [w.name for w in free if w.choices[-2] == 1 or id(leaf_of[w.name].root()) in beside]
    others = [w for w in free if w.choices[-2] > 1]
    tried: list[Plan] = []
    runs = list(_different(seen, {id(leaf_of[w.name].root()) for w in free}))
    is_small = sum(len(run.tracer.records) for run in runs) < _FEW
    for share in (SMALL, MIDDLING) if is_small else (SMALL,):
        counts = _some_counts(others, share, unlike=share is MIDDLING or not is_small)
        counts |= _out_of_proportion(graph, others, first_is_large=share is SMALL)
        try:
            plan = _without_coincidence(graph, counts)
        except PlanError as error:
            return _freeze_contradiction(graph, counts, leaf_of, str(error))
        if found := _check_plan(seen, runs, plan, leaf_of):
            return found
        tried.append(plan)
    if pairs and (found := _check_pairs(seen, runs, tried[0], pairs, leaf_of)):
        return found
    return _check_least(seen, runs, graph, leaf_of) if may_count(seen.example.model) else None


def _check_pairs(
    seen: Observation, runs: list[Run], plan: Plan, pairs: Sequence[str], leaf_of: Mapping[str, Space]
) -> str | None:
    """Widths that only one unit can be left of, or that a part with a number for its size is cut from, each tried at the
    least beside counts of the others that run: what was frozen of them.

    Apart from the others, since sizes of one take PyTorch other ways: what goes wrong here is theirs alone.
    """
    reasons: dict[str, str] = {}

    def fails(names: Sequence[str]) -> bool:
        why = next((why for run in runs if (why := _why_not_one(seen, run, plan, names, leaf_of))), None)
        reasons.update({} if why is None else dict.fromkeys(names, why))
        return why is not None

    found = _those(pairs, fails)
    for name in found:
        freeze(leaf_of[name], reasons[name])
    return ", ".join(found) or None


def _why_not_one(
    seen: Observation, run: Run, others: Plan, names: Sequence[str], leaf_of: Mapping[str, Space]
) -> str | None:
    """Why the model does not run with the least left of each of these widths, if it does not."""
    graph = others.graph
    assert graph is not None
    counts = {name: others.sizes[name] for name in others.kept}
    try:
        plan = _without_coincidence(graph, {**counts, **{name: graph[name].choices[0] for name in names}})
    except PlanError as error:
        return f"sizes in the code contradict each other ({str(error)[:120]})"
    rehearsal = Rehearsal(run, {id(leaf_of[width.name].root()): plan.sizes[width.name] for width in graph.free})
    rehearsal.orders = False
    try:
        run_narrowed(run, plan, rehearsal, seen.outside)
    except Exception as error:
        where = rehearsal.module or "the model"
        if {id(leaf) for leaf in _written(run, rehearsal)} & {id(leaf_of[name].root()) for name in names}:
            return f"a size written into the code ({where})"
        return f"does not run when one unit of it is left ({where}: {told(error)})"
    known = counted(seen.tracer.facts)
    # one that a coincidence kept whole was not tried
    suspects = [name for name in names if name in plan.kept and id(leaf_of[name].root()) not in known]
    calls = _calls_otherwise(seen, run, plan, suspects) if rehearsal.differs and suspects else None
    return f"the code uses its size where it cannot be followed ({calls})" if calls else None


def _check_least(seen: Observation, runs: list[Run], graph: Graph, leaf_of: Mapping[str, Space]) -> str | None:
    """At the least counts the code must still make the same calls: ``floor(log2(c))`` is one number for many counts, and what
    was tried may have been among them."""
    known = counted(seen.tracer.facts)
    least = {w.name: w.choices[0] for w in graph.free if id(leaf_of[w.name].root()) not in known}
    try:
        plan = _without_coincidence(graph, least)
    except PlanError:
        return None
    for run in runs:
        rehearsal = Rehearsal(run, {})
        rehearsal.compares = False  # sizes of one take PyTorch other ways
        with contextlib.suppress(Exception):
            run_narrowed(run, plan, rehearsal, seen.outside)
        if rehearsal.differs and (found := _freeze_told(seen, run, graph, plan, leaf_of)):
            return found
    return None


def _refuse_other_training(seen: Observation) -> None:
    """Nothing is free as it evaluates, which may be because what would free it is used in training."""
    for run in seen.runs:
        if run.tracer in seen.untrained and not trains_alike(run, seen.outside):
            raise TrainsOtherwise


def _check_plan(seen: Observation, runs: list[Run], plan: Plan, leaf_of: Mapping[str, Space]) -> str | None:
    graph = plan.graph
    assert graph is not None
    sizes = {id(leaf_of[width.name].root()): plan.sizes[width.name] for width in graph.free}  # whole ones, too
    for run in runs:
        if run.tracer in seen.untrained:
            seen.untrained.remove(run.tracer)
            if trains_as_foretold(run, plan, dict(sizes), seen.outside):
                continue
            if not trains_alike(run, seen.outside):
                raise TrainsOtherwise
        rehearsal = Rehearsal(run, sizes)
        try:
            run_narrowed(run, plan, rehearsal, seen.outside)
        except Exception as error:
            if rehearsal.differs and (found := _freeze_told(seen, run, graph, plan, leaf_of)):
                return found
            why = told(error)
            if taken := follow_unheard(seen, run, plan, rehearsal, leaf_of):
                return taken
            if multiple := _multiple_for(seen, run, plan, rehearsal, error, leaf_of):
                return f"held to multiples of {multiple} ({why})"
            return _freeze_around(seen, run, rehearsal, why)
        if rehearsal.differs and (found := _freeze_told(seen, run, graph, plan, leaf_of)):
            return found
    return None


def _multiple_for(
    seen: Observation, run: Run, plan: Plan, rehearsal: Rehearsal, error: Exception, leaf_of: Mapping[str, Space]
) -> int | None:
    """The multiple that what failed is held to from now on, where that was an error in the code, or of a kernel."""
    is_ours = isinstance(error, Mismatch) and error.__cause__ is None  # a size other than foretold
    records = run.tracer.records
    if is_ours or not rehearsal.following or not records or _written(run, rehearsal):
        return None
    record = records[min(rehearsal.place, len(records) - 1)]
    return hold_to_multiple(seen, run, plan, rehearsal, [*record.inputs, *chain(*record.outputs)], leaf_of)


def _written(run: Run, rehearsal: Rehearsal) -> list[Space]:
    """The sizes that are written into the code where it failed, as far as they are free."""
    place = min(rehearsal.place, len(run.tracer.records) - 1)
    found = rehearsal.written or [space for first, last, space in run.tracer.constants if first <= place < last]
    return [leaf for space in found for leaf in leaves(space) if not leaf.frozen and leaf.size > 1]


def _freeze_told(seen: Observation, run: Run, graph: Graph, plan: Plan, leaf_of: Mapping[str, Space]) -> str | None:
    """Freeze the widths on whose size depends what the code calls, in a way that no equation says; what was frozen."""
    known = counted(seen.tracer.facts)
    where: dict[str, str] = {}  # by width, the narrower the trial the later it was

    def differs(names: Sequence[str]) -> bool:
        found = _calls_otherwise(seen, run, plan, names)
        where.update({} if found is None else dict.fromkeys(names, found))
        return found is not None

    suspects = [name for name in plan.kept if id(leaf_of[name].root()) not in known]
    found = _those(suspects, differs)
    for name in found:
        freeze(leaf_of[name], f"the code uses its size where it cannot be followed ({where[name]})")
    return ", ".join(found) or None


def _calls_otherwise(seen: Observation, run: Run, plan: Plan, names: Sequence[str]) -> str | None:
    """Where the code calls something else, or with another number, when of a plan these widths alone are narrowed."""
    assert plan.graph is not None
    try:
        part = plan.graph.plan({name: plan.arrays[name] for name in names})
    except PlanError:
        return None
    rehearsal = Rehearsal(run, {})
    rehearsal.compares = False  # only numbers are asked for, and what stays whole may now meet sizes of one
    with contextlib.suppress(Exception):  # on another course it may not come to its end
        run_narrowed(run, part, rehearsal, seen.outside)
    return rehearsal.differs


def _those(names: Sequence[str], differs: Callable[[Sequence[str]], bool]) -> list[str]:
    """The names that by themselves, or only with others of their half, make a difference."""
    if not names or not differs(names):
        return []
    if len(names) == 1:
        return list(names)
    middle = len(names) // 2
    return _those(names[:middle], differs) + _those(names[middle:], differs) or list(names)


def _different(seen: Observation, narrowed: Collection[int]) -> Iterator[Run]:
    """The runs that came to their end, without those that took the course of one before, unless they are to train.

    On inputs of other sizes other sizes are no other course.
    """
    if len(seen.runs) == 1:
        yield from seen.runs
        return
    courses: list[object] = []
    for run in (run for run in seen.runs if run.whole):
        calls = [call for call in run.tracer.calls if call != COUNTS]
        course = _course(run, narrowed)
        taken = run.tracer.abstract, calls, course
        in_outline = run.tracer.abstract, [name for name, _ in calls], list(map(_outline, course))
        if run.tracer in seen.untrained or (in_outline if run.resized else taken) not in courses:
            courses += [taken, in_outline]
            yield run


Met = tuple[str, str | None, int, list[tuple[tuple[int, bool], ...]]]  # an operator, and the dimensions it met


def _course(run: Run, narrowed: Collection[int]) -> list[Met]:
    """The operators of a run that met what is narrowed, in order, and all dimensions that they met: what is narrowed by its
    identity, the rest by its size."""
    course: list[Met] = []
    for record in run.tracer.records:
        met = [leaves(space) for space in chain(record.inputs, *record.outputs[:1])]  # not the statistics it saves
        if any(id(leaf) in narrowed for found in met for leaf in found):
            sizes = [
                tuple((id(leaf), True) if id(leaf) in narrowed else (leaf.size, False) for leaf in found)
                for found in met
            ]
            course.append((record.name, record.module, len(record.inputs), sizes))
    return course


def _outline(met: Met) -> tuple[object, ...]:
    """What an operator met, whatever size the rest has."""
    *operator, sizes = met
    return (*operator, [tuple(size if narrowed else 0 for size, narrowed in one) for one in sizes])


def _some_counts(widths: Sequence[Width], share: tuple[float, float], *, unlike: bool) -> dict[str, int]:
    """Counts that are allowed, about this share of each width; ``unlike``: each another, since equal ones hide a mix-up,
    for which some are larger."""
    generator = random.Random(0)
    counts: dict[str, int] = {}
    for width in widths:
        allowed = _allowed(width)
        near = allowed[bisect_left(allowed, share[0] * width.size) : bisect_right(allowed, share[1] * width.size)]
        taken = set(counts.values()) if unlike else set[int]()
        smaller = allowed[: max(1, bisect_right(allowed, 0.5 * width.size))]
        drawn = [generator.choice(pool) for pool in (near, smaller, allowed) if pool for _ in range(_DRAWS)]
        counts[width.name] = next((count for count in drawn if count not in taken), drawn[0])
    return counts


def _allowed(width: Width) -> Sequence[int]:
    smaller = width.choices[:-1]
    return smaller[bisect_left(smaller, 2) :] or smaller  # sizes of one are special


def _out_of_proportion(graph: Graph, widths: Sequence[Width], *, first_is_large: bool) -> dict[str, int]:
    """Counts of the parts that one layer's outputs are cut into, few and many in turns: in proportion, a size that the code
    calculates from the whole, ``round(0.4 * c)``, would be the right one."""
    counts: dict[str, int] = {}
    free = {width.name: width for width in widths}
    made = (layout[0] for name, layout in graph.layouts.items() if name in graph.parameters and layout)
    for axis in dict.fromkeys(made):
        parts = (
            [[free[name] for name in widths_of(part) if name in free] for part in axis.parts]
            if isinstance(axis, Sum)
            else []
        )
        for place, part in enumerate(found for found in parts if found):
            for width in part:
                counts[width.name] = _allowed(width)[-1 if (place % 2 == 0) is first_is_large else 0]
    return counts


def _without_coincidence(graph: Graph, counts: dict[str, int]) -> Plan:
    """A plan for about these counts; moves a count that would make two sizes equal which the code tells apart."""

    def moved(avoided: Avoided) -> Plan:
        for name, taken in avoided.items():
            choices = graph[name].choices
            while counts[name] in taken and len(taken) < len(choices):
                counts[name] = choices[(choices.index(counts[name]) + 1) % len(choices)]
        return _some_plan(graph, counts)

    return unless_coincident(moved)


def _some_plan(graph: Graph, counts: dict[str, int]) -> Plan:
    generator = np.random.default_rng(0)
    kept = {name: np.sort(generator.choice(graph[name].size, count, replace=False)) for name, count in counts.items()}
    return graph.plan(kept)


def _freeze_around(seen: Observation, run: Run, rehearsal: Rehearsal, why: str) -> str:
    """Freeze what the failing operator touched; if that was frozen already, what its module holds; then its parent."""
    module = rehearsal.module
    reason = f"does not run when narrowed ({module or 'the model'}: {why})"
    records = run.tracer.records
    if rehearsal.following and records:
        place = min(rehearsal.place, len(records) - 1)
        if _freeze_free(_written(run, rehearsal), f"a size written into the code ({module or 'the model'})"):
            return reason
        record = records[place]
        if _freeze_free([*record.inputs, *(s for layout in record.outputs for s in layout)], reason):
            return reason
    while True:
        prefix = f"{module}." if module else ""
        spaces = [s for name, layout in seen.spaces.items() if name.startswith(prefix) for s in layout]
        if _freeze_free(spaces, reason):
            return reason
        if not module:
            raise TraceError(f"the narrowed model does not run and nothing is left to freeze: {why}")
        module = module.rpartition(".")[0]


def _freeze_free(spaces: list[Space], reason: str) -> bool:
    free = [leaf for space in spaces for leaf in leaves(space) if not leaf.frozen and leaf.size > 1]
    for leaf in free:
        freeze(leaf, reason)
    return bool(free)


def _freeze_contradiction(graph: Graph, counts: dict[str, int], leaf_of: Mapping[str, Space], why: str) -> str:
    reason = f"sizes in the code contradict each other ({why[:120]})"
    try:
        solve(graph.equations, graph.attributes, counts)
    except Contradiction as contradiction:
        names = {n for e in contradiction.equations for n in widths_of(e.axis)}
        for name in names or set(counts):
            freeze(leaf_of[name], reason)
    return reason
