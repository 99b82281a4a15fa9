"""What a call leaves meets its reader calls later, or in the other mode: then, too, both have one width."""

from collections import deque

import pytest
import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.beside, self.last = nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(12, 3)
        self.setup()

    def setup(self) -> None:
        raise NotImplementedError


class LeftInTraining(_Net):
    """A context that training learns, and evaluation uses."""

    def setup(self) -> None:
        self.context: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        h, g = self.first(x), self.beside(x)
        if self.training:
            self.context = g.detach().mean(0)
            return self.last(h) + g.sum(1, keepdim=True)
        return self.last(h + self.context) + g.sum(1, keepdim=True)


class Delayed(_Net):
    """What was there three calls ago."""

    def setup(self) -> None:
        self.line: deque[Tensor | float] = deque([0.0, 0.0, 0.0])

    def forward(self, x: Tensor) -> Tensor:
        h, g = self.first(x), self.beside(x)
        old = self.line.popleft()
        self.line.append(g.detach().mean(0))
        return self.last(h + old) + g.sum(1, keepdim=True)


class Remembered(_Net):
    """The same in a dict."""

    def setup(self) -> None:
        self.seen: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        h, g = self.first(x), self.beside(x)
        number = len(self.seen)
        old = self.seen.get(number - 3, 0.0)
        self.seen[number] = g.detach().mean(0)
        return self.last(h + old) + g.sum(1, keepdim=True)


@pytest.mark.parametrize("kind", [LeftInTraining, Delayed, Remembered])
def test_what_a_later_call_adds_is_of_the_same_width(kind: type[_Net]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    graph = sc.trace(model, X)
    owners = [{use.tensor for use in width.uses} for width in graph.free]
    assert all(("first.weight" in names) == ("beside.weight" in names) for names in owners)
    if not graph.free:
        return
    small = sc.apply(model, graph.plan({width.name: range(0, 12, 2) for width in graph.free}))
    for training in (True, False, False, False, False):
        assert small.train(training)(X).shape == (3, 3)
