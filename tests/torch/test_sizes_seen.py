"""Whatever code does with a size or with values is followed, or keeps the width whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.torch.tracing.written import may_count

X = torch.rand(2, 6)


class Net(nn.Module):
    """A free width of 24 that the code under test sees between two layers."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 24), nn.Linear(24, 3)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.between(torch.relu(self.a(x))))


def width(between: Any) -> sc.Width:
    return sc.trace(Net(between), X)["a.out_features"]


@pytest.mark.parametrize(
    ("between", "fewest"),
    [
        (lambda h: h if h.shape[-1] > 9 else -h, 10),
        (lambda h: -h if h.shape[-1] == 1 else h, 2),
        (lambda h: h if h.shape[-1] >= 16 else -h, 16),
        (lambda h: h if h.shape[-1] > 0 else -h, 1),
    ],
)
def test_a_branch_by_size_limits_the_choices(between: Any, fewest: int) -> None:
    assert width(between).choices[0] == fewest


def test_a_branch_by_divisibility_holds_the_width_to_multiples() -> None:
    assert width(lambda h: h if h.shape[-1] % 4 == 0 else -h).choices == (4, 8, 12, 16, 20, 24)


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h * {24: 0.5}.get(h.shape[-1], 2.0),
        lambda h: h * float(min(h.shape[-1], 16) == 16 and h.shape[-1] == 24),
        lambda h: h * (2 if h.shape[-1] in (8, 24) else 1),
        lambda h: h * {8: 0.5}.get(h.shape[-1], 2.0),
        lambda h: h * (0.5 if h.shape[-1] in {8, 16} else 2.0),
        lambda h: h * int(f"{h.shape[-1]}"),
        lambda h: h * (h.shape[-1] & 7),
        lambda h: h * h.shape[-1].bit_length(),
        lambda h: h * float(h.detach().numpy().argmax() >= 0),
        lambda h: h * float(np.asarray(h.detach()).argmax() >= 0),
        lambda h: h * float(sum(h.detach().flatten().tolist()) > -1),
        lambda h: h * float(len(bytes(h.untyped_storage())) > 0),
        lambda h: h / math.log(h.shape[-1]),
        lambda h: h * math.isqrt(h.shape[-1]),
        lambda h: h * math.gcd(h.shape[-1], 12),
        lambda h: h * int(h.shape[-1]),
        lambda h: h * len(h[0]),
        lambda h: h / h[0].numel(),
        lambda h: h / h.shape.numel(),
        lambda h: h * (hash(h.shape[-1]) % 7),
        lambda h: h * torch.tensor([1.0 * int(h.shape[-1])]),
        lambda h: h * torch.from_numpy(np.array([int(h.shape[-1])], dtype=np.float32)),
        lambda h: sum((h * 0.1 for _ in range(h.shape[-1])), h),
        lambda h: h if int(h.shape[-1]) > 6 else -h,
    ],
)
def test_what_cannot_be_followed_keeps_the_width_whole(between: Any) -> None:
    assert width(between).frozen is not None


class Eleven(nn.Module):
    """Small widths beside each other, so that the counts tried first are few."""

    def __init__(self, scale: Callable[[int], float]) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 11), nn.Linear(11, 3)
        self.beside = nn.Sequential(*(nn.Linear(6, 11) for _ in range(9)))
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.up(x))
        around = sum(torch.relu(layer(x)).sum(-1, keepdim=True) for layer in self.beside)
        return self.down(h * self.scale(h.shape[-1])) + around


class Scaled:
    """An object, no module, that looks at a number."""

    def __call__(self, count: int) -> float:
        return 1.0 + math.log2(count) // 1


@pytest.mark.parametrize(
    "scale",
    [
        lambda c: 1 + math.floor(math.log2(c)),
        lambda c: 2.0 if math.log2(c) > 1 else 1.0,
        lambda c: 1.0 if int(c) > 3 else -1.0,
        lambda c: float(-(-int(c) // 8) * 8),
        lambda c: {2: 1.0, 3: 2.0}.get(int(c), 0.5),
        lambda c: [0.5, *range(30)][c],
        lambda c: float(math.isqrt(int(c)) > 1),
        Scaled(),
    ],
)
def test_a_number_that_is_one_for_many_sizes_keeps_the_width_whole(scale: Any) -> None:
    graph = sc.trace(Eleven(scale), X)
    assert graph["up.out_features"].frozen is not None
    assert len([w for w in graph.free if w.size == 11]) == 9


@pytest.mark.parametrize("follow", [round, abs, math.floor, math.ceil, math.trunc, lambda c: +c])
def test_a_size_that_is_rounded_is_still_a_size(follow: Callable[[int], int]) -> None:
    assert width(lambda h: h.reshape(-1, follow(h.shape[-1]))).frozen is None
    assert not width(lambda h: h * follow(h.shape[-1])).exact


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h * (h.max(-1, keepdim=True)[1] > 3),
        lambda h: h * h.min(-1, keepdim=True).indices,
        lambda h: h + h.cummax(-1).indices,
        lambda h: h * (h.median(-1, keepdim=True)[1] + 1),
    ],
)
def test_positions_that_are_read_keep_the_width_whole(between: Any) -> None:
    assert "position" in str(width(between).frozen)


def test_positions_that_nobody_reads_cost_nothing() -> None:
    assert width(lambda h: h / h.max(-1, keepdim=True)[0]).frozen is None


@pytest.mark.parametrize("function", [np.sqrt, np.log, lambda c: np.power(c, 2)])
def test_a_size_that_numpy_takes_for_a_number_is_inexact(function: Any) -> None:
    assert not width(lambda h: h / float(function(h.shape[-1]))).exact


