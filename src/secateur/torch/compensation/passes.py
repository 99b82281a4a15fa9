"""One forward pass, watched: contractions, the batch norms after them, and the sums that they flow into.

    Watcher     numbers the visits, follows each contraction's output along its chain
    ├── Recorder    the original network: keeps a few thousand rows of what came out of each contraction and sum
    └── Refitter    the narrowed one: at each place waits for the other passes and goes on with what was decided

Invariant: both number their places in the same way, so what the narrowed network should give is found by its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from secateur.torch.compensation.chain import (
    BATCH_NORMS,
    DROPOUTS,
    IN_PLACE,
    LOOKUPS,
    SCALES,
    SUMS,
    Chain,
    chain_of,
    link,
    used,
)
from secateur.torch.compensation.rows import input_rows, num_inputs, num_outputs, outline, output_rows, positions
from secateur.torch.running.contractions import Site


@dataclass(slots=True)
class Place:
    """What the original network gave at one contraction, by the number of the pass.

    ``rows`` are rows of its output at the positions ``at``; ``sums`` rows of the sum it flows into, if it does; ``norm`` the
    running mean, variance and epsilon of the batch norm right after it.
    """

    site: str
    outputs: int  # the axis of its weight that makes outputs
    rows: dict[int, torch.Tensor] = field(default_factory=dict)
    sums: dict[int, torch.Tensor] = field(default_factory=dict)
    at: dict[int, torch.Tensor] = field(default_factory=dict)
    spatial: dict[int, tuple[int, ...]] = field(default_factory=dict)
    outline: dict[int, tuple[int, ...]] = field(default_factory=dict)  # the shape of what came in, but for its features
    norm: tuple[torch.Tensor, torch.Tensor, float] | None = None
    bias: str | None = None
    left: str | None = None  # why it is not fitted


class Watcher:
    """Follows contractions through one forward pass; state, because functions are called back."""

    def __init__(self, model: nn.Module, number: int, places: dict[str, Place]) -> None:
        self.number = number
        self.places = places
        self.visits: Counter[str] = Counter()
        self.buffers = {id(b): name for name, b in model.named_buffers()}
        self.parameters = {id(p): name for name, p in model.named_parameters()}
        self.looked_up: set[str] = set()  # weights that are (also) embeddings
        self._place = ""

    def before(self, site: Site) -> torch.Tensor:
        """Number the visit."""
        used(site.x)
        self._place = self._visit(site.name)
        return site.x

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        """Begin a chain."""
        return link(y, Chain(self._place, site))

    def other(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Follow chains through batch norms, scales and dropout, up to a sum."""
        if func in BATCH_NORMS and id(args[3]) in self.buffers and not args[5]:
            return self._normed(func, args, kwargs)
        if func in SUMS and len(args) > 1 and not kwargs:
            return self._summed(func, args)
        if func in LOOKUPS:
            self.looked_up |= {self.parameters[id(a)] for a in args if id(a) in self.parameters}
        out = func(*args, **kwargs)
        if func in DROPOUTS and args:
            return out if out is args[0] else link(out, chain_of(args[0]))
        if func in SCALES and len(args) > 1 and isinstance(out, torch.Tensor):
            return self._scaled(func, args, out)
        if isinstance(out, (torch.Tensor, list, tuple)) and not isinstance(out, torch.Size):
            for value in (*args, *kwargs.values()):
                used(value)
        return out

    # -- what the two kinds do differently -------------------------------------------------------------------------

    def norm(self, name: str, chain: Chain | None, args: tuple[Any, ...]) -> None:
        """A batch norm is about to run with these arguments, right after the contraction at the chain's head if any."""
        raise NotImplementedError

    def sum(self, chain: Chain, other: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """A contraction's output has been added to another tensor."""
        raise NotImplementedError

    # -- what they share -------------------------------------------------------------------------------------------

    def _visit(self, name: str) -> str:
        self.visits[name] += 1
        return f"{name}#{self.visits[name]}"

    def _normed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        chain = chain_of(args[0])
        if chain is not None and chain.steps:
            used(args[0])
            chain = None
        name = self._visit(self.buffers[id(args[3])])
        self.norm(name, chain, args)
        out = func(*args, **kwargs)
        if chain is None:
            return out

        def again(y: torch.Tensor) -> torch.Tensor:
            self.norm(name + "*", None, (y, *args[1:]))
            return func(y, *args[1:], **kwargs)

        chain.steps.append(again)
        return link(out, chain)

    def _scaled(self, func: Any, args: tuple[Any, ...], out: torch.Tensor) -> torch.Tensor:
        for own, factor in (args[:2], args[1::-1]):
            chain = chain_of(own)
            if chain is None or id(factor) not in self.parameters or out.shape != own.shape:
                continue
            if factor.numel() not in (1, out.shape[chain.site.features]) or out is own:
                continue
            by = factor.detach().reshape(-1)
            chain.scale = by if chain.scale is None else chain.scale * by
            chain.steps.append(lambda y, factor=factor: func(y, factor))
            return link(out, chain)
        used(args[:2])
        return out

    def _summed(self, func: Any, args: tuple[Any, ...]) -> Any:
        a, b = args[:2]
        ends = [(chain_of(a), b), (chain_of(b), a)]
        fit = [(c, other) for c, other in ends if c is not None and not c.read and isinstance(other, torch.Tensor)]
        used(args[:2])
        if not fit or a is b or a.shape != b.shape:
            return func(*args)
        chain, other = max(fit, key=lambda end: num_inputs(end[0].site))
        if other is a and func in IN_PLACE:
            other = other.clone()
        return self.sum(chain, other, func(*args))


Limit = Callable[[int], int]  # positions to look at in one pass, from the number of inputs of a contraction


class Recorder(Watcher):
    """Keeps what the original network gives."""

    def __init__(self, model: nn.Module, number: int, places: dict[str, Place], limit: Limit) -> None:
        super().__init__(model, number, places)
        self.limit = limit
        self.order: list[str] = []

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        self.order.append(self._place)
        place = self.places.setdefault(self._place, self._place_of(site))
        at = positions(y, site, self.limit(num_inputs(site)), self.number)
        place.at[self.number], place.rows[self.number] = at, output_rows(y, site, at)
        place.spatial[self.number] = tuple(y.shape[-site.spatial :]) if site.spatial else ()
        place.outline[self.number] = outline(site)
        return super().after(site, y)

    def _place_of(self, site: Site) -> Place:
        bias = None if site.bias is None else self.parameters.get(id(site.bias))
        left = None
        if site.bias is not None and (bias is None or site.bias.numel() != num_outputs(site)):
            left = "what is added to its output is not a bias"
        if site.kind == "transposed" and site.groups > 1:
            left = "it is a transposed convolution with groups"
        return Place(site.name, site.outputs, bias=bias, left=left)

    def norm(self, name: str, chain: Chain | None, args: tuple[Any, ...]) -> None:
        self.order.append(name)
        if chain is not None:
            self.places[chain.place].norm = (args[3].clone(), args[4].clone(), float(args[7]))

    def sum(self, chain: Chain, other: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        self.order.append(chain.place + "+")
        place = self.places[chain.place]
        place.sums[self.number] = output_rows(out, chain.site, place.at[self.number])
        return out


Meet = Callable[[int, str, Any], Any]  # (pass, place, what it brings) -> what was decided there


class Refitter(Watcher):
    """Waits at every place for what is decided there; ``sums`` are places, too."""

    def __init__(
        self, model: nn.Module, number: int, places: dict[str, Place], meet: Meet, *, sums: bool = True
    ) -> None:
        super().__init__(model, number, places)
        self.meet, self.sums = meet, sums
        self.strange: set[str] = set()  # weights whose inputs have other rows than in the original

    def before(self, site: Site) -> torch.Tensor:
        super().before(site)
        place = self.places.get(self._place)
        if place is not None and place.outline.get(self.number) == outline(site):
            rows = input_rows(site, place.at[self.number], place.spatial[self.number])
            self.meet(self.number, self._place, Arrival(site, rows))
        elif place is not None:
            self.strange.add(site.name)
        return site.x

    def norm(self, name: str, chain: Chain | None, args: tuple[Any, ...]) -> None:
        if chain is not None and self._waits_for_sum(chain):
            self.meet(self.number, name, Moments(args, chain.place, 0, args[3], args[4]))
            return
        x = args[0].detach().float().flatten(2) if args[0].dim() > 2 else args[0].detach().float()[..., None]
        off = x - args[3].float()[:, None]  # squares of what is far from zero would cancel
        first, second = off.sum(2).double().sum(0), torch.linalg.vector_norm(off, dim=2).double().square().sum(0)
        place = None if chain is None else chain.place
        self.meet(self.number, name, Moments(args, place, x.numel() // x.shape[1], first, second))

    def sum(self, chain: Chain, other: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        if not self._waits_for_sum(chain):
            return out
        rows = output_rows(other, chain.site, self.places[chain.place].at[self.number])
        self.meet(self.number, chain.place + "+", Addition(rows, chain.scale))
        assert chain.site.again is not None
        y = chain.site.again()
        for step in chain.steps:
            y = step(y)
        return y + other

    def _waits_for_sum(self, chain: Chain) -> bool:
        """Whether the contraction is fitted only where its output is added, and what comes between runs again then."""
        place = self.places.get(chain.place)
        if place is None or place.outline.get(self.number) != outline(chain.site):
            return False
        return self.sums and self.number in place.sums


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a pass brings to a contraction: the contraction, and rows of its inputs."""

    site: Site
    rows_RGD: torch.Tensor


@dataclass(frozen=True, slots=True)
class Addition:
    """What a pass brings to a sum: rows of what the contraction's output is added to, and its scale on the way there."""

    rows: torch.Tensor
    scale: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Moments:
    """What a pass brings to a batch norm: its arguments, the contraction before it, and sums over its input.

    ``first`` and ``second`` add up (x − running mean) and its square over ``count`` positions.
    """

    args: tuple[Any, ...]
    place: str | None
    count: int
    first: torch.Tensor
    second: torch.Tensor
