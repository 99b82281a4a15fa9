"""Ways of writing code that are followed: sizes in loops, quotients, tables expanded over a width."""

import math
import random

import pytest
import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class _Net(nn.Module):
    """One layer in, one out; ``body`` is between them."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.dim, self.heads, self.of_head = width, heads, width // heads
        self.first, self.last = nn.Linear(8, width), nn.Linear(width, 4)

    def body(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.first(x)))


class Repeated(_Net):
    def body(self, h: Tensor) -> Tensor:
        return h * (h.sum(-1, keepdim=True) > 0).float().repeat(1, 1, self.dim)


class Tiled(_Net):
    def body(self, h: Tensor) -> Tensor:
        return h * torch.tile((h.sum(-1, keepdim=True) > 0).float(), (1, 1, self.dim))


class Gathered(_Net):
    def body(self, h: Tensor) -> Tensor:
        return h + h.gather(1, h.sum(-1).argmax(1)[:, None, None].repeat(1, 1, self.dim))


class Expanded(_Net):
    def body(self, h: Tensor) -> Tensor:
        steps = h.size(1)
        return h + torch.sin(torch.arange(steps)[:, None].expand(steps, self.dim).float() * 0.1)


class ExpandedAs(_Net):
    def body(self, h: Tensor) -> Tensor:
        return h + torch.sin(torch.arange(h.size(1)).float()[None, :, None].expand_as(h) * 0.1)


class Scaled(_Net):
    """A number for each of four heads, repeated for all that a head has."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))

    def body(self, h: Tensor) -> Tensor:
        return h * self.scale.repeat_interleave(self.of_head)


class Checked(_Net):
    """What must be equal for the code to go on is one width."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(self.dim, self.dim)

    def body(self, h: Tensor) -> Tensor:
        inner = self.inner(h.relu())
        assert inner.shape == h.shape
        return inner


class ByName(_Net):
    """Tensors that functions are given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.conv, self.back = nn.Linear(self.dim, 16), nn.Conv1d(16, 12, 1), nn.ConvTranspose1d(12, 24, 1)

    def body(self, h: Tensor) -> Tensor:
        linear, conv, back = nn.functional.linear, nn.functional.conv1d, nn.functional.conv_transpose1d
        h = linear(input=h, weight=self.inner.weight, bias=self.inner.bias).mT
        h = conv(h, weight=self.conv.weight, bias=self.conv.bias, stride=1)
        h = back(stride=1, bias=self.back.bias, weight=self.back.weight, input=h)
        parts = torch.unflatten(input=h, dim=1, sizes=(self.heads, self.of_head))
        return torch.cat(tensors=[parts, parts], dim=2)[:, :, : self.of_head].flatten(1, 2).mT


class PicturesAmongWords(_Net):
    """Rows that a mask places, which was expanded along the width (LLaVA); what does not fit is said in words."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures = nn.Linear(8, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        words, rows = self.first(x), self.pictures(x[:, :2])
        places = torch.zeros(x.shape[:2], dtype=torch.bool)
        places[:, 1:3] = True
        torch._check(words.shape[-1] == rows.shape[-1], f"words have {words.shape[-1]}, pictures {rows.shape[-1]}")
        return self.last(words.masked_scatter(places[..., None].expand_as(words), rows).relu())


class _ShapedAs(_Net):
    """A tensor that is given the shape of another, in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.cell = nn.Linear(self.dim, self.dim), nn.GRUCell(self.dim, self.dim)

    def body(self, h: Tensor) -> Tensor:
        inner = self.inner(h)
        return self.shaped(self.cell(inner.flatten(0, 1), h.flatten(0, 1)), inner)

    def shaped(self, y: Tensor, as_this: Tensor) -> Tensor:
        raise NotImplementedError


class ViewedAs(_ShapedAs):
    def shaped(self, y: Tensor, as_this: Tensor) -> Tensor:
        return y.view_as(as_this)


class ReshapedAs(_ShapedAs):
    def shaped(self, y: Tensor, as_this: Tensor) -> Tensor:
        return y.reshape_as(other=as_this)


class _Attention(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(self.dim, self.dim) for _ in range(3))


class HeadByHead(_Attention):
    def body(self, h: Tensor) -> Tensor:
        q, k, v = self.q(h), self.k(h), self.v(h)
        found = []
        for i in range(self.heads):
            here = slice(i * self.of_head, (i + 1) * self.of_head)
            weights = (q[..., here] @ k[..., here].transpose(1, 2) / 3).softmax(-1)
            found.append(weights @ v[..., here])
        return torch.cat(found, -1)


class HeadsInTheBatch(_Attention):
    """As the Set Transformer has it (Lee et al., arXiv 1810.00825)."""

    def body(self, h: Tensor) -> Tensor:
        q, k, v = (torch.cat(f(h).split(self.dim // self.heads, 2), 0) for f in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(6), 2)
        return torch.cat((q + weights @ v).split(h.size(0), 0), 2)


_FREE = {
    Repeated: {"first.out_features"},
    Tiled: {"first.out_features"},
    Gathered: {"first.out_features"},
    Expanded: {"first.out_features"},
    ExpandedAs: {"first.out_features"},
    Checked: {"first.out_features"},
    ByName: {"first.out_features", "inner.out_features", "conv.out_channels", "heads", "of_head"},
    PicturesAmongWords: {"first.out_features"},
    ViewedAs: {"first.out_features"},
    ReshapedAs: {"first.out_features"},
    Scaled: {"first.out_features[0]", "first.out_features[1]"},
    HeadByHead: {"first.out_features", "of_head"},
    HeadsInTheBatch: {"first.out_features", "q.out_features[0]"},
}


@pytest.mark.parametrize("kind", _FREE)
def test_its_widths_are_free_and_what_is_narrowed_is_right(kind: type[_Net]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    graph = sc.trace(model, X)
    assert {width.name for width in graph.free} == _FREE[kind]
    drawn = random.Random(0)
    plan = graph.plan({w.name: sorted(drawn.sample(range(w.size), w.size // 2)) for w in graph.free})
    small = sc.apply(model, plan)  # which verifies
    assert small(torch.randn(3, 7, 8)).shape[-1] == 4
    assert sum(map(torch.numel, small.parameters())) < sum(map(torch.numel, model.parameters()))


def test_a_constant_that_a_width_makes_is_heard_all_the_same() -> None:
    class Ramp(_Net):
        def body(self, h: Tensor) -> Tensor:
            return h * torch.linspace(0.0, 1.0, self.dim)

    width = next(w for w in sc.trace(Ramp(), X).widths if w.name == "first.out_features")
    assert width.frozen or not width.exact


def test_a_bare_squeeze_keeps_two_units_of_what_it_may_take_away() -> None:
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.first(x).relu()).amax((2, 3), keepdim=True).squeeze())

    width = next(w for w in sc.trace(Squeezed(), torch.randn(2, 1, 8, 8)).widths if w.name == "second.out_channels")
    assert width.choices == (2, 3, 4)
