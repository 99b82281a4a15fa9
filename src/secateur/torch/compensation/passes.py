"""One forward pass, watched: contractions, the batch norms after them, and the sums that they flow into.

    Watcher     numbers the visits, follows each contraction's output along its chain
    ├── Recorder    the original network: keeps a few thousand rows of what came out of each contraction and sum
    └── Refitter    the narrowed one: at each point waits for the other passes and goes on with what was decided

Invariant: both number their visits in the same way, so what the narrowed network should give is found by the visit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from secateur.torch.compensation.norms import ChannelSums, Statistics, channel_sums
from secateur.torch.compensation.records import Contraction, Norm, Original, Sampled
from secateur.torch.compensation.rows import input_rows, num_inputs, num_outputs, outline, output_rows, positions
from secateur.torch.measuring.folds import owners
from secateur.torch.running.contractions import Site
from secateur.torch.running.padding import NOTHING_PADDED, Padding
from secateur.torch.running.transforms import INSIDE
from secateur.torch.running.walking import named_buffers, named_parameters, parameters_of

Function = Callable[..., Any]
Called = Callable[[str], str]  # what the original calls a tensor of this name
Arguments = tuple[Any, ...]  # of whatever function the model calls


@dataclass(frozen=True, slots=True)
class Batch:
    """Which pass this is, and how many samples it has."""

    number: int
    samples: int


@dataclass(frozen=True, slots=True)
class NormCall:
    """The arguments of a call of ``torch.batch_norm``."""

    x: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    mean: torch.Tensor
    variance: torch.Tensor
    eps: float

    @classmethod
    def of(cls, args: Arguments) -> NormCall:
        x, weight, bias, mean, variance, _, _, eps, *_ = args
        return cls(x, weight, bias, mean, variance, float(eps))

    @property
    def statistics(self) -> Statistics:
        return Statistics(self.mean, self.variance, self.eps)


class Watcher:
    """Follows contractions through one forward pass; state, because functions are called back."""

    def __init__(self, model: nn.Module, batch: Batch, record: Original, called: Called = str) -> None:
        self.batch = batch
        self.record = record
        self.visits: Counter[str] = Counter()
        self.buffers = {id(b): called(name) for name, b in named_buffers(model, once=True)}
        self.parameters = {id(p): called(name) for name, p in named_parameters(model, once=True)}
        self.looked_up: set[str] = set()  # weights that are (also) embeddings
        self._here = ""

    def before(self, site: Site) -> torch.Tensor:
        """Number the visit."""
        used(site.x)
        self._here = self._visit(site.name)
        return site.x

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        """Begin a chain."""
        return link(y, Chain(self._here, site))

    def other(self, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:  # whatever the function returns
        """Follow chains through batch norms, scales and dropout, up to a sum."""
        if func in BATCH_NORMS and id(args[3]) in self.buffers and not args[5]:
            return self._normed(func, args, kwargs)
        if func in SUMS and len(args) > 1 and not kwargs:
            return self._summed(func, args)
        self._look_up(func, args)
        out = func(*args, **kwargs)
        if func in DROPOUTS and args:
            return out if out is args[0] else link(out, chain_of(args[0]))
        if func in SCALES and len(args) > 1 and isinstance(out, torch.Tensor):
            return self._scaled(func, args, out)
        if isinstance(out, (torch.Tensor, list, tuple)) and not isinstance(out, torch.Size):
            for value in (*args, *kwargs.values()):
                used(value)
        return out

    def inside(self, func: Function, args: Arguments, site: Site | None) -> None:
        """What is used inside a transform is out in the world; nothing in there begins or goes on with a chain."""
        self._look_up(func, args)
        for value in args:
            used(value)

    # -- what the two kinds do differently -------------------------------------------------------------------------

    def norm(self, visit: str, chain: Chain | None, call: NormCall) -> None:
        """A batch norm is about to run, right after the contraction at the chain's head if there is one."""
        raise NotImplementedError

    def sum(self, chain: Chain, other: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """A contraction's output has been added to another tensor."""
        raise NotImplementedError

    # -- what they share -------------------------------------------------------------------------------------------

    def _look_up(self, func: Function, args: Arguments) -> None:
        if func in LOOKUPS:
            self.looked_up |= {self.parameters[id(a)] for a in args if id(a) in self.parameters}

    def _visit(self, name: str) -> str:
        self.visits[name] += 1
        return f"{name}#{self.visits[name]}"

    def _normed(self, func: Function, args: Arguments, kwargs: dict[str, Any]) -> torch.Tensor:
        chain = chain_of(args[0])
        if chain is not None and chain.affine:
            used(args[0])
            chain = None
        self.norm(self._visit(self.buffers[id(args[3])]), chain, NormCall.of(args))
        out = func(*args, **kwargs)
        if chain is None:
            return out
        chain.affine.append(lambda y: func(y, *args[1:], **kwargs))
        return link(out, chain)

    def _scaled(self, func: Function, args: Arguments, out: torch.Tensor) -> torch.Tensor:
        for own, factor in (args[:2], args[1::-1]):
            chain = chain_of(own)
            if chain is None or id(factor) not in self.parameters or out.shape != own.shape:
                continue
            if factor.numel() not in (1, out.shape[chain.site.features]) or out is own:
                continue
            by = factor.detach().reshape(-1)
            chain.scale = by if chain.scale is None else chain.scale * by
            chain.affine.append(lambda y, factor=factor: func(y, factor))
            return link(out, chain)
        used(args[:2])
        return out

    def _summed(self, func: Function, args: Arguments) -> Any:  # whatever the sum gives
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


Limit = Callable[[Site], int]  # how many positions to look at in one pass


class Recorder(Watcher):
    """Keeps what the original network gives."""

    def __init__(
        self, model: nn.Module, batch: Batch, record: Original, limit: Limit, padding: Padding = NOTHING_PADDED
    ) -> None:
        super().__init__(model, batch, record)
        self.limit, self.padding = limit, padding
        self.order: list[str] = []
        trains = any(p.requires_grad for p in parameters_of(model))
        self.frozen = (
            {n for n, p in named_parameters(model, once=True) if not p.requires_grad} if trains else set[str]()
        )

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        self.order.append(self._here)
        contraction = self.record.contractions.setdefault(self._here, self._contraction_of(site))
        at = positions(y, site, self.limit(site), self.batch.number, self.padding)
        contraction.seen[self.batch.number] = Sampled(
            at=at,
            owner=owners(at, y.numel() // y.shape[site.features], self.batch.samples),
            rows=output_rows(y, site, at),
            spatial=tuple(y.shape[-site.spatial :]) if site.spatial else (),
            outline=outline(site),
        )
        return super().after(site, y)

    def inside(self, func: Function, args: Arguments, site: Site | None) -> None:
        super().inside(func, args, site)
        if site is not None:
            self.record.contractions[f"{site.name}#inside"] = replace(self._contraction_of(site), left=INSIDE)

    def _contraction_of(self, site: Site) -> Contraction:
        bias = None if site.bias is None else self.parameters.get(id(site.bias))
        left = None
        if site.bias is not None and (bias is None or site.bias.numel() != num_outputs(site)):
            left = "what is added to its output is not a bias"
        if site.kind == "transposed" and site.groups > 1:
            left = "it is a transposed convolution with groups"
        if site.name in self.frozen or bias in self.frozen:
            left = "its requires_grad is False, while other weights train"
        return Contraction(weight=site.name, outputs=site.outputs, bias=bias, left=left)

    def norm(self, visit: str, chain: Chain | None, call: NormCall) -> None:
        self.order.append(visit)
        trained = Statistics(call.mean.clone(), call.variance.clone(), call.eps)
        norm = self.record.norms.setdefault(visit, Norm(self.buffers[id(call.mean)], trained))
        norm.sums[self.batch.number] = channel_sums(call.x, call.mean, self.batch.samples)
        if chain is not None:
            self.record.contractions[chain.visit].norm = trained

    def sum(self, chain: Chain, other: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        self.order.append(chain.visit + "+")
        seen = self.record.contractions[chain.visit].seen[self.batch.number]
        seen.sums = output_rows(out, chain.site, seen.at)
        return out


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
class Incoming:
    """What a pass brings to a batch norm: the call, the contraction before it, and sums over what comes in.

    Without sums where the contraction waits for its sum: what comes in will change.
    """

    call: NormCall
    contraction: str | None
    sums: ChannelSums | None


Brought = Arrival | Addition | Incoming
Meet = Callable[[int, str, Brought], None]  # (pass, point, what it brings): back when that point is decided


class Refitter(Watcher):
    """Waits at every point for what is decided there; ``sums`` are points, too."""

    def __init__(
        self, model: nn.Module, batch: Batch, record: Original, meet: Meet, *, sums: bool = True, called: Called = str
    ) -> None:
        super().__init__(model, batch, record, called)
        self.meet, self.sums = meet, sums
        self.strange: set[str] = set()  # weights whose inputs have other rows than in the original

    def before(self, site: Site) -> torch.Tensor:
        super().before(site)
        seen = self._seen(self._here, site)
        if seen is not None:
            self.meet(self.batch.number, self._here, Arrival(site, input_rows(site, seen.at, seen.spatial)))
        elif self._here in self.record.contractions:
            self.strange.add(site.name)
        return site.x

    def norm(self, visit: str, chain: Chain | None, call: NormCall) -> None:
        waits = chain is not None and self._awaited(chain) is not None
        sums = None if waits else channel_sums(call.x, call.mean, self.batch.samples)
        self.meet(self.batch.number, visit, Incoming(call, None if chain is None else chain.visit, sums))

    def sum(self, chain: Chain, other: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        seen = self._awaited(chain)
        if seen is None:
            return out
        self.meet(self.batch.number, chain.visit + "+", Addition(output_rows(other, chain.site, seen.at), chain.scale))
        assert chain.site.again is not None
        y = chain.site.again()
        for step in chain.affine:
            y = step(y)
        return y + other

    def _seen(self, visit: str, site: Site) -> Sampled | None:
        """What the original gave in this pass, where the same rows come in."""
        contraction = self.record.contractions.get(visit)
        seen = None if contraction is None else contraction.seen.get(self.batch.number)
        return seen if seen is not None and seen.outline == outline(site) else None

    def _awaited(self, chain: Chain) -> Sampled | None:
        """The same, where the contraction is fitted only when its output is added; what comes between runs again then."""
        seen = self._seen(chain.visit, chain.site)
        return seen if self.sums and seen is not None and seen.sums is not None else None
