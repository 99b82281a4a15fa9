"""Counts that are written into the code: what they count stays, the rest is narrowed."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from secateur.testing import random_plan

X = torch.randn(2, 3, 6, 6)


class Net(nn.Module):
    """A width of 16 that the code under test sees between two convolutions."""

    def __init__(self, between: Callable[[Tensor], Tensor], given: int = 16) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 16, 1), nn.Conv2d(given, 4, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.between(torch.relu(self.up(x))))


def parts(between: Callable[[Tensor], Tensor], given: int = 16) -> tuple[list[int], list[str]]:
    """The sizes of what is free between, each plan verified; and why the rest is not."""
    model = Net(between, given).eval()
    graph = sc.trace(model, X)
    for seed in range(3):
        sc.verify(model, random_plan(graph, seed), graph)
    return [w.size for w in graph.free], [w.frozen or "" for w in graph.widths if w.name.startswith("up.out")]


@pytest.mark.parametrize(
    ("between", "free"),
    [
        (lambda h: F.group_norm(h, 4), [4]),
        (lambda h: F.group_norm(h, num_groups=8), [2]),
        (lambda h: F.conv2d(h, torch.ones(16, 4, 1, 1), groups=4), []),
        (lambda h: torch.cat([h[:, :6].tanh(), h[:, 6:]], 1), [10]),
        (lambda h: torch.cat([h[:, :-6].tanh(), h[:, -6:]], 1), [10]),
        (lambda h: torch.cat([h[:, :2], h[:, 2:5].tanh(), h[..., 5:, :, :]], 1), [11]),
        (lambda h: torch.cat([h.narrow(1, 0, 6).tanh(), h[:, 6:]], 1), [10]),
        (lambda h: h.view(h.shape[0], 4, -1, 6, 6).softmax(1).flatten(1, 2), [4]),
    ],
)
def test_what_a_number_in_the_code_counts_stays_and_the_rest_is_free(
    between: Callable[[Tensor], Tensor], free: list[int]
) -> None:
    found, reasons = parts(between)
    assert found == free
    assert any("a size written into the code" in reason for reason in reasons) or not free


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h.view(len(h), h.shape[1] // 2, 2, 6, 6).softmax(2).flatten(1, 2),
        lambda h: h.view(len(h), 2, h.shape[1] // 2, 6, 6).softmax(1).flatten(1, 2),
    ],
    ids=["pairs", "halves"],
)
def test_what_a_size_is_divided_by_may_stand_on_either_side(between: Callable[[Tensor], Tensor]) -> None:
    found, reasons = parts(between)
    assert found == [8]
    assert "a number in the code" in reasons


def test_of_a_slice_that_is_written_to_the_rest_is_free() -> None:
    def between(h: Tensor) -> Tensor:
        h = h.clone()
        h[:, :4] = h[:, :4] * 2
        return h

    assert parts(between)[0] == [12]


def test_groups_of_a_weight_of_ones_own_leave_what_is_inside_them_free() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)
            self.weight = nn.Parameter(torch.randn(16, 4, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.down(F.conv2d(self.up(x), self.weight, padding=1, groups=4).relu())

    model = Grouped()
    graph = sc.trace(model, X)
    assert [w.size for w in graph.free] == [4, 4]
    assert sc.verify(model, random_plan(graph, 1), graph).passed


def test_a_part_that_is_added_to_another_of_a_literal_size_keeps_both() -> None:
    found, reasons = parts(lambda h: h[:, :8] * h[:, 8:].sigmoid(), given=8)
    assert found == []
    assert all("a size written into the code" in reason for reason in reasons)


class OtherWays(nn.Module):
    """Two heads: with one, PyTorch's einsum multiplies where it called a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.qk = nn.Conv2d(16, 8, 1)

    def forward(self, h: Tensor) -> Tensor:
        q, k = self.qk(h).flatten(2).unflatten(1, (2, 2, -1)).unbind(1)
        return h * torch.einsum("bhdn,bhdm->bhnm", q, k).softmax(-1).mean()


def test_a_number_in_the_code_is_found_behind_what_goes_another_way_when_narrowed() -> None:
    class Sliced(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            h = h.clone()
            h[:, :2].mul_(0.5)
            return h

    model = Net(nn.Sequential(OtherWays(), nn.Conv2d(16, 6, 1), Sliced()), given=6).eval()
    graph = sc.trace(model, X)
    assert not any(width.size == 2 and "between.1" in width.name for width in graph.free)
    for seed in range(5):
        sc.verify(model, random_plan(graph, seed), graph)


@pytest.mark.parametrize("share", [0.3, 0.4, 0.5, 0.7])
def test_a_share_that_the_code_rounds_is_no_size_of_a_part(share: float) -> None:
    def parted(h: Tensor) -> Tensor:
        k = round(h.shape[1] * share)
        return torch.cat([h[:, :k].tanh(), h[:, k:]], 1)

    free, reasons = parts(parted)
    assert not free
    assert all(reasons)


@pytest.mark.parametrize(
    ("whole", "share", "calculated"),
    [
        (4, 0.4, round),
        (4, 0.6, int),
        (5, 0.45, round),
        (6, 0.6, int),
        (7, 0.6, round),
        (8, 0.4, round),
        (9, 0.7, round),
    ],
)
def test_what_is_free_beside_a_share_costs_what_is_foretold_at_every_count(
    whole: int, share: float, calculated: Callable[[float], int]
) -> None:
    """Of 3 and 5, 0.4 rounded is right for 2 and 2 and for 2 and 4 of them, and wrong for 3 and 2."""

    class Parted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Conv2d(3, whole, 1), nn.Conv2d(whole, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.up(x)
            k = calculated(h.shape[1] * share)
            return self.down(torch.cat([h[:, :k].tanh(), h[:, k:]], 1))

    model, image = Parted(), torch.randn(2, 3, 5, 5)
    graph = sc.trace(model, image)
    for counts in itertools.product(*[width.choices for width in graph.free]):
        plan = graph.plan({width.name: range(count) for width, count in zip(graph.free, counts, strict=True)})
        narrowed = sc.trace(sc.apply(model, plan, verify=False), image)
        assert graph.cost("peak_activation_bytes", plan.sizes) == narrowed.cost("peak_activation_bytes")


@pytest.mark.parametrize("how", ["repeat", "tile", "interleave"])
def test_how_often_something_is_repeated_is_a_number_of_its_own(how: str) -> None:
    """Streams side by side, and key-value heads for several queries each: the rest of the tensor stays free."""

    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.each, self.down = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.up(x)
            streams = {
                "repeat": lambda: h.unsqueeze(2).repeat(1, 1, 4, 1),
                "tile": lambda: torch.tile(h.unsqueeze(2), (4, 1)),
                "interleave": lambda: h.unsqueeze(2).repeat_interleave(4, dim=2),
            }[how]()
            return self.down((streams * self.each(h).unsqueeze(-1)).sum(2))

    model = Repeated().eval()
    graph = sc.trace(model, torch.randn(2, 5, 6))
    assert [width.name for width in graph.free] == ["up.out_features"]
    sc.verify(model, random_plan(graph, 0), graph)
