"""Parameters that no run reached: which widths are theirs too?

    heads.0  ran     in: body.out_features       heads.1  did not: the same code, built alike, in the same list
                                                  └─► in: body.out_features, narrowed with it
    dark     did not, and nothing says what it is given ─► the widths it could be given are left whole

Only what has a *sibling* that ran can be told: another of one list, or with the same sizes, or a parameter beside it.
Where the sibling has a width from outside itself, so has this one, unless another width of that size is near. What has no
sibling may be given whatever its module has before it when the branch is taken: all dimensions near that fit are frozen.

Invariant: an unreached axis is narrowed with a width only where its sibling is; a width that it might carry is never free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import torch
from torch import nn

from secateur.core.space import Space, freeze, leaves, unify
from secateur.torch.running.walking import named_modules
from secateur.torch.tracing.live import used_leaves
from secateur.torch.tracing.observe import Observation
from secateur.torch.tracing.speech import Speech

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def place_unreached(seen: Observation) -> None:
    """Give the tensors that no run reached the widths that are certainly theirs, and freeze those that may be."""
    reach = Reach(seen)
    seen.left_over += sorted(set(reach.unreached) - set(reach.within_reach))
    for part in reach.parts():
        for tensor in part.tensors:
            for axis, space in enumerate(seen.spaces[tensor]):
                if space.root().size > 1:
                    _place(reach, part, tensor, axis)


@dataclass(frozen=True, slots=True)
class _Part:
    """A module, or a single parameter, none of which ran; ``near`` which module that did; the sibling modules that ran."""

    name: str
    tensors: tuple[str, ...]
    near: str
    siblings: tuple[str, ...] = ()
    is_module: bool = False


def _place(reach: Reach, part: _Part, tensor: str, axis: int) -> None:
    mine = reach.spaces[tensor][axis]
    if part.is_module:
        told = {name: reach.spaces[name + tensor[len(part.name) :]][axis] for name in part.siblings}
        if told and all(reach.is_inside(space, name) for name, space in told.items()):
            return
    else:
        told = reach.beside(tensor, axis)
    alike = [space for space in told.values() if space.root().size == mine.root().size]
    kinds = {_key(space): space for space in alike}
    near = reach.candidates(part.near, mine.root().size)
    rivals = [s for s in near if _key(s) not in kinds and (not kinds or s.size == mine.root().size)]
    if len(kinds) != 1 or (rivals and not (part.is_module and len(alike) > 1)):
        way = (
            'an example that reaches it, in dummy_input=Examples(x, also=[…]), or there a Call("method", …), would tell'
        )
        reason = f"{part.name} was not reached and may share it: {way}"
        for space in (*kinds.values(), *rivals):
            freeze(space, reason)
    elif not all(leaf.frozen for leaf in leaves(alike[0])):
        unify(mine, alike[0], f"{part.name} is like {next(iter(told))}")


def _key(space: Space) -> tuple[int, ...]:
    return tuple(id(leaf) for leaf in leaves(space))


class Reach:
    """Who ran, what was near, who carries what."""

    def __init__(self, seen: Observation) -> None:
        self.seen, self.spaces = seen, seen.spaces
        self.modules = dict(named_modules(seen.example.model, once=False))
        self.tensors = seen.tensors
        self.ran = {name for run in seen.runs for name in run.tracer.near}
        used = used_leaves(seen)
        self.unreached = [
            name
            for name, spaces in seen.spaces.items()
            if name not in seen.constants  # what code that did not run reads of these is the affair of `kept_sizes`
            and _has_axes(spaces)
            and not any(id(leaf) in used for space in spaces for leaf in leaves(space))
        ]

    def parts(self) -> Iterator[_Part]:
        """What did not run, each as large as it can be: whole modules, and parameters of modules that ran."""
        done: set[str] = set()
        for tensor in self.within_reach:
            owner = tensor.rpartition(".")[0]
            above = _ancestors(owner)
            near = next(name for name in above if name in self.ran or not name)
            idle = [name for name in above[: above.index(near)] if self._is_idle(name)]
            name = idle[-1] if idle else tensor
            if name not in done:
                done.add(name)
                if idle:
                    within = tuple(t for t in self.within_reach if t.startswith(f"{name}."))
                    yield _Part(name, within, near, tuple(self._sibling_modules(name)), is_module=True)
                elif not _counts_up(self.tensors[tensor]):
                    yield _Part(name, (tensor,), near)

    def _is_idle(self, module: str) -> bool:
        return all(t in self._idle or not _has_axes(s) for t, s in self.spaces.items() if t.startswith(f"{module}."))

    @cached_property
    def within_reach(self) -> list[str]:
        """Of what did not run, all that code of the model's may come to."""
        speech = Speech(self.modules)
        return [name for name in self.unreached if speech.may_lead_to(name, self.tensors[name])]

    @cached_property
    def _idle(self) -> frozenset[str]:
        return frozenset(self.unreached)

    def _sibling_modules(self, name: str) -> Iterator[str]:
        above, _, key = name.rpartition(".")
        parent = self.modules[above]
        with_sizes = not isinstance(parent, _CONTAINERS)
        mine = _anatomy(self.modules[name], with_sizes=with_sizes)
        for other, module in parent.named_children():
            full = f"{above}.{other}" if above else other
            if other != key and _anatomy(module, with_sizes=with_sizes) == mine and self._ran_whole(full):
                yield full

    def _ran_whole(self, module: str) -> bool:
        return not any(t in self._idle for t in self.spaces if t.startswith(f"{module}."))

    def beside(self, name: str, axis: int) -> dict[str, Space]:
        """The same axis, counted from the end, of tensors of the same module that ran and have the same sizes from there on."""
        owner, ending = name.rpartition(".")[0], self.tensors[name].shape[axis:]
        return {
            other: self.spaces[other][-len(ending)]
            for other, tensor in self.tensors.items()
            if other.rpartition(".")[0] == owner and other not in self._idle and tensor.shape[-len(ending) :] == ending
        }

    def is_inside(self, space: Space, module: str) -> bool:
        """Whether nothing outside a module has any of a dimension's free leaves."""
        free = {id(leaf) for leaf in leaves(space) if not leaf.frozen}
        outside = (t for t in self.carriers if not t.startswith(f"{module}."))
        return bool(free) and not any(free & self.carriers[t] for t in outside)

    @cached_property
    def carriers(self) -> Mapping[str, set[int]]:
        """For every tensor that was reached, its leaves."""
        return {
            name: {id(leaf) for space in spaces for leaf in leaves(space)}
            for name, spaces in self.spaces.items()
            if name not in self._idle
        }

    def candidates(self, module: str, size: int) -> list[Space]:
        """What near a module could be a dimension of this size: those that are, else those it could be made of."""
        near = self.near(module)
        equal = [s for s in near if s.size == size]
        if equal:
            return equal
        inside = [s for s in near if 1 < s.size < size and size % s.size == 0]
        return inside or [s for pair in combinations(near, 2) if sum(x.size for x in pair) == size for s in pair]

    def near(self, module: str) -> list[Space]:
        """The dimensions with a free leaf, or one that some tensor carries, in what a module's code has before it."""
        found = {id(s.root()): s.root() for s in self._before(module)}
        carried = set[int]().union(*self.carriers.values())
        return [s for s in found.values() if s.size > 1 and any(id(leaf) in carried for leaf in leaves(s))]

    def _before(self, module: str) -> Iterator[Space]:
        for run in self.seen.runs:
            yield from run.tracer.near.get(module, ())
            for record in run.tracer.records:
                if record.module == module:
                    yield from (s for layout in (record.inputs, *record.outputs) for s in layout)
        for key, child in self.modules[module].named_children():
            if isinstance(child, _CONTAINERS):
                yield from self._before(f"{module}.{key}" if module else key)


