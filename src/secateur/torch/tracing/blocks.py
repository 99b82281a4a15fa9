"""Which modules may go whole: a block adds something to what it is given, and gives that on.

    x ──┬── norm ── attention ──(+)──┬── norm ── ffn ──(+)──► x'       x, given on along the sums: a block without which
        └─────────────────────────┘  └──────────────────┘              x goes on as it is

Modules are watched while the model runs: what tensors they get and give, and which operators run in between. One is a block
where every tensor that it made, and that is read outside or returned, is such a sum; or is only added, by its caller, to what
it was given. No names and no classes: a transformer's layers, the blocks of a ResNet's stage and of a U-Net are found alike.

Invariant: dropping a block is seen to run before it is called free; what is wrong about it after that, verification finds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from secateur.core.depth import Pairs
from secateur.core.equations import Attribute
from secateur.core.space import Space, leaves
from secateur.torch.running.walking import named_modules, parameters_of
from secateur.torch.tracing.memory import Holding, passes_on
from secateur.torch.tracing.records import Record

SUMS = frozenset({"add", "add_", "sub", "sub_", "rsub", "addcmul", "addcmul_", "lerp", "lerp_"})


class Held(NamedTuple):
    """A tensor at the border of a module: the number of its contents, its dimensions, its dtype."""

    number: int
    spaces: tuple[Space, ...]
    dtype: torch.dtype

    def is_like(self, other: Held) -> bool:
        """Whether one may stand for the other: the same dimensions, of the same kind of numbers."""
        same = len(self.spaces) == len(other.spaces) and self.dtype == other.dtype
        return same and all(map(_is_same, self.spaces, other.spaces))


def _is_same(one: Space, other: Space) -> bool:
    mine, theirs = leaves(one), leaves(other)
    if [leaf.size for leaf in mine] == [leaf.size for leaf in theirs]:
        return all(a is b or (a.frozen and b.frozen) for a, b in zip(mine, theirs, strict=True))
    return False


@dataclass(frozen=True, slots=True)
class Visit:
    """Once through a module: the tensors among its arguments and in its output, in order, and the records in between.

    ``values`` is the length of the tuple that it gave, 0 for anything else than that or a tensor (None).
    """

    name: str
    given: tuple[Held | None, ...]
    gave: tuple[Held | None, ...]
    start: int
    end: int
    values: int | None = None


@dataclass(slots=True)
class Borders:
    """What passed the borders of modules in a run, in order, and the contents that are the model's interface; it grows."""

    visits: list[Visit] = field(default_factory=list)
    pinned: list[int] = field(default_factory=list)


