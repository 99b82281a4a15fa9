"""What the model's own configuration must say for the constructor to build the narrowed network.

    narrowed shapes ──► fields tried, one by one, on networks without data ──► {"hidden_size": 48, "num_attention_heads": 6}

No table of families: a field is changed where the network that the constructor then builds is nearer to the narrowed one, in
shapes and in the integers that its code reads. Works for whatever is built from its ``config`` and what it holds besides.

Invariant: a description is given only if the constructor builds exactly the narrowed shapes from it, and every number that it
computes on the way is the one that the narrowed network has; else the reason is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, combinations, islice, product
from typing import Any

import torch
from torch import nn

from secateur.core.layout import Axis, Product, Sum, size_of
from secateur.core.plan import Plan
from secateur.search.ties import uneven
from secateur.torch.narrowing.host_building import (
    Config,
    NumbersHeld,
    config_of,
    fresh,
    is_config,
    is_described,
    on_meta,
    put_numbers,
)
from secateur.torch.narrowing.host_depth import Value, fields_of, shallower
from secateur.torch.running.randomness import undo_of_random_state
from secateur.torch.running.walking import modules_of, named_buffers, named_modules, named_parameters

ORIGINAL_CONFIG, UNSAID = "_secateur_config", "_secateur_unsaid"  # notes on a model that was narrowed

_MOST_PAIRS = 60
Fields = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Said:
    """New values of a configuration's fields, by dotted path; where none will do, the ``reason``."""

    fields: Fields = field(default_factory=dict)
    reason: str | None = None


def said_by_config(model: nn.Module, plan: Plan) -> Said | None:
    """What the configuration has to say after a plan; None for a model that has no configuration."""
    config = config_of(model)
    if config is None:
        return None
    undo = undo_of_random_state()
    try:
        description = _Description(model, config, plan)
        if not is_described(model) and description.unfit() is not None:
            return None
        blocks = uneven(plan)
        return description.found() if blocks is None else Said(reason=f"{blocks} has another size in each block")
    finally:
        undo()


def said_of_depth(model: nn.Module, plan: Plan) -> Fields:
    """What the configuration says of the layers that a plan leaves: code may go by it as it runs. Nothing where it cannot."""
    if not plan.drops or config_of(model) is None:
        return {}
    alone = plan if plan.graph is None else plan.graph.plan(dict.fromkeys(plan.drops, ()))
    said = said_by_config(model, alone)
    return said.fields if said is not None and said.reason is None else {}


def admits(model: nn.Module, changes: Mapping[str, Fraction]) -> bool:
    """Whether a model's configuration takes fields that are changed by these shares; one without configuration does."""
    config = config_of(model)
    if config is None:
        return True
    try:
        whole = {path: _value(config, path) for path in changes}
        new = {path: value * changes[path] for path, value in whole.items() if isinstance(value, int)}
        if any(value.denominator > 1 or value < 1 for value in new.values()):
            return False
        _valid(with_fields(config, {path: int(value) for path, value in new.items()}))
    except Exception:  # other people's code, whose refusal is the answer
        return False
    return True


def _valid(config: Config) -> Config:
    """The configuration, checked by its own rules as when it is saved."""
    check = getattr(config, "validate", None)
    if callable(check):
        check()
    return config


class _Unbuildable(Exception):
    """The constructor refuses a configuration."""


