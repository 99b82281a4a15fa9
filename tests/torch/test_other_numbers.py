"""Numbers that a model was not traced in: what the proof says of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc


class _ATableInOtherNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x).relu()
        return self.b(h if x.dtype == torch.float32 else h * torch.linspace(0.5, 1, 24).to(x))


def test_what_does_not_run_in_double_precision_is_said() -> None:
    model, result = sc.prune(_ATableInOtherNumbers(), "magnitude", {"params": "60%"}, torch.randn(2, 6))
    assert result.verification is not None
    assert any("in float64: the narrowed network does not run" in note for note in result.verification.notes)
    with pytest.raises(RuntimeError):
        model.double()(torch.randn(2, 6).double())
