"""The ways into a network and out of it: what the inputs are, and what forward returns.

one tensor      x ── trunk                    tensor      out
two tensors     x ── stem ─┐                  tuple       (out, an inner activation)
                y ── stem ─┴ join ── trunk    dict        {"out": out, "features": inner}
a dict          {"x": x, "y": y}              dataclass   Output(out, features)
token ids       embedding, bag, or tied embedding
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .joins import branch
from .making import Maker, Shape, block
from .streams import VOCABULARY

JOINS = ("add", "concat", "film", "bilinear", "attend")
OUTPUTS = ("tensor", "tuple", "dict", "dataclass")
RARE_OUTPUTS = ("slots", "named_tuple", "proxy", "nested", "object")


@dataclass
class Output:
    """What a Hugging Face model would return."""

    out: Tensor
    features: Tensor | None = None


@dataclass(slots=True)
class SlotsOutput:
    """A dataclass without a dict."""

    out: Tensor
    features: Tensor


class TupleOutput(NamedTuple):
    """A tuple with names."""

    out: Tensor
    features: Tensor


class ObjectOutput:
    """A plain object that keeps its tensors in a container."""

    def __init__(self, *tensors: Tensor) -> None:
        self.found = {"tensors": list(tensors)}


RARE: dict[str, Callable[[Tensor, Tensor], object]] = {
    "slots": SlotsOutput,
    "named_tuple": TupleOutput,
    "proxy": lambda out, features: MappingProxyType({"out": out, "features": features}),
    "nested": lambda out, features: [{"out": (out,)}, [[features]]],
    "object": ObjectOutput,
}


class Trunk(nn.Module):
    """Blocks in turn; a block may also read an earlier activation (a long skip), and one activation is kept."""

    def __init__(self, blocks: list[nn.Module], skips: dict[int, int], output: str, kept: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.skips = skips
        self.output = output
        self.kept = kept

    def forward(self, x: Tensor) -> object:
        seen = [x]
        for i, module in enumerate(self.blocks):
            x = module(x, seen[self.skips[i]]) if i in self.skips else module(x)
            seen.append(x)
        if self.output == "tuple":
            return x, seen[self.kept]
        if self.output == "dict":
            return {"out": x, "features": seen[self.kept]}
        if self.output in RARE:
            return RARE[self.output](x, seen[self.kept])
        return Output(x, seen[self.kept]) if self.output == "dataclass" else x


class Skip(nn.Module):
    """Meets an earlier activation: adds it, or stands beside it."""

    def __init__(self, axis: int, add: bool) -> None:
        super().__init__()
        self.axis = axis
        self.add = add

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        return x + earlier if self.add else torch.cat([x, earlier], dim=self.axis)


class Join(nn.Module):
    """Two stems that become one stream; the second input is a vector [B K]."""

    def __init__(self, stem: nn.Module, at: Shape, other: int, style: str, width: int) -> None:
        super().__init__()
        self.stem = stem
        self.style = style
        self.axis = at.axis
        self.trailing = len(at.space) if at.axis == 1 else 0
        self.width = {"film": 2 * at.channels, "concat": width}.get(style, at.channels)
        self.fc = nn.Linear(other, self.width)

    def spread(self, y_BC: Tensor, x: Tensor) -> Tensor:
        """The vector, at every place of x."""
        if self.axis == 1:
            return y_BC.view(*y_BC.shape, *[1] * self.trailing)
        return y_BC.unsqueeze(1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.spread(self.fc(y), x)
        if self.style == "film":
            scale, shift = y.chunk(2, dim=self.axis)
            return x * (1 + scale) + shift
        if self.style == "concat":
            sizes = list(x.shape)
            sizes[self.axis] = self.width
            return torch.cat([x, y.expand(sizes)], dim=self.axis)
        if self.style == "bilinear":
            return x * torch.tanh(y)
        if self.style == "attend":
            return x * torch.sigmoid((x * y).sum(self.axis, keepdim=True))
        return x + y


class OneInput(nn.Module):
    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: Tensor) -> object:
        return self.trunk(x)


class TwoInputs(nn.Module):
    def __init__(self, join: nn.Module, trunk: nn.Module) -> None:
        super().__init__()
        self.join, self.trunk = join, trunk

    def forward(self, x: Tensor, y: Tensor) -> object:
        return self.trunk(self.join(x, y))


class DictInput(nn.Module):
    def __init__(self, join: nn.Module, trunk: nn.Module) -> None:
        super().__init__()
        self.join, self.trunk = join, trunk

    def forward(self, batch: Mapping[str, Tensor]) -> object:
        return self.trunk(self.join(batch["x"], batch["y"]))


FORMS: dict[str, Callable[[nn.Module, nn.Module], nn.Module]] = {"two_inputs": TwoInputs, "dict_input": DictInput}


def new_join(make: Maker, at: Shape, other: int) -> nn.Module:
    """A stem on the first input, and how the second one meets it."""
    stem, width = branch(make, at, make.width(at))
    middle = Shape(at.stream, (*at.space, width) if at.axis == -1 else (width, *at.space))
    return make.keep(Join(stem, middle, other, make.choose.pick(JOINS), make.width(at)))


@block("ids", to="tokens", weight=3)
def embedding(make: Maker, at: Shape) -> nn.Module:
    return nn.Embedding(VOCABULARY, make.width(at), padding_idx=0 if make.choose.chance(30) else None)


@block("ids", to="vector", weight=3)
def embedding_bag(make: Maker, at: Shape) -> nn.Module:
    return nn.EmbeddingBag(VOCABULARY, make.width(at), mode=make.choose.pick(("mean", "sum")))


class TwoTables(nn.Module):
    """Two embeddings summed, and a factorised projection (ALBERT)."""

    position_ids: Tensor

    def __init__(self, inner: int, out: int, tokens: int) -> None:
        super().__init__()
        self.word = nn.Embedding(VOCABULARY, inner)
        self.position = nn.Embedding(tokens, inner)
        self.register_buffer("position_ids", torch.arange(tokens).unsqueeze(0), persistent=False)
        self.norm = nn.LayerNorm(inner)
        self.map_in = nn.Linear(inner, out)

    def forward(self, ids_BT: Tensor) -> Tensor:
        x = self.word(ids_BT) + self.position(self.position_ids[:, : ids_BT.shape[1]])
        return self.map_in(self.norm(x))


@block("ids", to="tokens", weight=3)
def factorised_embedding(make: Maker, at: Shape) -> nn.Module:
    return TwoTables(make.width(at), make.width(at), at.sizes[0])


class TiedLanguageModel(nn.Module):
    """The embedding is also the output layer."""

    def __init__(self, dim: int, body: nn.Module, module_head: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, dim)
        self.body = body
        self.lm_head = nn.Linear(dim, VOCABULARY, bias=False) if module_head else None
        if self.lm_head is not None:
            self.lm_head.weight = self.embed.weight

    def forward(self, ids_BT: Tensor) -> Tensor:
        h = self.body(self.embed(ids_BT))
        return self.lm_head(h) if self.lm_head is not None else F.linear(h, self.embed.weight)


@block("ids", to="tokens", weight=4, nested=True)
def tied_embedding(make: Maker, at: Shape) -> nn.Module:
    dim = make.width(at)
    body, _ = branch(make, Shape("tokens", (at.sizes[0], dim)), dim)
    return TiedLanguageModel(dim, body, make.choose.chance(50))
