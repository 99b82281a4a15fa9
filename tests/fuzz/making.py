"""How a random network grows: one block at a time, each tried on real activations before it is kept.

    x ── pick a block that fits Shape.of(x) ── build ── randomise ── run ── settle ──► x', and again

A *stream* says what the axes of the activation mean; the batch is always the first axis:

    map [B C H W]   tokens [B T C]   vector [B C]   signal [B C L]   volume [B C D H W]   ids [B T] (integers)

A block is a function `(make, at) -> nn.Module`, registered with the stream it reads and the stream it leaves. It may
call `make.body(...)` to draw blocks inside itself. Invariant: what is kept has finite outputs of ordinary size, which
differ from one example of the batch to another, so that no later comparison is vacuous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .chooser import Chooser

LARGEST = {"channels": 64, "space": 16, "numel": 1536}
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)
ROUND = (4, 6, 8, 9, 12, 16, 24, 32)
DEEPEST = 2
TRIES = 12
OPTIONAL = ("pointwise", "joins", "channels", "gates", "attention", "positions", "recurrent", "structure")
WAYS = ("sizes_read", "sizes_kept", "literal_counts", "decisions", "habits", "spellings")
STACKS = "stacks"  # a family that only networks with ``deep`` have
SIMPLE_FIRST = ("convolution", "tokens", "streams", "entries", STACKS, *OPTIONAL, *WAYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A model, inputs it runs on (`model(*inputs)`), and the names of the blocks it was made of."""

    seed: int
    model: nn.Module
    inputs: tuple
    recipe: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The block kinds, without where they were nested ('residual/conv3x3' is a 'conv3x3')."""
        return tuple(name.rsplit("/", 1)[-1] for name in self.recipe)


@dataclass(frozen=True, slots=True)
class Shape:
    """What an activation looks like, without the batch."""

    stream: str
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, stream: str, x: Tensor) -> Shape:
        return cls(stream, tuple(x.shape[1:]))

    @property
    def channels(self) -> int:
        return self.sizes[min(0, self.axis)]

    @property
    def axis(self) -> int:
        """Where the channels are, counted with the batch axis."""
        return -1 if self.stream == "tokens" else 1

    @property
    def space(self) -> tuple[int, ...]:
        """The sizes that are not channels."""
        return self.sizes[:-1] if self.stream == "tokens" else self.sizes[1:]


Fits: TypeAlias = Callable[[Shape], bool]
Build: TypeAlias = Callable[["Maker", Shape], nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One registered kind of block."""

    name: str
    build: Build
    streams: tuple[str, ...]
    to: str | None
    when: Fits
    weight: int
    nested: bool

    @property
    def family(self) -> str:
        """The module that defines it."""
        return self.build.__module__.rsplit(".", 1)[-1]


BLOCKS: dict[str, Block] = {}


def block(
    *streams: str, to: str | None = None, when: Fits | None = None, weight: int = 2, nested: bool = False
) -> Callable[[Build], Build]:
    """Register a builder under its own name: the streams it reads, the one it leaves, and what it needs."""

    def register(build: Build) -> Build:
        name = build.__name__
        if name in BLOCKS:
            raise ValueError(f"block {name!r} is registered by {BLOCKS[name].build.__module__} already")
        fits: Fits = when or (lambda at: True)
        BLOCKS[name] = Block(name=name, build=build, streams=streams, to=to, when=fits, weight=weight, nested=nested)
        return build

    return register


@cache
def choices(stream: str, plain: bool = False, deep: bool = False) -> tuple[Block, ...]:
    """The kinds that read this stream, each as often as it weighs. The list is fixed: that keeps shrinking stable."""
    left_out = (*(WAYS if plain else ()), *(() if deep else (STACKS,)))
    fitting = [kind for kind in BLOCKS.values() if stream in kind.streams and kind.family not in left_out]
    fitting.sort(key=lambda kind: SIMPLE_FIRST.index(kind.family))
    return tuple(kind for kind in fitting for _ in range(kind.weight))


