"""Methods that no run came to and that build a layer anew: what they build it from follows the layer that is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Classifier(nn.Module):
    """``num_features`` is what ``reset`` builds a new head from; ``depth`` happens to be as large."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features, self.depth = 24, 24
        self.body, self.head = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(x)))

    def reset(self, classes: int) -> None:
        self.head = nn.Linear(self.num_features, classes)


class Perhaps(Classifier):
    def reset(self, classes: int) -> None:
        self.num_classes = classes
        self.head = nn.Linear(out_features=classes, in_features=self.num_features) if classes > 0 else nn.Identity()  # type: ignore[assignment]


class Within(Classifier):
    """The layer is inside of another module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Sequential()
        self.top.fc = self.head
        del self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.top(F.relu(self.body(x)))

    def reset(self, classes: int) -> None:
        self.top.fc = nn.Linear(self.num_features, classes)


@pytest.mark.parametrize("kind", [Classifier, Perhaps, Within])
def test_what_a_layer_is_built_from_follows_the_one_that_is_there(kind: type[Classifier], tmp_path: Path) -> None:
    model = kind().eval()
    graph = sc.trace(model, X)
    small = sc.apply(model, graph.plan({"body.out_features": range(10)}))
    sc.save(small, tmp_path / "small")
    for each in (small, sc.restore(kind(), tmp_path / "small")):
        assert isinstance(each, Classifier)
        assert (each.num_features, each.depth) == (10, 24)
        each.reset(5)
        assert each(X).shape == (4, 5)


class Disagrees(Classifier):
    """Built from the same integer are two layers, each with a width of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.last = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.last(F.relu(self.other(x)))

    def reset(self, classes: int) -> None:
        super().reset(classes)
        self.last = nn.Linear(self.num_features, classes)


class OfAnotherSize(Classifier):
    def reset(self, classes: int) -> None:
        self.head = nn.Linear(self.depth // 2, classes)


@pytest.mark.parametrize("kind", [Disagrees, OfAnotherSize])
def test_where_it_cannot_be_told_nothing_is_said_and_nothing_less_free(kind: type[Classifier]) -> None:
    model = kind().eval()
    graph = sc.trace(model, X)
    assert {"body.out_features"} <= {width.name for width in graph.free}
    small = sc.apply(model, graph.plan({"body.out_features": range(10)}))
    assert isinstance(small, Classifier)
    assert (small.num_features, small.depth) == (24, 24)


class SamplesToo(Classifier):
    """Another method makes tensors of that size: for which layer is not known."""

    def sample(self) -> Tensor:
        return self.head(torch.randn(2, self.num_features))


def test_a_size_that_another_method_uses_otherwise_still_keeps_its_width_whole() -> None:
    assert "sample()" in str(sc.trace(SamplesToo(), X)["body.out_features"].frozen)