def test_cuts_of_a_tensor_split_are_places_and_no_sizes() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k, self.a, self.b = 4, nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.a(x).tensor_split([self.k], -1)
            return self.b(torch.cat([right, left], -1))

    assert 8 in [w.size for w in sc.trace(Split(), X).free]


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h.view(-1, int(h.shape[-1])),
        lambda h: h + torch.zeros(int(h.shape[-1])),
        lambda h: h * math.log(len(h) + 7) + math.prod(range(1, 4)),
        lambda h: h.reshape(len(h), int(h.shape[1])) * 0.5,
    ],
)
def test_a_number_that_follows_the_size_keeps_it_free(between: Any) -> None:
    assert width(between).frozen is None


def test_numbers_from_a_generator_of_the_codes_own_keep_the_width_whole() -> None:
    def noisy(h: torch.Tensor) -> torch.Tensor:
        return h + torch.randn(h.shape[-1], generator=torch.Generator().manual_seed(1))

    assert "numbers that a seed fixes" in str(width(noisy).frozen)
    assert width(lambda h: h + torch.randn(h.shape[-1])).frozen is None


def test_of_several_widths_the_one_that_is_read_is_found() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(6, 24), nn.Linear(24, 20), nn.Linear(20, 16), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.b(torch.relu(self.a(x)))
            return self.d(torch.relu(self.c(h / math.log(h.shape[-1]))))

    assert {w.name for w in sc.trace(Deep(), X).free} == {"a.out_features", "c.out_features"}


def test_the_place_in_the_code_is_named() -> None:
    assert f"{__name__.rpartition('.')[2]}.py:" in str(width(lambda h: h / math.log2(h.shape[-1])).frozen)


class SaysItsSize(nn.Module):
    """Uses what its layers say of themselves: in a view, as a number, to make a state."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.q, self.cell, self.out = (
            nn.Embedding(9, 8),
            nn.Linear(8, 10),
            nn.LSTMCell(10, 7),
            nn.Linear(7, 3),
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.table(ids) * self.table.embedding_dim**0.5
        h = self.q(h).view(-1, self.q.out_features)
        state = torch.zeros(len(h), self.cell.hidden_size), torch.zeros(len(h), self.cell.hidden_size)
        return self.out(self.cell(h, state)[0])


def test_what_a_layer_says_of_itself_follows_its_tensors() -> None:
    ids = torch.arange(6).view(2, 3)
    graph = sc.trace(SaysItsSize(), ids)
    assert {w.size for w in graph.free} == {8, 10, 7}
    assert not graph["table.embedding_dim"].exact
    small = sc.apply(SaysItsSize(), graph.plan({w.name: range(w.size - 3) for w in graph.free}))
    assert (small.table.embedding_dim, small.q.out_features, small.cell.hidden_size) == (5, 7, 4)
    assert small(ids).shape == (6, 3)


def test_code_may_make_another_number_of_a_sizes_type() -> None:
    assert width(lambda h: h * float(type(h.shape[-1])(2))).frozen is None


def test_a_slice_that_starts_at_a_number_keeps_what_is_before_it() -> None:
    graph = sc.trace(Net(lambda h: h + h.narrow(1, 3, 1)), X)
    before, after = graph["a.out_features[0]"], graph["a.out_features[1]"]
    assert (before.size, after.size) == (3, 20)
    assert "written into the code" in str(before.frozen)
    assert after.frozen is None


class Config:
    """An object whose methods nobody calls while the network runs."""

    def validate(self) -> int:
        return int(self.__class__.__name__ == "Config")


class Held(nn.Linear):
    def __init__(self) -> None:
        super().__init__(6, 6)
        self.config = Config()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(torch.int).float() if isinstance(x, int) else x)


@pytest.mark.parametrize(
    ("part", "counts"),
    [(Held, False), (lambda: Eleven(lambda c: float(int(c))), True), (lambda: Eleven(Scaled()), True)],
)
def test_only_code_that_may_run_counts(part: Callable[[], nn.Module], counts: bool) -> None:
    assert may_count(part()) is counts


class _Pixels(nn.Module):
    """Attention between pixels: its scale follows the head width, and einsum goes another way where there is one head."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv, self.to_out = nn.Conv2d(7, 12, 1, bias=False), nn.Conv2d(4, 7, 1)
        self.up, self.down = nn.Conv2d(7, 24, 1), nn.Conv2d(24, 7, 1)
        self.wide, self.last = nn.Conv2d(7, 12, 1), nn.Conv2d(12, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, h, w = x.shape
        q, k, v = (t.reshape(b, 2, -1, h * w) for t in self.to_qkv(x).chunk(3, dim=1))
        sim = torch.einsum("bndi,bndj->bnij", q * q.shape[2] ** -0.5, k)
        out = torch.einsum("bnij,bndj->bndi", sim.softmax(-1), v)
        y = self.up(x + self.to_out(out.reshape(b, -1, h, w)))
        y = self.wide(self.down(y * (2.0 / (y.shape[1] + 1))))
        return self.last(y / math.log(y.shape[1]))


def test_a_number_behind_a_size_of_one_that_runs_otherwise_is_heard() -> None:
    graph = sc.trace(_Pixels().eval(), torch.randn(1, 7, 3, 5))
    frozen = {width.name: width.frozen or "" for width in graph.widths}
    lines = {name: frozen[f"{name}.out_channels"] for name in ("up", "wide")}
    assert "where it cannot be followed (mul at" in lines["up"]
    assert "where it cannot be followed (div at" in lines["wide"]