def entries_of(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
    """Every list of modules by dotted name, with each of its entries by key; lists whose keys tell no order have none."""
    for name, stack in named_modules(model):
        if isinstance(stack, (nn.ModuleList, nn.Sequential)) and not isinstance(stack, torch.jit.ScriptModule):
            keys = list(stack._modules)
            if not any(key.isdigit() for key in keys) or keys == [str(i) for i in range(len(keys))]:
                yield from ((name, stack, key, entry) for key, entry in stack._modules.items() if entry is not None)


def listed(model: nn.Module) -> dict[str, nn.Module]:
    """The entries of lists, by dotted name, that are no plain layers."""
    found: dict[str, nn.Module] = {}
    for name, _, key, entry in entries_of(model):
        plain = type(entry).__module__.startswith("torch.nn.modules.") and not entry._modules
        if not plain:
            found[f"{name}.{key}" if name else key] = entry
    return found


def numbered(name: str, entries: Mapping[str, nn.Module]) -> Iterator[tuple[Attribute, int]]:
    """The integers in entries that say where each stands: in all that have one, its place, counted from 0 or from 1."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for key, entry in entries.items():
        for path, module in named_modules(entry):
            for attribute, value in vars(module).items():
                if type(value) is int:
                    found.setdefault((path, attribute), {})[key] = value
    places = {key: place for place, key in enumerate(entries)}
    for (path, attribute), values in found.items():
        offsets = {value - places[key] for key, value in values.items()}
        if len(values) > 1 and offsets in ({0}, {1}):
            for key, value in values.items():
                yield Attribute(".".join(filter(None, (name, key, path))), attribute), value


def watch(model: nn.Module, tracer: Any) -> None:
    """Let the tracer write down what passes the borders of the entries of lists, and of all else that has parameters."""
    entries = listed(model)
    others = {name: module for name, module in named_modules(model) if name and name not in entries}
    for name, module in {**others, **entries}.items():
        known = name in entries or bool(parameters_of(module))
        if known and not isinstance(module, torch.jit.ScriptModule):
            watch_one(module, name, tracer, in_list=name in entries)


def watch_one(entry: nn.Module, name: str, tracer: Any, *, in_list: bool) -> None:
    """Let the tracer write down what passes the borders of a module."""
    running: list[tuple[tuple[Held | None, ...], list[Holding | None], int]] = []

    def enter(module: nn.Module, args: object, kwargs: object) -> None:
        running.append((_held((args, kwargs), tracer), _memory((args, kwargs), tracer), len(tracer.records)))

    def leave(module: nn.Module, args: object, kwargs: object, out: object) -> None:
        given, had, start = running.pop()
        visit = Visit(name, given, _held(out, tracer), start, len(tracer.records), _values(out))
        tracer.borders.visits.append(visit)
        made = _memory(out, tracer)
        flow = _Flow.through(visit, tracer.records)
        found = list(_sources(visit, flow))
        if in_list and flow.adds(visit, found):
            for place, source in found:
                passes_on(had[source], made[place], name)
        else:
            _stays(visit, made, tracer)

    entry.register_forward_pre_hook(enter, with_kwargs=True)
    entry.register_forward_hook(leave, with_kwargs=True)


def _stays(visit: Visit, made: Sequence[Holding | None], tracer: Any) -> None:
    """Of what may leave a module in its place, what it gives is there without it, too: whoever called it pays."""
    had = {given.number: [space.size for space in given.spaces] for given in visit.given if given is not None}
    for held, holding in zip(visit.gave, made, strict=True):
        if held is None or holding is None or holding.block or held.number in had:
            continue
        if [space.size for space in held.spaces] in had.values():  # the same spaces once the two are added
            tracer.allocations.account(holding, visit.name.rpartition(".")[0])


def _values(out: object) -> int | None:
    if isinstance(out, torch.Tensor):
        return None
    return len(out) if type(out) in (tuple, list) and len(out) == len(tree_leaves(out)) else 0  # type: ignore[arg-type]


def _memory(value: object, tracer: Any) -> list[Holding | None]:
    tensors = (tracer.known(leaf) if isinstance(leaf, torch.Tensor) else None for leaf in tree_leaves(value))
    return [None if known is None else tracer.allocations.of(known.memory) for known in tensors]


def _held(value: object, tracer: Any) -> tuple[Held | None, ...]:
    return tuple(_as_held(leaf, tracer) if isinstance(leaf, torch.Tensor) else None for leaf in tree_leaves(value))


def _as_held(tensor: torch.Tensor, tracer: Any) -> Held:
    known = tracer.value(tensor)
    return Held(known.number, tuple(known.spaces), tensor.dtype)


@dataclass(frozen=True)
class Course:
    """A run, ready to be asked about its visits: who reads what, and what belongs to the interface."""

    records: Sequence[Record]
    readers: Mapping[int, Sequence[int]]
    writers: Mapping[int, Sequence[Record]]
    pinned: frozenset[int]
    kept: frozenset[int]

    @classmethod
    def of(cls, records: Sequence[Record], pinned: Iterable[int], kept: Iterable[int]) -> Course:
        """From what a tracer wrote down."""
        readers: dict[int, list[int]] = {}
        writers: dict[int, list[Record]] = {}
        for place, record in enumerate(records):
            if not record.view:
                for number in record.reads:
                    readers.setdefault(number, []).append(place)
                for number in record.writes:
                    writers.setdefault(number, []).append(record)
        return cls(records, readers, writers, frozenset(pinned), frozenset(kept))

    def passes(self, visit: Visit) -> Pairs | None:
        """Which tensors of its arguments a block passes on at which places of its output; None for what is no block."""
        flow = _Flow.through(visit, self.records)
        found = tuple(_sources(visit, flow))
        passed = {held.number for place, _ in found if (held := visit.gave[place]) is not None}
        if not flow.adds(visit, found) or self.escapes(visit, passed):
            return None
        return found

    def escapes(self, visit: Visit, passed: Collection[int]) -> bool:
        """Whether something else that was made here is read outside, or is part of what the model returns."""
        for record in self.records[visit.start : visit.end]:
            for number in record.writes:
                if number in passed or number in self.kept or record.view:
                    continue
                if number in self.pinned or (number in record.reads and number in {h.number for h in visit.given if h}):
                    return True
                if any(place < visit.start or place >= visit.end for place in self.readers.get(number, ())):
                    return True
        return False


def _sources(visit: Visit, flow: _Flow) -> Iterator[tuple[int, int]]:
    """The places of outputs that are sums with an argument, or one itself, each with the place of the argument."""
    for place, held in enumerate(visit.gave):
        sources = frozenset[int]() if held is None else flow.sources(held.number)
        likely = ((i, given) for i, given in enumerate(visit.given) if given is not None and given.number in sources)
        source = next((i for i, given in likely if held is not None and held.is_like(given)), None)
        if source is not None:
            yield place, source


class _Flow:
    """What becomes of the arguments inside a module; state, because operators may write in place.

    A tensor is *given* (an argument, or made of arguments without a contraction), of a *branch* (through one), or the *sum* of
    both.
    """

    def __init__(self, given: Iterable[int]) -> None:
        self._known: dict[int, tuple[str, frozenset[int]]] = {n: ("given", frozenset([n])) for n in given}

    @classmethod
    def through(cls, visit: Visit, records: Sequence[Record]) -> _Flow:
        """What became of the arguments of this visit."""
        flow = cls({held.number for held in visit.given if held is not None})
        for record in records[visit.start : visit.end]:
            flow.follow(record)
        return flow

    def follow(self, record: Record) -> None:
        """One operator further."""
        if record.view:
            return
        met = [self._known[number] for number in record.reads if number in self._known]
        for number in record.writes:
            if met:
                self._known[number] = self._made(record, met)
            else:
                self._known.pop(number, None)

    def adds(self, visit: Visit, passes: Iterable[tuple[int, int]]) -> bool:
        """Whether anything that is passed on is a sum with an argument."""
        passed = (held.number for place, _ in passes if (held := visit.gave[place]) is not None)
        return any(self._known.get(number, ("", ()))[0] == "sum" for number in passed)

    def sources(self, number: int) -> frozenset[int]:
        """The arguments that a tensor is, or is a sum with."""
        kind, sources = self._known.get(number, ("", frozenset[int]()))
        return sources if kind in ("sum", "given") else frozenset()

    @staticmethod
    def _made(record: Record, met: list[tuple[str, frozenset[int]]]) -> tuple[str, frozenset[int]]:
        kinds = {kind for kind, _ in met}
        sources = frozenset[int]().union(*(found for _, found in met))
        if record.weighs:
            return "branch", frozenset()
        if len(kinds) == 1:
            return kinds.pop(), sources
        if record.name in SUMS:
            return "sum", sources
        return "branch", frozenset()
