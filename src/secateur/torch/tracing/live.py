"""What took part: dimensions that some operator touched, and among them those that what the model returns depends on.

    x ── conv ──┬── exit ── softmax ── max ── if … > 0.4      exit.out_features: used, but nothing that is returned has it
                └── fc ──► returned

Invariant: a dimension called idle or dead here is frozen; to be wrong costs freedom, never a result.
"""

from __future__ import annotations

from collections.abc import Iterable

from secateur.core.space import freeze, leaves
from secateur.torch.tracing.observe import Observation, Run
from secateur.torch.tracing.records import Record

UNUSED = "the example does not exercise it"
DEAD = "nothing that the model returns depends on it, only what its code decides"

VIEWS = frozenset(
    ["slice", "select", "split", "split_with_sizes", "unbind", "narrow", "chunk", "_to_copy", "detach", "alias"]
)


def used_leaves(seen: Observation) -> set[int]:
    """Identities of the leaves that some operator other than a view touched."""
    return used_in(seen.records)


def used_in(records: Iterable[Record]) -> set[int]:
    """The same of these operators alone."""
    return _touched(record for record in records if not (record.view or record.name in VIEWS))


def freeze_idle(seen: Observation) -> None:
    """Freeze leaves that no run exercises (a longer input might use them), or that only a decision of the code does."""
    used = used_leaves(seen)
    live = _touched(record for run in seen.runs for record in _live(run))
    for spaces in seen.spaces.values():
        for leaf in (leaf for space in spaces for leaf in leaves(space)):
            if id(leaf) not in live:
                freeze(leaf, DEAD if id(leaf) in used else UNUSED)


def _touched(records: Iterable[Record]) -> set[int]:
    found: set[int] = set()
    for record in records:
        for layout in (record.inputs, *record.outputs):
            for space in layout:
                if id(space) not in found:
                    found.add(id(space))
                    found.update(id(leaf) for leaf in leaves(space))
    return found


def _live(run: Run) -> list[Record]:
    """The operators whose results reach the outputs, or tensors that the model keeps. All, where it did not get to its end."""
    if not run.whole:
        return run.tracer.records
    wanted = set(run.tracer.returned) | run.tracer.kept
    live: list[Record] = []
    for record in reversed(run.tracer.records):
        if not record.view and not wanted.isdisjoint(record.writes):
            wanted.update(record.reads)
            live.append(record)
    return live