class _Description:
    """The search for one description. State: networks that were built, which is what takes time."""

    def __init__(self, model: nn.Module, config: Config, plan: Plan) -> None:
        self.model, self.config, self.plan = model, config, plan
        self.shapes = {n: tuple(t.shape) for n, t in _stored(model).items()}
        self.wanted = {
            new: plan.shape(n) if plan.narrows(n) else shape
            for n, shape in self.shapes.items()
            if (new := plan.renamed(n)) is not None
        }
        self.numbers = _numbers_read(plan)
        self.marks: dict[tuple[str, str], object] = {}
        self.counts: dict[tuple[str, str], int] = {}

    def unfit(self) -> str | None:
        """Why the configuration is none of the model as it is now, if it is not."""
        try:
            whole = self._built({})
        except _Unbuildable as problem:
            return f"{type(self.model).__name__} cannot be built from its configuration ({problem})"
        self.counts = _counts(whole)
        marks = _marks(whole, words=bool(self.plan.drops))
        self.marks = {(new, key): mark for (m, key), mark in marks if (new := _called(m, self.plan)) is not None}
        if {n: tuple(t.shape) for n, t in _stored(whole).items()} != self.shapes:
            return "its configuration does not describe the model as it is now"
        return None

    def found(self) -> Said:
        """The fields, or why there are none."""
        reason = self.unfit()
        if reason is not None:
            return Said(reason=reason)
        computed = next((n for n in _not_stored(self.model) if self.plan.narrows(n)), None)
        if computed is not None:
            return Said(reason=f"{computed} is computed from the configuration, and holds a choice of its numbers now")
        fields = self._fitted()
        return Said(reason=self._what_is_left()) if fields is None else Said(fields=fields)

    def _fitted(self) -> dict[str, Value] | None:
        open_fields = {path for path, value in _numbers_in(self.config) if value is None}
        proposals = dict(self._proposals())
        fields: dict[str, Value] = {}
        far = self._distance(fields)
        self.nearest = fields
        while far:
            better = next(
                ((one, d) for one in self._steps(fields, proposals, open_fields) if (d := self._distance(one)) < far),
                None,
            )
            if better is None:
                return fields if far == self._vanished(fields) else None
            fields, far = better
            self.nearest = fields
        return fields

    def _steps(
        self, fields: dict[str, Value], proposals: Mapping[str, list[int]], open_fields: set[str]
    ) -> Iterator[dict[str, Value]]:
        """One field more, first those that are set; then two of them, where the constructor takes neither alone.

        What says how many layers there are comes before, together with what is said of each.
        """
        for depth in shallower(self.config, self.plan):
            if any(fields.get(path) != value for path, value in depth.items()):
                yield {**fields, **depth}
        moves = [(path, new) for path, news in proposals.items() for new in news if fields.get(path) != new]
        known = [move for move in moves if move[0] not in open_fields]
        for path, new in [*known, *(move for move in moves if move[0] in open_fields)]:
            yield {**fields, path: new}
        computed = [(path, new) for path in sorted(open_fields) for new in self._computed(path) if path not in fields]
        pairs = (islice(some, _MOST_PAIRS) for some in (combinations(known, 2), product(known, computed)))
        for (path, new), (other, also) in chain.from_iterable(pairs):
            if path != other:
                yield {**fields, path: new, other: also}

    def _computed(self, path: str) -> list[int]:
        """What a field that is left open has to be, if it bears the name of numbers that the narrowed network goes on with."""
        name = path.rpartition(".")[2]
        return sorted({number for (_, key), number in self.numbers.items() if key == name})

    def _proposals(self) -> Iterator[tuple[str, list[int]]]:
        """For each field the sizes that dimensions of its present size have after narrowing."""
        became = _became(self.plan)
        unset = sorted({*_sizes_within(self.plan), *(new for news in became.values() for new in news)})
        for path, value in _numbers_in(self.config):
            if value is None:
                yield path, unset
            elif value in became:
                yield path, sorted(became[value])

    def _distance(self, fields: Fields) -> float:
        """How many tensors and numbers of a build are not as they have to be."""
        try:
            built = self._built(fields)
        except _Unbuildable:
            return float("inf")
        return len(self._different(built)) + len(self._miscounted(built)) + _none_left(built, self.counts)

    def _vanished(self, fields: Fields) -> int:
        """Of how many things that modules count the build has none, though the whole has some: no good, where it can be helped.
        Heads over key-value heads, where no shape tells that these go with those."""
        return _none_left(self._built(fields), self.counts)

    def _miscounted(self, built: nn.Module) -> list[str]:
        """Numbers that the constructor computes, and that are not those that the narrowed network goes on with."""
        modules, marks = dict(named_modules(built)), dict(_marks(built, words=bool(self.plan.drops)))
        wrong = [f"{m}.{p}" for (m, p), n in self.numbers.items() if m in modules and _attribute(modules[m], p) != n]
        return wrong + [f"{m}.{key}" for (m, key), mark in self.marks.items() if marks.get((m, key)) != mark]

    def _different(self, built: nn.Module) -> list[str]:
        shapes = {n: tuple(t.shape) for n, t in _stored(built).items()}
        return [n for n in self.wanted.keys() | shapes.keys() if self.wanted.get(n) != shapes.get(n)]

    def _built(self, fields: Fields) -> nn.Module:
        try:
            return on_meta(self.model, _valid(with_fields(self.config, fields)))
        except Exception as problem:  # other people's code, asked for combinations that it may never have seen
            raise _Unbuildable(" ".join(f"{type(problem).__name__}: {problem}".split())[:160]) from problem

    def _what_is_left(self) -> str:
        built = self._built(self.nearest)
        name = next((n for n in sorted(self._different(built)) if n in self.wanted), None)
        if name is not None:
            shape = "×".join(map(str, self.wanted[name]))
            return f"no field of the configuration gives {name} the shape {shape} with the rest"
        return f"{next(iter(self._miscounted(built)), 'a number')} is computed from the configuration, and would be another one"


