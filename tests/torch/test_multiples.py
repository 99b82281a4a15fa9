"""What runs at multiples of a number only is held to them, not frozen; and einops, whose cache forgets where a size came from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.sized import Sized
from secateur.testing import random_plan
from secateur.torch.running.holding import everything_in

X = torch.randn(2, 6)


class Net(nn.Module):
    """A width of 32 that the code under test sees between two layers."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(torch.relu(self.a(x))))


@torch.library.custom_op("secateur_test::in_fours", mutates_args=())
def in_fours(x: Tensor) -> Tensor:
    return x * 2


@in_fours.register_fake
def _(x: Tensor) -> Tensor:
    if x.shape[-1] % 4:
        raise RuntimeError("the last dimension must be divisible by 4")
    return torch.empty_like(x)


def checked(h: Tensor) -> Tensor:
    if int(h.shape[-1]) % 8:
        raise ValueError("a multiple of 8 is wanted")
    return h


def sevenths(h: Tensor) -> Tensor:
    if int(h.shape[-1]) not in (32, 7, 14):
        raise ValueError("another number is wanted")
    return h


def test_a_kernel_that_takes_only_multiples_holds_the_width_to_them() -> None:
    @sc.rules.rule(torch.ops.secateur_test.in_fours)
    def rule(trace: Any, out: Tensor, x: Tensor) -> None:
        trace.put(out, trace.spaces(x), trace.zero(x))

    model = Net(in_fours)
    graph = sc.trace(model, X)
    assert graph["a.out_features"].choices == tuple(range(4, 33, 4))
    assert sc.verify(model, random_plan(graph, 2), graph).passed


def test_a_check_in_the_code_does_so_as_well() -> None:
    assert sc.trace(Net(checked), X)["a.out_features"].choices == (8, 16, 24, 32)


def test_what_runs_at_no_multiple_stays_whole_and_says_why() -> None:
    assert "another number is wanted" in str(sc.trace(Net(sevenths), X)["a.out_features"].frozen)


@pytest.fixture
def einops() -> Any:
    return pytest.importorskip("einops")


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used before"])
def test_heads_made_by_einops_are_free(einops: Any, used: bool) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.qkv, self.out = 4, nn.Linear(6, 96), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            parts = self.qkv(x).chunk(3, -1)
            q, k, v = (einops.rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in parts)
            return self.out(einops.rearrange((q @ k.mT).softmax(-1) @ v, "b h n d -> b n (h d)"))

    model, x = Attention().eval(), torch.randn(2, 5, 6)
    if used:
        model(x)  # from now on einops knows these shapes by heart
    graph = sc.trace(model, x)
    assert sorted(w.size for w in graph.free) == [4, 8]
    small = sc.apply(model, random_plan(graph, 1))
    assert small(x).shape == model(x).shape == (2, 5, 3)


def test_lengths_that_layers_of_einops_were_given_follow(einops: Any, tmp_path: Path) -> None:
    layer = pytest.importorskip("einops.layers.torch").Rearrange

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(6, 24) for _ in range(3))
            self.out, self.by_heads = nn.Linear(24, 5), layer("b n (h d) -> b h n d", h=4)
            self.by_width, self.back = layer("b n (h d) -> b h n d", d=6), layer("b h n d -> b n (h d)")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.by_heads(self.q(x)), self.by_width(self.k(x)), self.by_heads(self.v(x))
            return self.out(self.back((q @ k.mT).softmax(-1) @ v))

    model, x = Attention().eval(), torch.randn(2, 3, 6)
    graph = sc.trace(model, x)
    assert sorted(width.size for width in graph.free) == [4, 6, 6]
    small = sc.apply(model, graph.plan({w.name: range(2) if w.size == 4 else range(3) for w in graph.free}))
    assert small.by_heads.axes_lengths == {"h": 2}
    assert small.by_width.axes_lengths == {"d": 3}
    assert torch.equal(copy.deepcopy(small)(x), small(x))  # einops copies what it was given
    sc.save(small, tmp_path / "small")
    assert torch.equal(sc.restore(Attention().eval(), tmp_path / "small")(x), small(x))


def test_a_trace_leaves_no_size_with_an_origin_in_the_cache_of_einops(einops: Any) -> None:
    cache = einops.einops._reconstruct_from_shape
    cache.cache_clear()
    sc.trace(Net(lambda h: einops.rearrange(h, "b (g c) -> b g c", g=2).flatten(1)), X)
    assert not any(isinstance(held, Sized) for held in everything_in([cache]))
    assert einops.rearrange(torch.ones(2, 32), "b (g c) -> b g c", g=2).shape == (2, 2, 16)


class RotaryBesidePlain(nn.Module):
    """DeepSeek's latent attention: a part of each head is rotated as complex numbers, which must lie at even places."""

    def __init__(self, heads: int = 4, plain: int = 8) -> None:
        super().__init__()
        self.heads, self.plain = heads, plain
        self.q, self.out = nn.Linear(6, heads * (plain + 4)), nn.Linear(heads * (plain + 4), 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(*x.shape[:2], self.heads, self.plain + 4).transpose(1, 2)
        plain, rotary = q.split([self.plain, 4], dim=-1)
        parts = torch.view_as_complex(rotary.reshape(*rotary.shape[:-1], -1, 2))
        turned = torch.view_as_real(parts * torch.polar(torch.ones(2), torch.arange(2.0))).flatten(3)
        return self.out(torch.cat([plain, turned], -1).transpose(1, 2).flatten(2))


def test_what_complex_parts_lie_beside_is_held_to_even_numbers() -> None:
    model, x = RotaryBesidePlain().eval(), torch.randn(2, 5, 6)
    graph = sc.trace(model, x)
    plain = next(width for width in graph.free if width.size == 8)
    assert plain.choices == (2, 4, 6, 8)
    assert next(width for width in graph.free if width.size == 4).kind == "heads"
    sc.apply(model, graph.plan({plain.name: (0, 3, 4, 5, 6, 7)}))


@pytest.mark.parametrize(("hidden", "projected"), [(3, 1), (8, 5)])
def test_an_lstm_keeps_more_units_than_it_projects_to(hidden: int, projected: int) -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, hidden, proj_size=projected, batch_first=True)
            self.head = nn.Linear(projected, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0])

    model = Projected().eval()
    graph = sc.trace(model, torch.randn(2, 4, 6))
    assert graph["lstm.hidden_size"].choices[-1] == hidden > len(graph["lstm.hidden_size"].choices)
    for seed in range(6):
        small = sc.apply(model, random_plan(graph, seed))
        assert small.lstm.hidden_size > small.lstm.proj_size
        nn.LSTM(6, small.lstm.hidden_size, proj_size=small.lstm.proj_size)


def test_groups_of_a_vector_keep_two_numbers_each() -> None:
    model = Net(nn.GroupNorm(4, 32)).eval()
    graph = sc.trace(model, X[:1])
    assert min(graph["a.out_features[1]"].choices) == 2
    small = sc.apply(model, graph.plan({"a.out_features[1]": [1, 6]}), verify=False)
    assert small(X[:1]).isfinite().all()
