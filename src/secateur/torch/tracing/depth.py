"""The blocks of a graph: found in what its runs wrote down, tried out, and put beside the other widths.

    visits of all runs ──► stacks, places ──► each without its blocks, run on tensors without data ──► widths of kind ``layers``

Invariant: every block that is reported free has been seen to be missed without the code minding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from secateur.core.depth import LAYERS, Depth, Pairs, Passes, Stack, all_blocks, inside, priced
from secateur.core.equations import Attribute
from secateur.core.graph import Graph, Width
from secateur.core.plan import Plan
from secateur.core.space import leaves
from secateur.errors import PlanError
from secateur.torch.narrowing.host_config import Fields, said_of_depth
from secateur.torch.narrowing.installing import install
from secateur.torch.running.interface import pinned
from secateur.torch.running.restoring import abstract_like
from secateur.torch.running.walking import named_modules
from secateur.torch.tracing.blocks import Course, entries_of, listed, numbered, watch, watch_one
from secateur.torch.tracing.observe import Observation, Run, real_like
from secateur.torch.tracing.places import places
from secateur.torch.tracing.rehearsal import told
from secateur.torch.tracing.stage import Staging, perform
from secateur.torch.tracing.stepwise import Stepwise, differs_without


def with_blocks(seen: Observation, graph: Graph) -> Graph:
    """The graph with a width for each block; costs are paid for those that are there."""
    lists, alone = tuple(_stacks(seen)), _held_once(seen.example.model)
    named = (replace(s, axis=_feature_axis(seen, s.blocks)) for s in places(seen, all_blocks(lists), alone))
    found = (*lists, *named)
    if not found:
        note = "depth: no module gives on what it gets, or is added to it; there is no block that could go"
        return _as_asked(replace(graph, notes=(*graph.notes, note)), seen.example.depth)
    bare = _with_widths(graph, found, {})
    stacks, reasons = _tried(seen, bare, found)
    stacks = _finest(stacks, reasons)
    costs = {metric: priced(cost, set(all_blocks(stacks))) for metric, cost in graph.costs.items()}
    return _as_asked(replace(_with_widths(graph, stacks, reasons), costs=costs), seen.example.depth)


def _as_asked(graph: Graph, depth: Depth) -> Graph:
    """With no other width free where only depth is asked for."""
    if depth != "only":
        return graph
    return graph.frozen([width.name for width in graph.widths if width.kind != LAYERS], "only depth is asked for")


def _finest(stacks: tuple[Stack, ...], reasons: Mapping[str, str]) -> tuple[Stack, ...]:
    """Of blocks inside blocks those inside, where these may go; where they may not, those around."""
    free = [name for name in all_blocks(stacks) if name not in reasons]
    coarse = {name for name in free if any(other.startswith(f"{name}.") for other in free)}
    spoken_for = {name for name in reasons if any(name.startswith(f"{other}.") for other in free)}
    left = (
        replace(s, passes={k: p for k, p in s.passes.items() if s.module(k) not in coarse | spoken_for}) for s in stacks
    )
    return tuple(stack for stack in left if stack.passes)


def _with_widths(graph: Graph, stacks: tuple[Stack, ...], reasons: Mapping[str, str]) -> Graph:
    blocks = [_width(name, reasons.get(name)) for name in all_blocks(stacks)]
    return replace(graph, widths=(*graph.widths, *blocks), stacks=stacks)


def _width(name: str, reason: str | None) -> Width:
    width = Width(name=name, kind=LAYERS, size=1, choices=(0, 1), exact=True)
    return width if reason is None else width.whole(reason)


def _stacks(seen: Observation) -> Iterator[Stack]:
    """The lists of modules that have blocks."""
    passes = _passes(seen)
    lists: dict[str, dict[str, nn.Module]] = {}
    for name, _, key, entry in entries_of(seen.example.model):
        lists.setdefault(name, {})[key] = entry
    outside = _held_once(seen.example.model)
    # a list of blocks passes on what it gets, too: its entries say more
    made_of_blocks = {name for name, entries in lists.items() if any(_dotted(name, key) in passes for key in entries)}
    for name, entries in lists.items():
        mine = {key: found for key in entries if (found := passes.get(_dotted(name, key)))}
        mine = {key: found for key, found in mine.items() if _dotted(name, key) not in made_of_blocks}
        mine = {key: found for key, found in mine.items() if outside(entries[key])}
        if mine and len(entries) > 1:
            where, axis = dict(numbered(name, entries)), _feature_axis(seen, {_dotted(name, key) for key in mine})
            kinds = {type(entries[key]) for key in mine}
            others = tuple(key for key, entry in entries.items() if type(entry) not in kinds)
            yield Stack(name=name, entries=tuple(entries), passes=mine, numbered=where, axis=axis, others=others)


def _dotted(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _passes(seen: Observation) -> dict[str, Passes]:
    """What the entries pass on that are blocks on every visit of every run."""
    found: dict[str, Pairs | None] = {}
    entries = listed(seen.example.model)
    for run in seen.whole_calls:
        tracer = run.tracer
        course = Course.of(tracer.records, tracer.borders.pinned, tracer.kept)
        for visit in (visit for visit in tracer.borders.visits if visit.name in entries):
            pairs = course.passes(visit)
            found[visit.name] = pairs if found.get(visit.name, pairs) == pairs else None
    return {name: Passes(pairs) for name, pairs in found.items() if pairs}


def _feature_axis(seen: Observation, blocks: Collection[str]) -> int:
    """The last dimension of what blocks pass on that some tensor of the model has, too."""
    owned = {id(leaf) for spaces in seen.spaces.values() for space in spaces for leaf in leaves(space) if leaf.size > 1}
    visit = next(visit for visit in seen.tracer.borders.visits if visit.name in blocks)
    first = next(held for held in visit.gave if held is not None)
    axes = [i for i, space in enumerate(first.spaces) if any(id(leaf) in owned for leaf in leaves(space))]
    return axes[-1] if axes else -1


def _held_once(model: nn.Module) -> Callable[[nn.Module], bool]:
    """Tells of a module whether nobody else holds it, or any of its tensors."""
    places: dict[int, int] = {}
    for _, module in named_modules(model, once=False):
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                places[id(tensor)] = places.get(id(tensor), 0) + 1

    def alone(entry: nn.Module) -> bool:
        mine: dict[int, int] = {}
        for _, module in named_modules(entry, once=False):
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    mine[id(tensor)] = mine.get(id(tensor), 0) + 1
        return all(places[tensor] == count for tensor, count in mine.items())

    return alone


def _tried(seen: Observation, graph: Graph, stacks: Sequence[Stack]) -> tuple[tuple[Stack, ...], dict[str, str]]:
    """The stacks with the counts that their code goes by, and why some blocks have to stay."""
    trial = Trial(seen)
    if not any(trial.problem(graph, _innermost(_most(stacks, first=first))) for first in (True, False)):
        return tuple(stacks), {}
    made: list[Stack] = []
    reasons: dict[str, str] = {}
    for stack in stacks:
        known = _with_integers(trial, graph, stack)
        made.append(known)
        reasons |= _to_stay(trial, _of(graph, known), known)
    return tuple(made), reasons


def _to_stay(trial: Trial, graph: Graph, stack: Stack) -> dict[str, str]:
    """Why some blocks of a stack have to stay: those that cannot go alone, and where the others cannot go together, as many of
    the first of them as it takes: one of each kind, where something is made for each kind of layer."""
    if trial.problem_without_most(graph, stack) is None:
        return {}
    alone = {name: trial.problem(graph, [name]) for name in stack.blocks}
    reasons = {name: f"without it {why}" for name, why in alone.items() if why}
    others = _without(stack, reasons)
    if others.passes and (why := trial.problem_without_most(graph, others)):
        going: list[str] = []
        for name in reversed(others.blocks):
            going += [] if trial.problem(graph, [*going, name]) else [name]
        held = [name for name in others.blocks if name not in going]
        if trial.problem_without_most(graph, _without(others, held)):
            held = others.blocks[0 if reasons else 1 :]
        reasons |= dict.fromkeys(held, f"without several {why}")
    return reasons


def _without(stack: Stack, held: Collection[str]) -> Stack:
    """The stack with some of its blocks no longer free to go."""
    return replace(stack, passes={k: p for k, p in stack.passes.items() if stack.module(k) not in held})


def _with_integers(trial: Trial, graph: Graph, stack: Stack) -> Stack:
    """The stack with those integers that have to follow how many entries there are, and those that may say where each
    stands: of both, none that the code uses for something else."""
    if stack.in_place:
        return stack
    candidates = list(_counts(trial.seen.example.model, stack))
    counts: list[tuple[Attribute, ...]] = [(), *((one,) for one in candidates)]
    if len(candidates) > 1:
        counts.append(tuple(candidates))
    for where in _choices_of_numbers(stack):
        for counted in counts:
            tried = replace(stack, counts=counted, numbered=where)
            if trial.problem_without_most(graph, tried) is None:
                return tried
    return stack


def _choices_of_numbers(stack: Stack) -> Iterator[dict[Attribute, int]]:
    """All integers that say where an entry stands; all but those of one name; none."""
    yield dict(stack.numbered)
    paths = list(dict.fromkeys(attribute.path for attribute in stack.numbered))
    if len(paths) > 1:
        yield from ({a: n for a, n in stack.numbered.items() if a.path != path} for path in paths)
    if paths:
        yield {}


def _most(stacks: Sequence[Stack], *, first: bool) -> list[str]:
    """All blocks but the last, so that something is left to be numbered anew; or all, but of stacks that are nothing else
    the first one."""
    found: list[str] = []
    for stack in stacks:
        blocks = stack.blocks
        whole = not stack.stays_without(blocks)
        found += (blocks[1:] if whole else blocks) if first else (blocks[:-1] or (() if whole else blocks))
    return found


def _innermost(blocks: Sequence[str]) -> list[str]:
    """Without those around others: a block that is gone says nothing of those inside it."""
    return [name for name in blocks if not any(other != name and inside(other, [name]) for other in blocks)]


def _of(graph: Graph, stack: Stack) -> Graph:
    return replace(graph, stacks=tuple(stack if each.name == stack.name else each for each in graph.stacks))


def _counts(model: nn.Module, stack: Stack) -> Iterator[Attribute]:
    """Integers of the modules around a stack, and of plain objects they hold, that are the number of its entries."""
    number, parts = len(stack.entries), stack.name.split(".")
    for end in range(len(parts) - 1, -1, -1):
        around = ".".join(parts[:end])
        for key, value in vars(model.get_submodule(around)).items():
            if type(value) is int and value == number:
                yield Attribute(around, key)
            elif hasattr(value, "__dict__") and not isinstance(value, (nn.Module, torch.Tensor, type)):
                inner = [name for name, held in vars(value).items() if type(held) is int and held == number]
                yield from (Attribute(around, f"{key}.{name}") for name in inner if name.isidentifier())


class Trial:
    """Runs without blocks, held against the whole network's; state: what the whole one did, run by run."""

    def __init__(self, seen: Observation) -> None:
        self.seen = seen
        self.runs = [run for run in seen.whole_calls if not (run.training or run.resized or run.beside)]
        self._whole: dict[int, Stepwise] = {}

    def problem_without_most(self, graph: Graph, stack: Stack) -> str | None:
        """What is wrong without all blocks but the first, or but the last."""
        ways = [_most([stack], first=first) for first in (True, False)]
        return next((why for way in ways if (why := self.problem(_of(graph, stack), way))), None)

    def problem(self, graph: Graph, drops: Sequence[str]) -> str | None:
        """What is wrong without these blocks: it does not run, or what stays gets something else."""
        passes = {s.module(key): p for s in graph.stacks for key, p in s.passes.items() if s.module(key) in drops}
        try:
            plan = graph.plan(dict.fromkeys(drops, ()))
        except PlanError as error:
            return str(error)
        problem = self._problem(plan, passes, {})
        # code may go by what its configuration says of each layer
        fields = said_of_depth(self.seen.example.model, plan) if problem else {}
        return self._problem(plan, passes, fields) if fields else problem

    def _problem(self, plan: Plan, passes: Mapping[str, Passes], fields: Fields) -> str | None:
        try:
            for place, run in enumerate(self.runs):
                if place not in self._whole:
                    self._whole[place] = _flow(run, self.seen)
                if where := differs_without(self._whole[place], passes, _flow(run, self.seen, plan, fields)):
                    return f"{where} is not given what it gets now"
        except Exception as error:
            return f"the model does not run ({told(error)})"
        return None


def _flow(run: Run, seen: Observation, plan: Plan | None = None, fields: Fields | None = None) -> Stepwise:
    """What becomes of what in a run, as it was or without a plan's blocks."""
    answers = run.tracer.answers
    tracer = Stepwise(abstract=run.tracer.abstract, answers=None if answers is None else answers.again())
    like = abstract_like if tracer.abstract else real_like
    inputs = itertools.count()

    def stand_in(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tracer.named(like(tensor), name)

    def taken(tensor: torch.Tensor) -> torch.Tensor:
        made = like(tensor.detach()) if tracer.abstract else tensor.detach().clone()
        return tracer.named(made, f"input {next(inputs)}")

    def prepare(twin: nn.Module) -> None:
        if plan is None:
            watch(twin, tracer)
        else:
            install(twin, {}, plan.edits, drops=plan.instead, fields=fields)
            for name in plan.standing:
                watch_one(twin.get_submodule(name), name, tracer, in_list=False)

    def look(output: Any) -> None:
        tracer.returns([tensor for _, tensor, own in pinned(output, run.example.interface) if own])

    staging = Staging(stand_in=stand_in, taken=taken, prepare=prepare, reading=False)
    perform(run.example, tracer, staging, look, seen.outside)
    return tracer
