"""What ``progressive`` costs: how often the text goes through the network, counted where it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc

SAMPLES, ROUNDS = 64, 6  # as many rounds as the mode has by itself
TEXT = torch.randint(0, 30, (SAMPLES, 6), generator=torch.Generator().manual_seed(0))
BATCHES = [{"ids": ids} for ids in TEXT.split(8)]
SEEN = {"forward": 0, "backward": 0}


class Counted(nn.Module):
    """Counts the samples that come by with numbers, and those whose gradient does. The counter is the class's, not the copy's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_meta or len(x) < 3:  # traced, or an example
            return x
        SEEN["forward"] += len(x)
        if x.requires_grad:
            x.register_hook(lambda grad: SEEN.__setitem__("backward", SEEN["backward"] + len(grad)))
        return x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.counted = nn.Embedding(30, 24), Counted()
        self.layers = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(24, 30)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.counted(x))


@pytest.mark.parametrize("depth", [False, True])
def test_a_round_costs_less_than_eight_passes_over_the_text(depth: bool) -> None:
    torch.manual_seed(0)
    SEEN.update(forward=0, backward=0)
    config: dict[str, Any] = {"data_loader": BATCHES, "depth": depth, "verify": False}
    sc.prune(Reader().eval(), "progressive", {"params": "60%"}, {"ids": TEXT[:2]}, config)
    assert SEEN["backward"] >= ROUNDS * SAMPLES  # it was counted at all
    # a fit goes through the network once, and runs what flows into a sum again; a pass is one forwards and one backwards
    assert SEEN["forward"] <= 8 * ROUNDS * SAMPLES
    assert SEEN["backward"] <= 8 * ROUNDS * SAMPLES
