"""Models that keep something when they first run: what a run on data leaves is gone before anything is narrowed."""

import functools
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.out = nn.Linear(4, 12), nn.Linear(12, 2)
        self.table: dict[str, torch.Tensor] = {}
        self.kind = "whole"


class Cached(Net):
    @functools.cached_property
    def width(self) -> int:
        return self.fc.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.fc(x).view(-1, self.width).relu())


class Lazy(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.fc(x)
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.ones_like(hidden[0]), persistent=False)
        return self.out(hidden.relu() * self.mask)


class Table(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.fc(x)
        if "ones" not in self.table:
            self.table["ones"] = torch.ones(hidden.shape[-1])
        return self.out(hidden.relu() * self.table["ones"])


class Switching(Net):
    """As BigBird, which puts another attention in where the input is short."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "whole":
            self.kind, self.act = "short", nn.ReLU()
        return self.out(self.act(self.fc(x)))


X, LABELS = torch.randn(8, 4), torch.arange(8) % 2


@pytest.mark.parametrize("kind", [Cached, Lazy, Table, Switching])
@pytest.mark.parametrize(
    ("mode", "options"),
    [("progressive", {}), ("minitron", {}), ("gradnas", {}), ("magnitude", {"compensate": "least_squares"})],
)
def test_what_data_runs_leave_is_not_narrowed(kind: type[nn.Module], mode: str, options: dict[str, Any]) -> None:
    model = kind().eval()
    held = set(vars(model))
    small, _ = sc.prune(model, mode, {"params": "60%"}, X, {"data_loader": [(X, LABELS)], **options})
    new = {name for name in set(vars(small)) - held if not name.startswith("_secateur")}
    assert not new
    assert small(X).shape == (8, 2)
    assert small.fc.out_features < 12


def test_measuring_leaves_nothing() -> None:
    model = Table().eval()
    sc.measure(model, [(X, LABELS)], metrics=["accuracy"])
    assert not model.table
