"""Random networks whose purpose is to break a pruning engine.

    seed ── RandomChooser ──┐
                            ├── Maker: inputs ── [entry] ── block ── block ── … ── [head] ── output form ──► Network
    Hypothesis ── draw ─────┘

`random_network(seed)` is deterministic; `networks()` is a Hypothesis strategy over the same decisions, and shrinks to
few, simple blocks; `TRAPS` are tiny hand-written networks, one for each known way to go wrong. ``plain`` networks are
written as tutorials are; the others also as people write: sizes read, kept and compared in every way, caches, hooks.

    model, inputs = random_network(7).model, random_network(7).inputs
    model(*inputs)          # eval mode, float32, finite, sizes of any batch
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from . import (
    attention,
    channels,
    convolution,
    decisions,
    gates,
    habits,
    joins,
    literal_counts,
    pointwise,
    positions,
    recurrent,
    sizes_kept,
    sizes_read,
    spellings,
    stacks,
    streams,
    structure,
    tokens,
    traps_tokens,
    traps_use,
)
from .chooser import Chooser, DrawChooser, RandomChooser
from .entries import FORMS, OUTPUTS, RARE_OUTPUTS, OneInput, Skip, Trunk, new_join
from .joins import pointwise_layer
from .making import BLOCKS, LARGEST, Block, Maker, Network, Shape
from .streams import VOCABULARY
from .traps import TRAPS

__all__ = ["BLOCKS", "FAMILIES", "TRAPS", "Network", "kinds", "networks", "random_network"]

# Importing a family registers its blocks; the traps register themselves likewise.
FAMILIES = (convolution, tokens, pointwise, joins, channels, gates, attention, positions, recurrent, structure, streams)
DEEP = (stacks,)
WRITTEN_AS_PEOPLE_DO = (sizes_read, sizes_kept, literal_counts, decisions, habits, spellings)
TRAP_FAMILIES = (traps_tokens, traps_use)
STREAMS = ("map", "tokens", "vector", "map", "tokens", "ids", "map", "signal", "volume", "ids", "map", "tokens")
MOST_BLOCKS = 12


def random_network(seed: int, *, plain: bool = True, deep: bool = False) -> Network:
    """The network of that seed; the same one each time. ``deep`` ones have lists of blocks that may go whole."""
    return build(RandomChooser(seed), seed, plain, deep)


@st.composite
def networks(draw: st.DrawFn, *, plain: bool = True) -> Network:
    """Random networks, shrinking to few blocks. `seed` is that of the weights only; the recipe tells the rest."""
    return build(DrawChooser(draw), draw(st.integers(0, 2**16)), plain)


def kinds() -> tuple[str, ...]:
    """Every name that may appear as a kind in a recipe."""
    forms = ("one_input", *FORMS, *(f"{name}_output" for name in (*OUTPUTS, *RARE_OUTPUTS)))
    return (*BLOCKS, "skip_add", "skip_concat", "head", *forms)


def network_of(name: str, seed: int) -> Network:
    """A small network around one kind of block: a layer before it, which makes its input a width, and a head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for attempt in range(1000):
            found = _Growth(RandomChooser(1000 * seed + attempt), plain=False).around(BLOCKS[name], seed)
            if found is not None:
                return found
    raise ValueError(f"no input was found that a {name} takes")


