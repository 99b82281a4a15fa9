"""Sizes that the code takes in ways that nobody hears: through a tensor, a script, a function of C.

    n = torch.IntTensor([self.width])[0]        h[:, :n] is as large as ``width`` says, and not one of these carries that

Trials in which all widths of that size have counts of their own, about the same, show it: the slice is not as large as its own
width, but each time exactly as large as the same one of the others. Then the two are one width.

Invariant: nothing becomes free by it; that two widths keep the same units is true of less, and is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secateur.core.graph import Width
from secateur.core.plan import Plan
from secateur.core.space import Space, leaves, unify
from secateur.errors import PlanError
from secateur.torch.tracing.observe import Observation, Run
from secateur.torch.tracing.rehearsal import Rehearsal, run_narrowed


def follow_unheard(
    seen: Observation, run: Run, plan: Plan, rehearsal: Rehearsal, leaf_of: Mapping[str, Space]
) -> str | None:
    """Let the width that was not as large as foretold be the one whose size it had; what was done, None if there is none."""
    graph, own = plan.graph, _leaf_of_its_own(rehearsal)
    if graph is None or own is None:
        return None
    mine = next((w for w in graph.free if leaf_of[w.name].root() is own), None)
    alike = [w for w in graph.free if w is not mine and w.size == own.size and leaf_of[w.name].root() is not own]
    if mine is None or not alike:
        return None
    shown = [_whose(seen, run, plan, (own, order), leaf_of) for order in ([mine, *alike], [*reversed(alike), mine])]
    found = shown[0]
    if found is None or found is not shown[1]:
        return None
    unify(own, leaf_of[found.name], "the code takes the size of one for the other")
    seen.followed += 1
    return f"{mine.name} follows {found.name}"


def _whose(
    seen: Observation, run: Run, plan: Plan, asked: tuple[Space, list[Width]], leaf_of: Mapping[str, Space]
) -> Width | None:
    """The one width among these whose size a dimension has, in a trial in which each has a count of its own."""
    own, widths = asked
    again = _each_another(plan, widths)
    trial = None if again is None else _tried(seen, run, again, leaf_of)
    if again is None or trial is None or trial.off is None or _leaf_of_its_own(trial) is not own:
        return None
    found = [w for w in widths if leaf_of[w.name].root() is not own and again.sizes[w.name] == trial.off[1]]
    return found[0] if len(found) == 1 else None


def _leaf_of_its_own(rehearsal: Rehearsal) -> Space | None:
    """The leaf that was not as large as foretold, where it is no part of something and not simply as it ever was."""
    if rehearsal.off is None:
        return None
    space, got = rehearsal.off
    found = leaves(space)
    return found[0].root() if len(found) == 1 and not found[0].frozen and space.root().size != got else None


def _each_another(plan: Plan, widths: list[Width]) -> Plan | None:
    """The plan with a count for each of these that none of the others has, while there are enough.

    They are near one another, since a slice ends with what it is of.
    """
    assert plan.graph is not None
    counts = {name: plan.sizes[name] for name in plan.kept}
    taken: set[int] = set()
    for width in widths:
        smaller = [count for count in width.choices[:-1] if count > 1]
        free = [count for count in smaller if count not in taken] or smaller
        if not free:
            return None
        counts[width.name] = free[len(free) // 2]
        taken.add(counts[width.name])
    try:
        return plan.graph.plan({name: np.arange(count) for name, count in counts.items()})
    except PlanError:
        return None


def _tried(seen: Observation, run: Run, plan: Plan, leaf_of: Mapping[str, Space]) -> Rehearsal | None:
    assert plan.graph is not None
    rehearsal = Rehearsal(run, {id(leaf_of[w.name].root()): plan.sizes[w.name] for w in plan.graph.free})
    try:
        run_narrowed(run, plan, rehearsal, seen.outside)
    except Exception:  # this one is to find out where it goes wrong
        return rehearsal
    return None
