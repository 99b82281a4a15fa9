"""What is allocated and released while a network runs, in order, each on the account of the module that pays.

    x ──► block ──► s        with the block:    + s   − x          − s        whoever made s holds it, x is let go
                             without it:                           − x        s is x, which lives as long as either

So the rise of s and the first fall of the two are paid for while the block is there; the last fall always.

Invariant: what was allocated is released once, if at all. Without some blocks a peak may be told too high (where something is
held along several that all go), never too low.
"""

from __future__ import annotations

import weakref

from secateur.torch.tracing.records import Memory
from secateur.torch.tracing.scratch import CostTerm


class Holding:
    """One piece of memory. ``stays_for``: what its block gave in its place, if it is a block's input; ``came_of``: what
    its block was given, if it is a block's output."""

    __slots__ = ("account", "block", "came_of", "is_gone", "memory", "stays_for", "term")

    def __init__(self, memory: Memory, term: CostTerm) -> None:
        self.memory, self.term = weakref.ref(memory), term
        self.account = term[2]
        self.block = ""  # the one, of a list, that gave it
        self.came_of: Holding | None = None
        self.stays_for: Holding | None = None
        self.is_gone = False

    def released(self) -> list[CostTerm]:
        """The events of its end."""
        self.is_gone = True
        number, spaces, _ = self.term
        next_one = None if self.stays_for is None or self.stays_for.is_gone else self.stays_for
        if self.came_of is None or self.came_of.is_gone:
            return [(-number, spaces, self.account if next_one is None else next_one.block)]
        self.came_of.stays_for = None
        event = -number, spaces, self.block
        return [event] if next_one is None else [event, *next_one.is_another()]

    def is_another(self) -> list[CostTerm]:
        """From now on it is told as there, whatever blocks are: a cost that said it exactly would fall with a block more."""
        number, spaces, _ = self.term
        self.came_of = None
        return [(-number, spaces, self.block), (number, spaces, self.account)]


class Holdings:
    """State: it grows as operators run."""

    def __init__(self) -> None:
        self.events: list[CostTerm] = []
        self._held: list[Holding] = []

    def add(self, memory: Memory, term: CostTerm) -> None:
        """Something was allocated."""
        self._held.append(Holding(memory, term))
        self.events.append(term)

    def account(self, held: Holding, module: str) -> None:
        """Another module pays for this piece, its rise as well as its fall."""
        place = next(at for at in range(len(self.events) - 1, -1, -1) if self.events[at] is held.term)
        held.account = module
        held.term = self.events[place] = (*held.term[:2], module)

    def note_releases(self) -> None:
        """What was let go since the last operator. (Not in a finaliser: Python swallows an interrupt that strikes there.)"""
        gone = [held for held in self._held if held.memory() is None]
        if gone:
            gone.sort(key=lambda held: any(space.size == 0 for space in held.term[1]))  # a fall of nothing ends no rise
            self._held = [held for held in self._held if held.memory() is not None]
            self.events.extend(event for held in gone for event in held.released())

    def of(self, memory: Memory | None) -> Holding | None:
        """The piece that a tensor is in; an input of the model is in none."""
        return next((held for held in reversed(self._held) if memory is not None and held.memory() is memory), None)


def passes_on(given: Holding | None, gave: Holding | None, block: str) -> None:
    """Without this block, what it was given would stand for what it gave, for as long as either lives."""
    if gave is None or given is gave:
        return
    gave.block = gave.block or block
    if given is None:  # an input of the model is in no piece
        return
    gave.account = block.rpartition(".")[0]
    if given.stays_for is None and gave.came_of is None:
        given.stays_for, gave.came_of, gave.block = gave, given, block