def with_fields(config: Config, fields: Fields) -> Config:
    """A copy of a configuration with these values; sub-configurations are copied on the way."""
    made = copy.deepcopy(config)
    for path, value in fields.items():
        *way, last = path.split(".")
        holder = made
        for step in way:
            holder = getattr(holder, step)
        setattr(holder, last, value)
    return made


def put_config(model: nn.Module, old: Mapping[int, Config], held: NumbersHeld, fields: Fields) -> None:
    """Give every module that held a configuration before (``old``, by the module's id) one with these values; ``held`` are the
    integers of modules before anything was rewritten."""
    root = old[id(model)]
    made: dict[int, Config] = {id(root): with_fields(root, fields)}
    for path in {path.rpartition(".")[0] for path in fields} | _sub_configs(root):
        before, after = root, made[id(root)]
        for step in filter(None, path.split(".")):
            before, after = getattr(before, step), getattr(after, step)
        made[id(before)] = after
    undo = undo_of_random_state()
    try:
        built = fresh(model, made[id(root)])
        put_numbers(model, fresh(model, root), built, held)
    finally:
        undo()
    for name, module in named_modules(model):
        config = old.get(id(module))
        if config is not None:
            if id(config) not in made:  # a copy of the model's, as the stacks of encoder–decoders have
                like = config_of(built[name]) if name in built else None
                made[id(config)] = with_fields(config, _own(config, root, fields, like))
            module.__dict__["config"] = made[id(config)]


def _own(config: Config, root: Config, fields: Fields, like: Config | None) -> dict[str, Any]:
    """What a copy of the model's configuration says from now on: what its constructor makes of the model's, if that is known.

    A decoder's copy calls its own layers ``num_layers``, as the model's calls the encoder's.
    """
    if like is not None:
        return {path: _value(like, path) for path in fields if _value(config, path) is not None}
    return {path: value for path, value in fields.items() if _value(config, path) == _value(root, path)}


def configs_held(model: nn.Module) -> dict[int, Config]:
    """The configurations that modules hold now, by the module's id."""
    return {id(m): c for m in modules_of(model) if (c := config_of(m)) is not None}


def _sub_configs(config: Config) -> set[str]:
    return {key for key, value in vars(config).items() if is_config(value)}


def _value(config: Config, path: str) -> object:
    for step in path.split("."):
        config = getattr(config, step, None)
    return config


def _numbers_in(config: Config) -> Iterator[tuple[str, int | None]]:
    """The fields that may say a size, and those that are left open."""
    for path, value in fields_of(config):
        if not path.endswith("_token_id") and (value is None or (type(value) is int and value > 1)):
            yield path, value