def _has_axes(spaces: Sequence[Space]) -> bool:
    return any(space.root().size > 1 for space in spaces)


def _ancestors(name: str) -> list[str]:
    """The name, its owner's, … and the model's own."""
    found = [name]
    while found[-1]:
        found.append(found[-1].rpartition(".")[0])
    return found


def _anatomy(module: nn.Module, *, with_sizes: bool) -> list[tuple[str, type, list[tuple[str, bool, tuple[int, ...]]]]]:
    """Of what a module is made: types, and tensors with their sizes or only the numbers of their dimensions."""

    def shape(tensor: torch.Tensor) -> tuple[int, ...]:
        return tuple(tensor.shape) if with_sizes else (tensor.dim(),)

    return [
        (name, type(part), [(key, isinstance(t, nn.Parameter), shape(t)) for key, t in _own(part)])
        for name, part in named_modules(module)
    ]


def _own(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    held = [*module._parameters.items(), *module._buffers.items()]
    return [(key, tensor) for key, tensor in held if tensor is not None]


def _counts_up(tensor: torch.Tensor) -> bool:
    """Whether these are positions, 0, 1, 2, …: what they index is a table."""
    if tensor.is_floating_point() or tensor.is_meta:
        return False
    return bool((tensor == torch.arange(tensor.shape[-1], device=tensor.device)).all())
