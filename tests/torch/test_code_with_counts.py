"""Code that counts: parts, groups and views whose numbers no tensor shows. What is free has to run at any count."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.fuzz.making import randomise
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.testing import random_plan
from secateur.torch.apply import verification_of

torch.set_num_threads(1)

IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """A convolution, some code, and a convolution."""

    def __init__(self, code: Callable[[nn.Module, Tensor], Tensor], *, given: int = 12, out: int = 12) -> None:
        super().__init__()
        self.code, self.groups = code, 3
        self.first, self.last = nn.Conv2d(3, given, 1), nn.Conv2d(out, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.code(self, self.first(x)))


def network(code: Callable[[nn.Module, Tensor], Tensor], **sizes: int) -> nn.Module:
    torch.manual_seed(0)
    model = Between(code, **sizes)
    randomise(model, {})
    return model.eval()


def reversed_parts(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(list(parts)[::-1], 1)


CODE: dict[str, tuple[nn.Module, int]] = {
    "chunk": (network(lambda m, x: reversed_parts(x.chunk(2, 1))), 1),
    "unequal chunks": (network(lambda m, x: reversed_parts(x.chunk(5, 1)), given=13, out=13), 0),
    "tensor_split": (network(lambda m, x: reversed_parts(x.tensor_split(3, 1))), 1),
    "unequal tensor_split": (network(lambda m, x: reversed_parts(x.tensor_split(2, 1)), given=13, out=13), 0),
    "hsplit": (network(lambda m, x: reversed_parts(torch.hsplit(x, 3))), 1),
    "split by number": (network(lambda m, x: reversed_parts(x.split(4, 1))), 0),
    "split by attributes": (network(lambda m, x: reversed_parts(x.split([m.groups, x.shape[1] - m.groups], 1))), 0),
    "channel shuffle": (network(lambda m, x: F.channel_shuffle(x, 3)), 1),
    "shuffle through the input's shape": (
        network(lambda m, x: x.view(x.shape[0], m.groups, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)),
        1,
    ),
    "shuffle that puts pixels among the channels on images of 12": (
        network(lambda m, x: x.view(x.shape[0], m.groups, -1, 6, 6).transpose(1, 2).reshape(x.shape)),
        0,
    ),
    "a maximum of pairs": (network(lambda m, x: x.unflatten(1, (-1, 2)).amax(2), out=6), 1),
    "a shift by one channel": (network(lambda m, x: torch.cat([x[:, 1:], x[:, :1]], 1)), 0),
    "differences of neighbours": (network(lambda m, x: x[:, 1:] - x[:, :-1], out=11), 0),
    "reversed by an index": (network(lambda m, x: x[:, torch.arange(11, -1, -1)]), 0),
    "some channels by an index": (network(lambda m, x: x[:, [0, 3, 5]], out=3), 0),
    "every second channel": (network(lambda m, x: x[:, ::2] + x[:, 1::2], out=6), 1),
    "padded with channels": (network(lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 3)), out=17), 1),
    "cropped channels": (network(lambda m, x: F.pad(x, (0, 0, 0, 0, -1, -2)), out=9), 0),
    "repeated channels": (network(lambda m, x: x.repeat_interleave(2, 1), out=24), 0),
    "windows over channels": (network(lambda m, x: F.local_response_norm(x, 3)), 0),
    "patches as channels": (network(lambda m, x: F.pixel_unshuffle(x, 2), out=48), 1),
    "normalised channels": (network(lambda m, x: F.normalize(x, dim=1)), 1),
}


@pytest.mark.parametrize("name", CODE)
def test_whatever_is_free_runs_at_any_count(name: str) -> None:
    model, least = CODE[name]
    graph = sc.trace(model, IMAGE)
    assert len(graph.free) >= least, {w.name: w.frozen for w in graph.widths}
    for seed in range(6):
        plan = random_plan(graph, seed)
        verification = verification_of(sc.apply(model, plan))
        assert verification is not None
        assert verification.passed


class QueryNorm(nn.Module):
    """Queries normalised inside each head: no statistic runs over the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.q, self.out, self.scale = nn.Linear(6, 16), nn.Linear(16, 3), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(x.shape[0], -1, self.num_heads, 4)
        q = q * torch.rsqrt(q.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        return self.out(q.flatten(2))


def test_heads_that_are_normalised_one_by_one_are_exact() -> None:
    model = QueryNorm().eval()
    graph = sc.trace(model, torch.randn(2, 3, 6))
    heads = next(w for w in graph.free if w.size == 4 and "heads" in w.name)
    assert heads.exact, heads.inexact_reason
    assert sc.apply(model, graph.plan({heads.name: [0, 3]})).num_heads == 2


@pytest.mark.parametrize("code", [lambda m, x: (x.exp() + 1).sqrt(), lambda m, x: (x.abs() + 1).log()])
def test_a_function_that_wants_positive_numbers_is_exact_where_they_are(code: Callable) -> None:
    graph = sc.trace(network(code), IMAGE)
    assert [w.exact for w in graph.free] == [True]


def test_a_function_that_is_not_defined_at_zero_is_inexact() -> None:
    graph = sc.trace(network(lambda m, x: (x * m.first.bias[:, None, None].abs()).abs().log()), IMAGE)
    assert not any(w.exact for w in graph.free)