def _became(plan: Plan) -> dict[int, set[int]]:
    """For each size that some dimension, or part of one, has now, the sizes that such dimensions have afterwards."""
    found: dict[int, set[int]] = {}

    def note(axis: Axis) -> None:
        new = int(size_of(axis, plan.sizes))
        if new != axis.size:
            found.setdefault(axis.size, set()).add(new)
        parts = axis.factors if isinstance(axis, Product) else axis.parts if isinstance(axis, Sum) else ()
        for part in parts:
            note(part)
        if isinstance(axis, Product):
            for first in range(len(parts)):
                for end in range(first + 2, len(parts) + (first > 0)):
                    note(Product(parts[first:end]))

    for axis in {axis for name in plan.narrowed for axis in plan.layouts[name]}:
        note(axis)
    return found


def _sizes_within(plan: Plan) -> set[int]:
    """The sizes that parts of narrowed dimensions keep: a field that was left open may have to say one of them now."""
    axes = {axis for name in plan.narrowed for axis in plan.layouts[name]}
    composed = {axis for axis in axes if isinstance(axis, Product | Sum)}
    parts = {part for axis in composed for part in (axis.factors if isinstance(axis, Product) else axis.parts)}
    return {int(size_of(part, plan.sizes)) for part in axes | parts}


def _numbers_read(plan: Plan) -> dict[tuple[str, str], int]:
    """The integers that the narrowed network's code reads, as they have to be."""
    found = {(a.module, a.path): n for a, n in plan.stays.items()}
    found |= {(edit.module, edit.path): edit.new for edit in plan.edits}
    known = {(m, path): n for (m, path), n in found.items() if not path.startswith("config.")}
    return {(new, p): n for (m, p), n in known.items() if (new := _called(m, plan)) is not None}


def _counts(model: nn.Module) -> dict[tuple[str, str], int]:
    """What modules have some of, by their own account."""
    modules = named_modules(model)
    return {(m, key): n for m, module in modules for key, n in vars(module).items() if type(n) is int and n > 0}


def _none_left(built: nn.Module, counts: Mapping[tuple[str, str], int]) -> int:
    return sum(
        counts.get((m, key), 0) > 0 and n == 0
        for m, module in named_modules(built)
        for key, n in vars(module).items()
        if type(n) is int
    )


def _called(module: str, plan: Plan) -> str | None:
    """What a module is called afterwards."""
    return plan.renamed(module) if module else module


def _marks(model: nn.Module, *, words: bool) -> Iterator[tuple[tuple[str, str], object]]:
    """The numbers that the constructor computed; with ``words``, what else tells one layer from another."""
    kinds = (float, str, bool) if words else (float,)
    for name, module in named_modules(model):
        yield from (((name, key), value) for key, value in vars(module).items() if type(value) in kinds)


def _attribute(holder: object, path: str) -> object:
    """The value at ``sizes[1]`` or ``num_heads`` of a module."""
    value: Any = holder
    for step in path.replace("[", ".[").split("."):
        try:
            if step.startswith("["):
                value = value[step[2:-2] if step[1] == '"' else int(step[1:-1])]
            else:
                value = vars(value).get(step)
        except (TypeError, LookupError, ValueError):
            return None
    return value


def _stored(model: nn.Module) -> dict[str, torch.Tensor]:
    left_out = set(_not_stored(model))
    named = [*named_parameters(model), *named_buffers(model)]
    return {name: tensor for name, tensor in named if name not in left_out}


def _not_stored(model: nn.Module) -> Iterator[str]:
    """Buffers that are in no checkpoint, and what the class leaves out since it builds it anew: tables of positions."""
    yield from getattr(model, "_keys_to_ignore_on_save", None) or ()
    for prefix, module in named_modules(model):
        for key in module._non_persistent_buffers_set:
            yield f"{prefix}.{key}" if prefix else key
