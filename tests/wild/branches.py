"""Code that the example does not run, or runs only while training, or later: it shares widths with what ran."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Call, floats, ids, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)


@wild(lambda: (floats(4, 6), 0), also=[lambda: (floats(4, 6), 1), lambda: (floats(4, 6), 2)])
class HeadPerTask(nn.Module):
    """`self.heads[task]`: two of three heads did not run."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 10), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(10, 3) for _ in range(3))

    def forward(self, x: Tensor, task: int) -> Tensor:
        return self.heads[int(task)](self.body(x))


@wild(
    lambda: (floats(4, 6), torch.tensor(0)),
    also=[lambda: (floats(4, 6), torch.tensor(1))],
)
class HeadPerTensorTask(nn.Module):
    """The task is a tensor; each head is a small network with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2)
        )

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        return self.heads[int(task)](self.body(x))


@wild(
    lambda: Call((floats(4, 6),), {"mode": "class"}),
    also=[lambda: Call((floats(4, 6),), {"mode": "embed"}), lambda: Call((floats(4, 6),), {"mode": "both"})],
)
class ModeByString(nn.Module):
    """A string argument picks the head; one returns the hidden vector itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.heads = nn.ModuleDict({"class": nn.Linear(16, 3), "embed": nn.Linear(16, 5)})

    def forward(self, x: Tensor, mode: str) -> Tensor:
        h = self.body(x)
        return torch.cat([head(h) for head in self.heads.values()], 1) if mode == "both" else self.heads[mode](h)


@wild(lambda: (floats(4, 6).abs(),), also=[lambda: (-floats(4, 6).abs(),)], told=True, name="BranchOnDataTold")
@wild(lambda: (floats(4, 6).abs(),), also=[lambda: (-floats(4, 6).abs(),)])
class BranchOnData(nn.Module):
    """`if x.mean() > 0`: the other expert has the same width."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.bright, self.dark = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.body(x))
        return self.head(torch.tanh(self.bright(h) if x.mean() > 0 else self.dark(h)))


@wild(lambda: (floats(6, 10),), fresh=[lambda: (floats(40, 10) * 3,)])
class TopKRouter(nn.Module):
    """A mixture of experts written by hand: most experts get no token in the example."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.gate = nn.Linear(10, 12), nn.Linear(12, 8)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12)) for _ in range(8))
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        weights, chosen = self.gate(h).softmax(-1).topk(2, dim=-1)
        total = torch.zeros_like(h)
        for e, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == e)
            if len(rows):
                total = total.index_add(0, rows, expert(h[rows]) * weights[rows, place, None])
        return self.out(h + total)


@wild(lambda: (floats(2, 10),), fresh=[lambda: (floats(40, 10) * 3,)])
class SwitchRouter(nn.Module):
    """Top-1 routing with a dict of experts, `unique().tolist()`, and gated experts of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.gate, self.out = nn.Linear(10, 12), nn.Linear(12, 4), nn.Linear(12, 4)
        self.up = nn.ModuleDict({str(e): nn.Linear(12, 8 + 4 * e) for e in range(4)})
        self.down = nn.ModuleDict({str(e): nn.Linear(8 + 4 * e, 12) for e in range(4)})

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        scores, best = self.gate(h).softmax(-1).max(-1)
        out = torch.zeros_like(h)
        for e in best.unique().tolist():
            chosen = best == e
            out[chosen] = scores[chosen, None] * self.down[str(e)](F.silu(self.up[str(e)](h[chosen])))
        return self.out(h + out)


@wild(lambda: (floats(6, 10),), fresh=[lambda: (floats(30, 10) * 3,)])
class FusedExperts(nn.Module):
    """Experts as one tensor, gathered for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(10, 4)
        self.w1, self.w2 = nn.Parameter(torch.randn(4, 10, 16) / 3), nn.Parameter(torch.randn(4, 16, 10) / 4)
        self.out = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        h = torch.einsum("td,tkdf->tkf", x, self.w1[chosen]).relu()
        return self.out(torch.einsum("tkf,tkfd,tk->td", h, self.w2[chosen], weights))


@wild(lambda: (floats(2, 4, 6),), fresh=[lambda: (floats(2, 9, 6),)])
class BranchOnLength(nn.Module):
    """Long inputs go through a pooling layer that the short example does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.pool, self.out = nn.Linear(6, 12), nn.Conv1d(12, 12, 3, padding=1), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.inp(x))
        if x.shape[1] > 6:
            h = self.pool(h.mT).mT
        return self.out(h.mean(1))


@wild(lambda: (ids(12, 2, 6),), fresh=[lambda: (ids(12, 2, 6) * 0,)])
class EarlyExit(nn.Module):
    """Stops as soon as a classifier is sure: how many blocks run depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 10)
        self.blocks = nn.ModuleList(nn.Linear(10, 10) for _ in range(3))
        self.exits = nn.ModuleList(nn.Linear(10, 4) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens).mean(1)
        for block, leave in zip(self.blocks, self.exits):
            h = h + torch.relu(block(h))
            out = leave(h)
            if out.softmax(-1).max() > 0.4:
                break
        return out


@wild(ROWS)
class TriesAndFails(nn.Module):
    """`try: … except RuntimeError:` around a reshape: what runs depends on whether a size fits."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        try:
            h = h + h.view(len(h), 4, 3).mean(2).repeat_interleave(3, 1)
        except RuntimeError:
            h = h * 2
        return self.fc2(h)


@wild(lambda: (floats(4, 6), None), also=[lambda: (floats(4, 6), floats(4, 5))], told=True, name="OptionalInputTold")
@wild(lambda: (floats(4, 6), None), also=[lambda: (floats(4, 6), floats(4, 5))])
class OptionalInput(nn.Module):
    """A condition that the example leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.condition, self.fc2 = nn.Linear(6, 12), nn.Linear(5, 24), nn.Linear(12, 3)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = self.fc1(x)
        if condition is not None:
            scale, shift = self.condition(condition).chunk(2, -1)
            h = h * (1 + scale) + shift
        return self.fc2(torch.relu(h))


@wild(
    lambda: Call((floats(2, 3, 16),), {"return_features": False}),
    also=[lambda: Call((floats(2, 3, 16),), {"return_features": True})],
    told=True,
)
class ReturnsFeaturesWhenAsked(nn.Module):
    """A flag adds hidden activations to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor, return_features: bool) -> Tensor | tuple[Tensor, Tensor]:
        h = torch.relu(self.conv1(x))
        return (self.conv2(h), h.mean(1)) if return_features else self.conv2(h)


@wild(lambda: (floats(4, 6), 2), fresh=[lambda: (floats(4, 6), 4), lambda: (floats(4, 6), 0)])
class NumberOfSteps(nn.Module):
    """How often a block runs is an argument; later steps have norms of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.block, self.out = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.norms = nn.ModuleList(nn.BatchNorm1d(12) for _ in range(4))

    def forward(self, x: Tensor, steps: int) -> Tensor:
        h = self.inp(x)
        for norm in self.norms[:steps]:
            h = norm(torch.relu(self.block(h)))
        return self.out(h)
