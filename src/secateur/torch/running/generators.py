"""Random operators draw from generators of our own, so that a run leaves every generator of the user's where it was.

    torch.rand(3)                 ──►  aten::rand.generator(3, generator=ours)
    x.bernoulli_(generator=g)     ──►  …(generator=a clone of g)
    native_dropout(x, 0.1, True)  takes none: the default generator is lent our state for that one call

Invariant: after any number of calls the default generators, and those the model's code names, have the state they had.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from secateur.torch.running.calls import Args, Kwargs, Operator, Result
from secateur.torch.running.switches import ALONE

Way = tuple[Any, int] | str  # the overload to call and the place of its generator; or one of the words below
_NO_DRAW, _LEND = "it draws nothing", "it takes no generator"
_BY_KEYWORD = sys.maxsize
_ways: dict[Any, Way] = {}


UNSEEDED = 7_046_029_254_386_353_131  # what the default generator begins a run with: no code will seed it so


def draws_the_same(operator: Operator, kwargs: Kwargs, *, training: bool) -> bool:
    """Whether an operator draws the same numbers each time: from a generator that the code names, or once it has seeded.

    Which numbers are drawn while training is no part of a function; a generator that is named is its code's own.
    """
    if torch.Tag.nondeterministic_seeded not in getattr(operator, "tags", ()):
        return False
    return kwargs.get("generator") is not None or (not training and is_seeded())


def is_seeded() -> bool:
    """Whether code has seeded the default generator since `unseeded` began."""
    return torch.default_generator.initial_seed() != UNSEEDED


@contextmanager
def unseeded() -> Iterator[None]:
    """The default generator as no code leaves it, so that it shows when code seeds it; then as it was."""
    state = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(UNSEEDED)
        yield
    finally:
        torch.default_generator.set_state(state)


class Generators:
    """Our generators for one run: one for each device, and a clone of each one that the code names."""

    def __init__(self) -> None:
        self._ours: dict[torch.device, torch.Generator] = {}
        self._clones: dict[int, tuple[torch.Generator, torch.Generator]] = {}

    def run(self, operator: Operator, args: Args, kwargs: Kwargs) -> Result:
        """``operator(*args, **kwargs)``, drawing its random numbers from us."""
        way = _ways.get(operator)
        if way is None:
            way = _ways[operator] = _way(operator)
        device = torch.device("meta") if way is _NO_DRAW else _device(args, kwargs)
        if device.type == "meta":
            return operator(*args, **kwargs)
        if isinstance(way, str):
            return self._lend(operator, args, kwargs, device)
        overload, place = way
        given = args[place] if place < len(args) else kwargs.get("generator")
        ours = self._clone(given) if given is not None else self._default(device)
        if place < len(args):
            return overload(*args[:place], ours, *args[place + 1 :], **kwargs)
        return overload(*args, **{**kwargs, "generator": ours})

    def _default(self, device: torch.device) -> torch.Generator:
        if device not in self._ours:
            self._ours[device] = torch.Generator(device=device).manual_seed(0)
        return self._ours[device]

    def _clone(self, given: torch.Generator) -> torch.Generator:
        if id(given) not in self._clones:
            made = torch.Generator(device=given.device)
            made.set_state(given.get_state())
            self._clones[id(given)] = (given, made)
        return self._clones[id(given)][1]

    def _lend(self, operator: Operator, args: Args, kwargs: Kwargs, device: torch.device) -> Result:
        ours = self._default(device)
        theirs = _default_generator(device)
        with ALONE:
            state = theirs.get_state()
            try:
                theirs.set_state(ours.get_state())
                out = operator(*args, **kwargs)
                ours.set_state(theirs.get_state())
            finally:
                theirs.set_state(state)
        return out


def _way(operator: Operator) -> Way:
    if torch.Tag.nondeterministic_seeded not in getattr(operator, "tags", ()):
        return _NO_DRAW
    place = _place(operator)
    if place is not None:
        return operator, place
    packet = operator.overloadpacket
    for name in packet.overloads():
        overload = getattr(packet, name)
        place = _place(overload)
        if place is not None and _arguments(overload) == _arguments(operator):
            return overload, place
    return _LEND


def _place(operator: Operator) -> int | None:
    for place, argument in enumerate(operator._schema.arguments):
        if argument.name == "generator":
            return _BY_KEYWORD if argument.kwarg_only else place
    return None


def _arguments(operator: Operator) -> list[tuple[str, str]]:
    return [(a.name, str(a.type)) for a in operator._schema.arguments if a.name != "generator"]


def _device(args: Args, kwargs: Kwargs) -> torch.device:
    named = kwargs.get("device")
    if named is not None:
        return torch.device(named)
    flat = (leaf for arg in args for leaf in (arg if isinstance(arg, (list, tuple)) else [arg]))
    return next((leaf.device for leaf in flat if isinstance(leaf, torch.Tensor)), torch.device("cpu"))


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
