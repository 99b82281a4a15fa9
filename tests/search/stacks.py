"""A stack of residual blocks, as small as it can be."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """x + down(relu(up(norm(x))))."""

    def __init__(self, stream: int, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(stream), nn.Linear(stream, width), nn.Linear(width, stream)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Stack(nn.Module):
    """A stem, blocks of these widths, a head."""

    def __init__(self, widths: Sequence[int] = (8, 8, 8), stream: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(4, stream)
        self.blocks = nn.ModuleList(Block(stream, width) for width in widths)
        self.head = nn.Linear(stream, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def example(size: int = 4) -> Tensor:
    """Two samples of five positions."""
    return torch.randn(2, 5, size, generator=torch.Generator().manual_seed(0))