def build(choose: Chooser, seed: int, plain: bool, deep: bool = False) -> Network:
    """A network from decisions; the weights from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _Growth(choose, plain, deep).network(seed)


class _Growth:
    """The trunk while it grows: its blocks, and every activation so far (which is why it has state)."""

    def __init__(self, choose: Chooser, plain: bool, deep: bool = False) -> None:
        self.choose = choose
        self.make = Maker(choose, plain, deep)
        self.blocks: list[nn.Module] = []
        self.skips: dict[int, int] = {}
        self.seen: list[tuple[str, Tensor]] = []

    def network(self, seed: int) -> Network:
        batch = self.choose.pick((2, 3, 4, 1))
        stream, x = self._input(max(batch, 2))
        form = self.choose.pick(tuple(FORMS)) if stream != "ids" and self.choose.chance(20) else "one_input"
        inputs, join, inner = self._enter(form, stream, x)
        self.seen.append((stream, inner))
        while len(self.seen) <= MOST_BLOCKS and self.choose.span(self._grow):
            pass
        if not self._has_parameters() or self.choose.chance(60):
            self._head()
        trunk = self._trunk()
        model = OneInput(trunk) if join is None else FORMS[form](join, trunk)
        self.make.recipe.append(form)
        return Network(seed=seed, model=model.eval(), inputs=_first(inputs, batch), recipe=tuple(self.make.recipe))

    def around(self, kind: Block, seed: int) -> Network | None:
        """That block alone, between two layers; None where what was drawn does not fit it."""
        self.make.without = set()
        stream, x = self._input(3)
        if stream not in kind.streams:
            return None
        self.seen.append((stream, x))
        if stream != "ids":
            width = self.make.width(Shape.of(stream, x))
            before = self.make.keep(pointwise_layer(Shape.of(stream, x), width))
            self.blocks.append(before)
            self.seen.append((stream, before(x).detach()))
        found = self.make.only(kind, *reversed(self.seen[-1]))
        if found is None:
            return None
        self.blocks.append(found.module)
        self.seen.append((found.stream, found.out))
        self._head()
        model = OneInput(Trunk(self.blocks, {}, "tensor", 0)).eval()
        return Network(seed=seed, model=model, inputs=(x,), recipe=tuple(self.make.recipe))

    def _input(self, batch: int) -> tuple[str, Tensor]:
        """The kind of input, and a batch of it."""
        stream = self.choose.pick(STREAMS)
        c = self.choose.integer(2, 8)
        t = self.choose.pick((c, self.choose.integer(2, 9)))
        if stream == "ids":
            first = torch.randint(0, VOCABULARY, (1, t))
            return stream, (first + torch.arange(batch)[:, None]) % VOCABULARY
        h = self.choose.pick((4, 6, 8, c, 3, 5, 7))
        w = self.choose.pick((h, 4, 6, 5))
        sizes = {"map": (c, h, w), "tokens": (t, c), "vector": (c,), "signal": (c, t), "volume": (c, 3, h, w)}
        return stream, torch.randn(batch, *sizes[stream])

    def _enter(self, form: str, stream: str, x: Tensor) -> tuple[tuple, nn.Module | None, Tensor]:
        """The inputs of the model, what joins them (if there are two), and the activation that enters the trunk."""
        if form == "one_input":
            return (x,), None, x
        y = torch.randn(x.shape[0], self.choose.integer(2, 6))
        join = new_join(self.make, Shape.of(stream, x), y.shape[1])
        with torch.no_grad():
            inner = join(x.clone(), y)
        return ((x, y) if form == "two_inputs" else ({"x": x, "y": y},)), join, inner

    def _grow(self) -> bool:
        """One more block, or a long skip; False when the network is long enough."""
        if not self.choose.chance(91):
            return False
        if len(self.blocks) >= 2 and self.choose.chance(15) and self._skip():
            return True
        stream, x = self.seen[-1]
        found = self.make.step(x, stream)
        if found is not None:
            self.blocks.append(found.module)
            self.seen.append((found.stream, found.out))
        return True

    def _skip(self) -> bool:
        """Adds or concatenates an earlier activation, where one fits."""
        stream, x = self.seen[-1]
        at = Shape.of(stream, x)
        earlier = [i for i, (s, e) in enumerate(self.seen[:-1]) if s == stream and Shape.of(s, e).space == at.space]
        if not earlier or stream == "ids":
            return False
        i = self.choose.pick(earlier)
        other = self.seen[i][1]
        add = other.shape == x.shape
        if not add and at.channels + Shape.of(stream, other).channels > LARGEST["channels"]:
            return False
        skip = Skip(at.axis, add)
        self.skips[len(self.blocks)] = i
        self.blocks.append(skip)
        self.seen.append((stream, skip(x, other)))
        self.make.recipe.append("skip_add" if add else "skip_concat")
        return True

    def _has_parameters(self) -> bool:
        return any(True for module in self.blocks for _ in module.parameters())

    def _head(self) -> None:
        stream, x = self.seen[-1]
        classes = self.choose.integer(2, 7)
        head = nn.Embedding(VOCABULARY, classes) if stream == "ids" else pointwise_layer(Shape.of(stream, x), classes)
        head = self.make.keep(head)
        self.blocks.append(head)
        self.seen.append((stream, head(x).detach()))
        self.make.recipe.append("head")

    def _trunk(self) -> Trunk:
        """The blocks, and what forward returns of them."""
        forms = OUTPUTS if self.make.plain else (*OUTPUTS, *RARE_OUTPUTS)
        output = self.choose.pick(forms) if self.choose.chance(25) else "tensor"
        kept = self.choose.integer(1, len(self.blocks)) if output != "tensor" else 0
        self.make.recipe.append(f"{output}_output")
        return Trunk(self.blocks, self.skips, output, kept)


def _first(inputs: tuple, batch: int) -> tuple:
    """The first examples of each input."""
    return tuple(
        {k: v[:batch].contiguous() for k, v in x.items()} if isinstance(x, dict) else x[:batch].contiguous()
        for x in inputs
    )