class Rescale(nn.Module):
    """Multiplies by a constant, so that deep random networks neither explode nor fade."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Maker:
    """One network under construction. It has state because a recipe grows and a parameter is randomised only once."""

    def __init__(self, choose: Chooser, plain: bool = False, deep: bool = False) -> None:
        self.choose, self.plain, self.deep = choose, plain, deep
        # Swarm testing: a network that lacks whole families meets interactions that others drown out.
        self.without = {family for family in (OPTIONAL if plain else (*OPTIONAL, *WAYS)) if choose.chance(25)}
        self.recipe: list[str] = []
        self._path: tuple[str, ...] = ()
        self._done: dict[int, nn.Module | nn.Parameter] = {}

    def width(self, at: Shape, multiple: int = 1, high: int = 32) -> int:
        """A channel count, readily one that could be mistaken for another size: T == C, H == C, a prime."""
        pool = self.choose.pick((at.sizes, (2, 3, 4, 5), ROUND, PRIMES))
        n = max(2, self.choose.pick(pool))
        return min(max(1, round(n / multiple)), max(1, high // multiple)) * multiple

    def divisor(self, n: int, least: int = 1) -> int:
        """A divisor of n, at least `least` (n itself where there is no other)."""
        return self.choose.pick([d for d in range(least, n + 1) if n % d == 0] or [n])

    def step(self, x: Tensor, stream: str, only: Callable[[Block], bool] | None = None) -> Step | None:
        """A block that can run on `x`; None if a few tries found none."""
        at = Shape.of(stream, x)
        for _ in range(TRIES):
            kind = self.choose.pick(choices(stream, self.plain, self.deep))
            if self._allows(kind, at) and (only is None or only(kind)):
                found = self._try(kind, x, at)
                if found is not None:
                    return found
        return None

    def only(self, kind: Block, x: Tensor, stream: str) -> Step | None:
        """This kind of block, if it can run on `x`."""
        at = Shape.of(stream, x)
        return self._try(kind, x, at) if stream in kind.streams and self._allows(kind, at) else None

    def body(self, at: Shape, length: int = 2, same: bool = True) -> tuple[nn.Sequential, Shape]:
        """A few blocks in a row, in the same stream (and, where `same`, on the same grid), and what they leave."""
        x, blocks = torch.randn(2, *at.sizes), []
        for _ in range(self.choose.integer(1, length)):
            mark = len(self.recipe)
            found = self.choose.span(lambda x=x: self.step(x, at.stream, lambda kind: kind.to is None))
            if found is None or (same and found.shape.space != at.space):
                del self.recipe[mark:]
                continue
            blocks.append(found.module)
            x = found.out
        return nn.Sequential(*blocks), Shape.of(at.stream, x)

    def keep(self, module: nn.Module) -> nn.Module:
        """Randomise what is still fresh in `module`, and put it in eval mode."""
        randomise(module, self._done)
        return module.eval()

    def _allows(self, kind: Block, at: Shape) -> bool:
        too_deep = kind.nested and len(self._path) >= DEEPEST
        return kind.family not in self.without and not too_deep and kind.when(at)

    def _try(self, kind: Block, x: Tensor, at: Shape) -> Step | None:
        """Build and run one block; forget all about it if its output is of no use."""
        mark = len(self.recipe)
        self.recipe.append("/".join((*self._path, kind.name)))
        with self._inside(kind.name):
            module = self.keep(kind.build(self, at))
        with torch.no_grad():
            out = module(x.clone())
        if not usable(out, kind.to or at.stream):
            del self.recipe[mark:]
            return None
        module, out = settled(module, out)
        return Step(module=module, out=out, stream=kind.to or at.stream)

    @contextmanager
    def _inside(self, name: str) -> Iterator[None]:
        outside, self._path = self._path, (*self._path, name)
        try:
            yield
        finally:
            self._path = outside


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A block that was kept, and what it made of the activation."""

    module: nn.Module
    out: Tensor
    stream: str

    @property
    def shape(self) -> Shape:
        return Shape.of(self.stream, self.out)


def usable(out: Tensor, stream: str) -> bool:
    """Finite, not too large, and not the same for every example."""
    at = Shape.of(stream, out)
    small = at.channels <= LARGEST["channels"] and max(at.space, default=1) <= LARGEST["space"]
    if not small or at.channels < 2 or out[0].numel() > LARGEST["numel"]:
        return False
    differ = (out[0] - out[1]).abs().amax()
    return bool(out.isfinite().all()) and bool(differ > 0.03 * out.abs().amax())


def settled(module: nn.Module, out: Tensor) -> tuple[nn.Module, Tensor]:
    """The module, followed by a constant factor where its output is very small or very large."""
    spread = float(out.std())
    if 0.1 < spread < 10:
        return module, out
    factor = float(f"{1 / spread:.1e}")
    return nn.Sequential(module, Rescale(factor)), out * factor


def randomise(module: nn.Module, done: dict[int, nn.Module | nn.Parameter]) -> None:
    """Random weights, biases away from zero, random running statistics: nothing that a wrong index could hide in."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if id(parameter) not in done:
                done[id(parameter)] = parameter
                _refill(name.rsplit(".", 1)[-1], parameter)
        for part in module.modules():
            mean, var = getattr(part, "running_mean", None), getattr(part, "running_var", None)
            if isinstance(mean, Tensor) and isinstance(var, Tensor) and id(part) not in done:
                done[id(part)] = part
                mean.normal_(0, 0.3)
                var.uniform_(0.5, 1.5)


def _refill(name: str, parameter: nn.Parameter) -> None:
    if name.startswith("original"):  # weight_norm's magnitude and direction belong together
        return
    if "bias" in name or parameter.dim() == 1:
        low, high = (0.1, 0.5) if "bias" in name else (0.5, 1.5)
        sign = torch.where(torch.rand_like(parameter) < 0.25, -1.0, 1.0)
        parameter.copy_(torch.empty_like(parameter).uniform_(low, high) * sign)
    else:
        parameter.normal_(0, (parameter[0].numel()) ** -0.5)


def sizes_divide(n: int, candidates: Sequence[int] = (2, 3, 4)) -> bool:
    """Whether n can be cut into equal parts."""
    return any(n % d == 0 and n > d for d in candidates)
