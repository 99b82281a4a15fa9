"""Code that reads a size or a value in a way that operators do not show: each read must be seen, or freeze."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)
TOKENS = lambda: (floats(2, 5, 12),)


class Between(nn.Module):
    """conv 8, something, conv: ``between`` is what reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def between(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.between(F.relu(self.conv1(x))))


@wild(IMAGE)
class NumpyOfActivations(Between):
    """Sorts channels by their energy in NumPy."""

    def between(self, h: Tensor) -> Tensor:
        energy = h.detach().mean((0, 2, 3)).numpy()
        return h * torch.from_numpy(1 + np.argsort(np.argsort(energy))).to(h)[:, None, None]


@wild(IMAGE)
class NumpyOfWeights(Between):
    """Scales by a NumPy function of a weight, in the order of its units."""

    def between(self, h: Tensor) -> Tensor:
        norms = self.conv1.weight.detach().numpy().sum((1, 2, 3))
        return h * torch.from_numpy(np.cumsum(norms)).to(h)[:, None, None]


@wild(IMAGE)
class ToListOfWeights(Between):
    """A bias read number by number."""

    def between(self, h: Tensor) -> Tensor:
        assert self.conv1.bias is not None
        gains = [1 + (i + 1) * b for i, b in enumerate(self.conv1.bias.tolist())]
        return h * torch.tensor(gains).to(h)[:, None, None]


@wild(IMAGE)
class ItemsOfActivations(Between):
    """`.item()` in a loop over channels."""

    def between(self, h: Tensor) -> Tensor:
        means = h.mean((0, 2, 3))
        top = max(range(len(means)), key=lambda i: means[i].item())
        return h - h[:, top : top + 1]


@wild(IMAGE)
class ArrayProtocol(Between):
    """`np.asarray` of a parameter: `__array__`."""

    def between(self, h: Tensor) -> Tensor:
        ranks = np.asarray(self.conv2.weight.detach())[:, :, 0, 0].argmax(1)
        return h + float(ranks.sum())


@wild(IMAGE)
class NumpyFunctionOfTensor(Between):
    """`np.abs(tensor)`, which goes through the array protocol."""

    def between(self, h: Tensor) -> Tensor:
        weights = np.polyval(np.mean(np.abs(self.conv1.weight.detach()).numpy(), axis=(1, 2, 3)), 0.5)
        return h * float(weights)


@wild(IMAGE)
class StorageBytes(Between):
    """Reads a weight's bytes: a checksum as a seed."""

    def between(self, h: Tensor) -> Tensor:
        raw = bytes(self.conv1.weight.detach().untyped_storage())
        return h * (1 + sum(raw[:64]) % 7)


@wild(IMAGE)
class DataPointer(Between):
    """A view onto a weight's memory by NumPy, kept as an attribute: both change together."""

    def __init__(self) -> None:
        super().__init__()
        self.window = self.conv1.weight.detach().numpy()

    def between(self, h: Tensor) -> Tensor:
        return h * float(np.abs(self.window).mean())


@wild(IMAGE)
class AnotherThread(Between):
    """A worker thread computes one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(8, 8, 1)

    def between(self, h: Tensor) -> Tensor:
        out: list[Tensor] = []
        worker = threading.Thread(target=lambda: out.append(self.side(h)))
        worker.start()
        worker.join()
        return h + out[0]


@wild(IMAGE)
class PoolOfThreads(nn.Module):
    """Heads run in a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.heads = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x))
        with ThreadPoolExecutor(2) as pool:
            return torch.cat(list(pool.map(lambda head: head(h), self.heads)), 1)


@wild(IMAGE)
class ThreadReadsOrder(Between):
    """A thread weighs channels by their place."""

    def between(self, h: Tensor) -> Tensor:
        out: list[Tensor] = []

        def work() -> None:
            ramp = torch.arange(h.shape[1], dtype=h.dtype)
            out.append(h * ramp[:, None, None])

        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        return out[0]


@wild(IMAGE)
class BooleanMaskOfChannels(Between):
    """Channels picked by a comparison of their values, counts read as integers."""

    def between(self, h: Tensor) -> Tensor:
        live = (h.mean((0, 2, 3)) > 0.1).nonzero()[:, 0]
        return h + h[:, live].mean(1, keepdim=True) * len(live)
