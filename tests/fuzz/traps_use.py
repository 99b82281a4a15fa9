"""Tiny networks, one for each way in which *using* a pruned model goes wrong: inputs, formats, gradients, scores.

tied_scores     every unit is as important as the others        nan_scores    0 / 0 when scores are normalised
width_two       half of it, twice, is nothing                   narrow_width  no multiple of 8 fits into it
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .traps import IMAGE, chain, floats, trap


class _Small(nn.Module):
    """conv 8, batch norm, conv: what most traps here stand on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.bn(self.conv1(x))))


@trap(IMAGE)
class EvalMode(_Small):
    """Behaves otherwise while training, and must come back in the mode it was given in."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn(self.conv1(x)))
        if self.training:
            h = F.dropout2d(h, 0.3)
        return self.conv2(h)


@trap(IMAGE)
class Dropout(_Small):
    """Dropout in a residual branch, as a module and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.dropout(self.drop(F.relu(self.bn(self.conv1(x)))), 0.1, self.training))


@trap(IMAGE)
class StochasticDepth(nn.Module):
    """A branch that training drops at random, and a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 6, 1), chain(6, 9, 6), nn.Conv2d(6, 4, 1)
        self.gamma = nn.Parameter(torch.empty(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branch = self.body(x) * self.gamma
        if self.training and torch.rand(()) < 0.5:
            branch = branch * 0
        return self.head(x + branch)


@trap(lambda: torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last))
class ChannelsLast(_Small):
    """Weights and activations in channels-last memory, flattened in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4 * 64, 5)

    def settle(self) -> None:
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(super().forward(x).permute(0, 2, 3, 1).flatten(1))


@trap(lambda: torch.randn(2, 3, 8, 8, dtype=torch.bfloat16))
class BF16(_Small):
    """All in bfloat16: scores and statistics must not be computed in it."""

    def settle(self) -> None:
        self.bfloat16()


@trap(IMAGE)
class DeviceTensor(_Small):
    """Forward makes tensors on the input's device, with the channel count as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 8

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.arange(self.channels, device=x.device, dtype=x.dtype).view(1, -1, 1, 1)
        return self.conv2(F.relu(self.bn(self.conv1(x))) + 0.1 * ramp)


@trap(IMAGE, floats(2, 5))
class MultiInput(_Small):
    """A second input modulates the channels (FiLM)."""

    def __init__(self) -> None:
        super().__init__()
        self.film = nn.Linear(5, 16)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        scale, shift = self.film(y)[:, :, None, None].chunk(2, dim=1)
        return self.conv2(F.relu(self.conv1(x) * (1 + scale) + shift))


@trap(lambda: {"image": torch.randn(2, 3, 8, 8), "vector": torch.randn(2, 5)})
class DictInput(_Small):
    """Inputs in a dict, outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 8)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        h = self.bn(self.conv1(batch["image"])) + self.fc(batch["vector"]).view(-1, 8, 1, 1)
        return {"map": self.conv2(h), "pooled": h.mean((1, 2, 3))}


@trap(IMAGE)
class FrozenParams(_Small):
    """The stem takes no gradient, and must take none afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1.requires_grad_(False)
        self.bn.requires_grad_(False)


@trap(IMAGE)
class OptimizerState(_Small):
    """Has a parameter that is not pruned, one that is unused, and one shared, for an optimiser to keep apart."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.empty(1))
        self.unused = nn.Parameter(torch.empty(8))
        self.conv3 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv3.weight = self.conv1.weight

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.temperature + self.conv2(self.conv3(x))


@trap(IMAGE)
class WidthTwo(nn.Module):
    """Widths of two and one: high ratios must leave at least one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.net = chain(3, 2, 1, 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@trap(IMAGE)
class NarrowWidth(nn.Module):
    """Widths of 5, 3 and 12, none of which is a multiple of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.net = chain(3, 5, 3, 12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@trap(IMAGE)
class TiedScores(_Small):
    """All units equal: the choice must be the same on each run and each rank, and as many as were asked for."""

    def settle(self) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.25)
            self.bn.running_mean.fill_(0.1)  # type: ignore[union-attr]
            self.bn.running_var.fill_(1.0)  # type: ignore[union-attr]


@trap(IMAGE)
class NanScores(_Small):
    """A layer of zeros, so that scores divided by their mean are 0 / 0; the outputs are finite."""

    def settle(self) -> None:
        with torch.no_grad():
            for parameter in (self.conv1.weight, self.bn.weight, self.conv2.weight):
                parameter.zero_()


@trap(IMAGE)
class DeadBranch(_Small):
    """A branch that is computed and not used, and a module that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.aux, self.never = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn(self.conv1(x)))
        self.aux(h)
        return self.conv2(h)
