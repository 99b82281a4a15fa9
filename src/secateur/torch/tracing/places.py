"""Blocks that no list holds: without one, a module in its place gives on what it was given.

    x ── mid ──► x'                      mid adds something to x itself: x goes on          the innermost such are taken
    x ──┬── norm ── attention ──(+)──►   its caller adds what it gives: zeros go on         the outermost, outside of those
        └────────────────────────┘

Invariant: a place is visited once in every run, and nobody else holds it or any of its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from secateur.core.depth import Passes, Stack, inside
from secateur.torch.running.walking import parameters_of
from secateur.torch.tracing.blocks import SUMS, Course, Held, Visit
from secateur.torch.tracing.observe import Observation, Run

Found = dict[str, Passes]


def places(seen: Observation, taken: Collection[str], alone: Callable[[nn.Module], bool]) -> list[Stack]:
    """The blocks that are not ``taken``, nor in or around one that is, by the module that holds them."""
    model = seen.example.model
    number = sum(1 for _ in parameters_of(model))

    def may(name: str) -> bool:
        if inside(name, taken) or any(inside(other, [name]) for other in taken):
            return False
        module = model.get_submodule(name)
        return sum(1 for _ in parameters_of(module)) < number and alone(module)  # never all there is

    names = {visit.name for visit in seen.tracer.borders.visits}
    found = _in_all_runs(seen, {name for name in names if may(name)})
    return list(_stacks(seen, _apart(found)))


def _apart(found: Found) -> Found:
    """None in another: of those that add by themselves the innermost, of the others the outermost."""
    sums = {name for name, passes in found.items() if not passes.zeros}
    chosen = {name for name in sums if not any(inside(other, [name]) for other in sums - {name})}
    for name in sorted(found.keys() - sums, key=len):
        if not inside(name, chosen) and not any(inside(other, [name]) for other in chosen):
            chosen.add(name)
    return {name: passes for name, passes in found.items() if name in chosen}


def _stacks(seen: Observation, found: Found) -> Iterator[Stack]:
    held: dict[str, Found] = {}
    for name, passes in found.items():
        around, _, key = name.rpartition(".")
        held.setdefault(around, {})[key] = passes
    for around, mine in held.items():
        order = [key for key in seen.example.model.get_submodule(around)._modules if key in mine]
        yield Stack(name=around, entries=tuple(order), passes=mine, in_place=True)


def _in_all_runs(seen: Observation, names: Collection[str]) -> Found:
    """Of these modules what they pass on, the same in all runs."""
    found: Mapping[str, Passes] | None = None
    for run in seen.whole_calls:
        here = _in_run(run, names)
        found = here if found is None else {name: p for name, p in found.items() if here.get(name) == p}
    return dict(found or {})


def _in_run(run: Run, names: Collection[str]) -> Found:
    tracer = run.tracer
    course = Course.of(tracer.records, tracer.borders.pinned, tracer.kept)
    visits: dict[str, Visit | None] = {}
    for visit in (visit for visit in tracer.borders.visits if visit.name in names):
        visits[visit.name] = None if visit.name in visits else visit
    passes = {name: _passes(course, visit) for name, visit in visits.items() if visit is not None and visit.values != 0}
    return {name: each for name, each in passes.items() if each is not None}


def _passes(course: Course, visit: Visit) -> Passes | None:
    pairs = course.passes(visit)
    if pairs is not None:
        return Passes(pairs, values=visit.values)
    return _Branch(course, visit).passes()


@dataclass(frozen=True, slots=True)
class _Branch:
    """A visit, asked whether what it gave is only added to what it was given."""

    course: Course
    visit: Visit

    def passes(self) -> Passes | None:
        """Zeros in the place of the one tensor that is read outside; None where this is no branch."""
        visit, course = self.visit, self.course
        if not any(record.weighs for record in course.records[visit.start : visit.end]):
            return None
        read = [
            (place, held) for place, held in enumerate(visit.gave) if held is not None and self._leaves(held.number)
        ]
        if len(read) != 1 or course.escapes(visit, {read[0][1].number}):
            return None
        place, held = read[0]
        partners = self._partners(held.number)
        given = (
            (source, one) for source, one in enumerate(visit.given) if one is not None and one.number != held.number
        )
        for source, one in given:
            if held.is_like(one) and partners and all(self._from_one(one, partner) for partner in partners):
                return Passes(((place, source),), zeros=True, values=visit.values)
        return None

    def _leaves(self, number: int) -> bool:
        readers = self.course.readers.get(number, ())
        return number in self.course.pinned or number in self.course.kept or any(at >= self.visit.end for at in readers)

    def _partners(self, number: int) -> set[int]:
        """What it is added to, scaled or dropped from or normed before; nothing where something else becomes of it."""
        found: set[int] = set()
        todo, known = [number], {number}
        while todo:
            one = todo.pop()
            added = False
            for place in (at for at in self.course.readers.get(one, ()) if at >= self.visit.end):
                record = self.course.records[place]
                if record.name in SUMS and len(record.reads) == 2 and not added:
                    found.update(set(record.reads) - {one})
                    added = one in record.writes  # from here on it is the sum that goes by this number
                elif record.weighs and not added:
                    return set()
                elif not added:
                    todo += [other for other in record.writes if other not in known]
                    known.update(record.writes)
            if not added and (one in self.course.pinned or one in self.course.kept):
                return set()
        return found

    def _from_one(self, given: Held, partner: int) -> bool:
        """Whether the two come from one tensor: what was given by norms and scales alone, the other by sums, too."""
        return bool(self._origins(given.number, sums=False) & self._origins(partner, sums=True))

    def _origins(self, number: int, *, sums: bool) -> set[int]:
        found, todo = {number}, [number]
        while todo:
            for record in self.course.writers.get(todo.pop(), ()):
                if not record.weighs and (sums or record.name not in SUMS):
                    new = [other for other in record.reads if other not in found]
                    todo += new
                    found.update(new)
        return found
