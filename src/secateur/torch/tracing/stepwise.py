"""What becomes of what: a run without some blocks must be the whole one, as if each gave on what it was given.

    whole      a = embed(x)   b = layer0(a)   n = norm0(b)   c = layer1(n)   norm1(c)
    expected   a = embed(x)                   n = norm0(a)   c = layer1(n)   norm1(c)      without layer0
    run        a = embed(x)   c = layer0(a)   n = norm0(c)                                 zip(layers, norms): frozen

Operators that the result comes of are held against each other one by one: which one, where, on what, and with which numbers.
What only brings a tensor into another form is left out, since PyTorch itself does that as memory lies. Where zeros stand for what
a block gave, they are the one thing for the other.

Invariant: numbers of contents mean something within their run only; parameters and inputs go by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from secateur.core.depth import Passes
from secateur.torch.running.calls import Args, Kwargs, Operator, Result
from secateur.torch.tracing.heard import numbers_in
from secateur.torch.tracing.observe import Witness
from secateur.torch.tracing.records import Record, Value
from secateur.torch.tracing.rehearsal import LAYOUT
from secateur.torch.tracing.trees import flat

Details = tuple[object, ...]


class Stepwise(Witness):
    """Runs operators without rules, and writes down what went into each and what came out."""

    def __init__(self, *, abstract: bool, answers: Any) -> None:
        super().__init__(abstract=abstract, answers=answers)
        self.owners: dict[int, str] = {}
        self.details: list[Details] = []
        self.results: list[int] = []

    def named(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """A tensor that the run begins with, called by this name in every run."""
        known = Value([], [], self._run)
        self.owners[known.number] = name
        self.note(tensor, known)
        return self.owned(tensor)

    def observe(self, func: Operator, out: Result, args: Args, kwargs: Kwargs) -> None:
        """Write a step down."""
        name = (func._schema.name if hasattr(func, "_schema") else func.__name__).removeprefix("aten::")
        given = flat((args, kwargs))
        inputs = [t for t in given if isinstance(t, torch.Tensor)]
        outputs = [t for t in flat(out) if isinstance(t, torch.Tensor)]
        if name.startswith("prim::"):
            return
        numbers = tuple(_plain(item, known=isinstance(item, torch.Tensor) and self.known(item)) for item in given)
        view = getattr(func, "is_view", False)
        record = Record(name, self.module, [], [], view)
        record.reads = tuple(self._number(t) for t in inputs)
        same_contents = view or name in LAYOUT
        for tensor in outputs:
            if same_contents and record.reads and self.known(tensor) is None:
                self.note(tensor, Value([], [], self._run))
                self.value(tensor).number = record.reads[0]
        record.writes = tuple(self._number(t) for t in outputs)
        self.records.append(record)
        self.details.append(numbers)

    def _number(self, tensor: torch.Tensor) -> int:
        if self.known(tensor) is None:
            self.note(tensor, Value([], [], self._run))
        return self.value(tensor).number

    def returns(self, tensors: Collection[torch.Tensor]) -> None:
        """What the model gave."""
        self.results = [self._number(t) for t in tensors]


def _plain(item: object, *, known: object) -> object:
    """What can be compared of an argument: a number, a constant's numbers; a tensor of the run is told by what it is."""
    if isinstance(item, torch.Tensor):
        return None if known else tuple(numbers_in(item, whole=True))
    return repr(int(item)) if isinstance(item, int) and not isinstance(item, bool) else repr(item)


def differs_without(whole: Stepwise, passes: Mapping[str, Passes], other: Stepwise) -> str | None:
    """Where a run without some blocks is not the whole one without their steps; ``passes``: of each block that is gone."""
    same = _Likeness(whole, other, _instead(whole, passes))
    theirs = iter(_live(other, _outside(other, [visit.name for visit in other.borders.visits]), {}))
    for place in _live(whole, _outside(whole, passes), same.instead):
        mine = whole.records[place]
        match = next(theirs, None)
        if match is None or not same.step(place, match):
            return f"{mine.name} in {mine.module or 'the model'}"
    more = next(theirs, None)
    if more is not None:
        return f"{other.records[more].name} in {other.records[more].module or 'the model'}"
    return None if same.all(whole.results, other.results) else "what the model returns"


def _instead(whole: Stepwise, passes: Mapping[str, Passes]) -> dict[int, int]:
    """Past each block, what it gives is what it was given."""
    found: dict[int, int] = {}
    for visit in (visit for visit in whole.borders.visits if visit.name in passes and not passes[visit.name].zeros):
        for out, source in passes[visit.name].pairs:
            gave, given = visit.gave[out], visit.given[source]
            if gave is not None and given is not None and gave.number != given.number:
                found[gave.number] = given.number
    return found


def _outside(run: Stepwise, blocks: Collection[str]) -> list[int]:
    """The places of steps outside these."""
    inside = {at for visit in run.borders.visits if visit.name in blocks for at in range(visit.start, visit.end)}
    return [at for at in range(len(run.records)) if at not in inside]


def _live(run: Stepwise, places: Sequence[int], instead: Mapping[int, int]) -> list[int]:
    """Those of these steps that the results come of, or that write what the run began with; no changes of form.

    What only blocks read that are gone (a table of positions of their kind) may be made or not.
    """
    needed = {_past(number, instead) for number in run.results}
    found: list[int] = []
    for place in reversed(places):
        record = run.records[place]
        wrote = {_past(number, instead) for number in record.writes}
        if not wrote or not needed.isdisjoint(wrote) or not run.owners.keys().isdisjoint(wrote):
            needed.update(_past(number, instead) for number in record.reads)
            if record.name not in LAYOUT:
                found.append(place)
    return found[::-1]


def _past(number: int, instead: Mapping[int, int]) -> int:
    while number in instead:
        number = instead[number]
    return number


class _Likeness:
    """Which contents of one run are which of the other; state, since this is learnt as they are met."""

    def __init__(self, whole: Stepwise, other: Stepwise, instead: Mapping[int, int]) -> None:
        self.whole, self.other, self.instead = whole, other, instead
        self._there: dict[int, int] = {}
        self._here: dict[int, int] = {}

    def step(self, mine: int, theirs: int) -> bool:
        """Whether these steps do the same, of the same module, to the same."""
        one, two = self.whole.records[mine], self.other.records[theirs]
        alike = one.name == two.name and one.module == two.module
        alike = alike and self.whole.details[mine] == self.other.details[theirs]
        return alike and self.all(one.reads, two.reads) and self.all(one.writes, two.writes)

    def all(self, mine: Collection[int], theirs: Collection[int]) -> bool:
        """Whether these contents are the same ones."""
        return len(mine) == len(theirs) and all(map(self._is, mine, theirs))

    def _is(self, mine: int, theirs: int) -> bool:
        mine = _past(mine, self.instead)
        names = self.whole.owners.get(mine), self.other.owners.get(theirs)
        if names != (None, None):
            return names[0] == names[1]
        return self._there.setdefault(mine, theirs) == theirs and self._here.setdefault(theirs, mine) == mine
