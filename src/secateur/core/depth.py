"""Depth: the blocks of a network that may go whole, and what their neighbours are called afterwards.

    layers.0  layers.1  layers.2  layers.3        a stack; each block a width of kind ``layers`` with the choices 0 and 1
    layers.0            layers.2  layers.3        layers.1 dropped
    layers.0  layers.1  layers.2                  what stays is renumbered, and so are its own numbers (``layer_idx``)

A block gives back, at each place that anybody reads, the very dimensions it was given there: without it, what came in goes on.
One that is in no list leaves a module in its place, which does just that (``mid``); where the sum is its caller's business
(``x + self.mid(x)``), it gives zeros.

Invariant: of a stack at least one block stays, or an entry like one; a block that is alone in its module may go.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal

from secateur.core.cost import Cost, Peak, Polynomial, Term
from secateur.core.equations import Attribute
from secateur.core.layout import Along

LAYERS = "layers"  # the kind of width that a block is

Depth = bool | Literal["only"]  # whether blocks may go, or nothing else may
Pairs = tuple[tuple[int, int], ...]  # which tensor of a block's output stands for which tensor of its arguments


@dataclass(frozen=True, slots=True)
class Passes:
    """What goes on without a block: arguments, at places of its output, or with ``zeros`` zeros like them.

    ``values`` is the length of the tuple that it gives; None where it gives a tensor.
    """

    pairs: Pairs
    zeros: bool = False
    values: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A list of modules of which some are blocks; or blocks that one module holds by name (``in_place``).

    ``entries`` are its keys in order; ``passes`` says of each block, by key, what it passes on. ``numbered`` are integers
    that say where an entry stands, with their values; ``counts`` integers that say how many entries there are. ``axis`` is that
    of the features in what is passed on. In the place of a block of an ``in_place`` stack a module stays; lists close up.
    ``others`` are entries of other classes than its blocks (a stem, a head): that they stay does not make it a stack.
    """

    name: str
    entries: tuple[str, ...]
    passes: Mapping[str, Passes]
    numbered: Mapping[Attribute, int] = field(default_factory=dict)
    counts: tuple[Attribute, ...] = ()
    axis: int = -1
    in_place: bool = False
    others: tuple[str, ...] = ()

    def module(self, key: str) -> str:
        """The dotted name of an entry."""
        return f"{self.name}.{key}" if self.name else key

    @property
    def modules(self) -> tuple[str, ...]:
        """The dotted names of all entries."""
        return tuple(map(self.module, self.entries))

    @property
    def blocks(self) -> tuple[str, ...]:
        """The dotted names of those that may go."""
        return tuple(self.module(key) for key in self.entries if key in self.passes)

    @property
    def least(self) -> int:
        """How many entries have to stay."""
        alike = len(self.entries) - len(self.others)
        return len(self.others) + (1 if alike > 1 else 0)

    def stays_without(self, drops: Collection[str]) -> bool:
        """Whether enough of it stays without these blocks."""
        return sum(name not in drops for name in self.modules) >= self.least


@dataclass(frozen=True, slots=True)
class Renaming:
    """What modules and tensors are called once blocks are gone. ``gone``: by stack, the numbers of those, in order."""

    drops: frozenset[str]
    gone: Mapping[str, Sequence[int]]

    @classmethod
    def without(cls, drops: Collection[str], in_place: Collection[str] = ()) -> Renaming:
        """The names without these blocks; where something stays ``in_place``, nothing is renumbered."""
        gone: dict[str, list[int]] = {}
        for name in (name for name in drops if name not in in_place):
            stack, _, key = name.rpartition(".")
            if key.isdigit():  # a key that is a word stays one
                gone.setdefault(stack, []).append(int(key))
        return cls(frozenset(drops), {stack: sorted(numbers) for stack, numbers in gone.items()})

    def __call__(self, name: str) -> str | None:
        """The new name of a module or tensor; None for what is in a dropped block."""
        if not self.drops:
            return name
        way, parts = "", []
        for part in name.split("."):
            stack, way = way, f"{way}.{part}" if way else part
            if way in self.drops:
                return None
            numbers = self.gone.get(stack)
            parts.append(part if numbers is None or not part.isdigit() else str(_after(int(part), numbers)))
        return ".".join(parts)

    def back(self, name: str) -> str:
        """The name before, of a module or tensor that stayed."""
        way: list[str] = []
        for part in name.split("."):
            numbers = self.gone.get(".".join(way))
            way.append(part if numbers is None or not part.isdigit() else str(_before(int(part), numbers)))
        return ".".join(way)


def _before(number: int, gone: Sequence[int]) -> int:
    for one in gone:
        number += one <= number
    return number


def _after(number: int, gone: Sequence[int]) -> int:
    return number - bisect_left(gone, number)


def renumbered(stacks: Sequence[Stack], drops: Collection[str]) -> Iterator[tuple[Attribute, int, int]]:
    """The integers that follow from where blocks stand and how many there are: each with its value now and afterwards."""
    for stack in (stack for stack in stacks if not stack.in_place):
        gone = [place for place, name in enumerate(stack.modules) if name in drops]
        if not gone:
            continue
        places = {name: place for place, name in enumerate(stack.modules)}
        for attribute, value in stack.numbered.items():
            entry = next(name for name in places if f"{attribute.module}.".startswith(f"{name}."))
            new = value - bisect_left(gone, places[entry])
            if new != value and entry not in drops:
                yield attribute, value, new
        for attribute in stack.counts:
            yield attribute, len(stack.entries), len(stack.entries) - len(gone)


def emptied(stacks: Sequence[Stack], drops: Collection[str]) -> str | None:
    """The first stack of which nothing would stay."""
    return next((stack.name for stack in stacks if not stack.stays_without(drops)), None)


def standing(stacks: Sequence[Stack]) -> dict[str, Passes]:
    """The blocks that leave a module in their place, each with what that gives on."""
    return {stack.module(key): passes for stack in stacks if stack.in_place for key, passes in stack.passes.items()}


def priced(cost: Cost, blocks: Collection[str]) -> Cost:
    """A cost of which the share of each block is paid only while the block is there."""
    if not isinstance(cost, Polynomial | Peak):
        return cost
    return replace(cost, terms=tuple(_priced(term, blocks) for term in cost.terms))


def _priced(term: Term, blocks: Collection[str]) -> Term:
    parts = term.module.split(".")
    around = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    present = tuple(Along(name, 1) for name in around if name in blocks)
    return term._replace(axes=(*term.axes, *present)) if present else term


def inside(name: str, blocks: Collection[str]) -> bool:
    """Whether a module or tensor is one of these blocks, or in one."""
    parts = name.split(".")
    return any(".".join(parts[:end]) in blocks for end in range(1, len(parts) + 1))


def all_blocks(stacks: Sequence[Stack]) -> tuple[str, ...]:
    """The blocks of all stacks."""
    return tuple(chain.from_iterable(stack.blocks for stack in stacks))
