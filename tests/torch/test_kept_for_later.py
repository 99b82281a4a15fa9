"""What a trace cannot hear, for it is used later or by another way: it keeps its width whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Samples(nn.Module):
    """``latent`` is a size only in `sample`; ``layers`` is a count that happens to be as large."""

    def __init__(self) -> None:
        super().__init__()
        self.latent, self.layers = 10, 12
        self.encoder, self.decoder = nn.Linear(6, 10), nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x)))

    def sample(self, number: int) -> Tensor:
        return self.decoder(torch.randn(number, self.latent))

    def depth(self) -> int:
        return self.layers


def test_a_size_that_only_another_method_uses_keeps_its_width_whole() -> None:
    graph = sc.trace(Samples(), X)
    assert "sample()" in str(graph["encoder.out_features"].frozen)
    assert graph["decoder.0.out_features"].frozen is None


class Prepared(nn.Module):
    """``latent`` is a size in `sample`, which the network that holds it has called when it was made, and nobody will again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Samples()
        if hasattr(self.inner, "sample"):
            self.inner.sample(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_size_that_only_a_constructor_needed_is_free() -> None:
    assert sc.trace(Prepared(), X)["inner.encoder.out_features"].frozen is None


class Shares(nn.Module):
    """A second parameter, and an array, that look at the memory of the first."""

    def __init__(self, *, transposed: bool, array: bool) -> None:
        super().__init__()
        data = torch.randn(10, 6)
        self.first, self.last = nn.Parameter(data), nn.Linear(6, 3)
        self.second = nn.Parameter(data.t() if transposed else data.t().clone())
        self.window = self.first.detach().numpy() if array else None

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(x @ self.first.T) @ self.second.T)


def test_parameters_on_one_memory_stay_as_they_are() -> None:
    free = {
        (transposed, array): len(sc.trace(Shares(transposed=transposed, array=array), X).free)
        for transposed in (False, True)
        for array in (False, True)
    }
    assert free[False, False] == 2
    assert free[True, False] == free[True, True] == 0
    assert free[False, True] == 1


def test_neighbours_in_one_buffer_are_no_aliases() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.randn(120)
            self.a, self.b = nn.Parameter(whole[:60].view(10, 6)), nn.Parameter(whole[60:].view(6, 10))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x @ self.a.T) @ self.b.T

    assert len(sc.trace(Flat(), X).free) == 1
