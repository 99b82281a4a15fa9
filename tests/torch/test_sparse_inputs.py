"""Sparse tensors among the inputs: an adjacency, or samples whose features are mostly zeros; in every layout that has rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.torch.compensation.supply import _marks
from secateur.torch.measuring.samples import contractions_of, rows_of
from secateur.torch.running.digests import described
from secateur.torch.running.example import Example

Layout = Callable[[Tensor], Tensor]


def uncoalesced(dense: Tensor) -> Tensor:
    coo = dense.to_sparse()
    return torch.sparse_coo_tensor(torch.cat([coo.indices()] * 2, 1), torch.cat([coo.values() / 2] * 2), coo.shape)


LAYOUTS: list[Layout] = [Tensor.to_sparse, Tensor.to_sparse_csr, Tensor.to_sparse_csc, uncoalesced]
DRAW = torch.Generator().manual_seed(0)
ADJACENCY = (torch.rand(6, 6, generator=DRAW) > 0.4).float()
NODES, LABELS = torch.randn(6, 8, generator=DRAW), torch.arange(6) % 3


class Graphs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 24), nn.Linear(24, 12), nn.Linear(12, 3)

    def forward(self, adjacency: Tensor, x: Tensor) -> Tensor:
        h = torch.relu(adjacency @ self.first(x))
        return self.head(torch.relu(adjacency @ self.second(h)))


class Words(nn.Module):
    """Samples are the rows of a sparse tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Parameter(torch.randn(8, 24)), nn.Linear(24, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.relu(torch.sparse.mm(words, self.table)))


def loss(output: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(output, batch[-1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("mode", "options"),
    [("gradnas", {}), ("progressive", {"steps": 2}), ("magnitude", {"criterion": "activation_norm"})],
)
def test_sparse_inputs_are_looked_at_like_others(layout: Layout, mode: str, options: dict[str, Any]) -> None:
    for model, given in ((Graphs(), (layout(ADJACENCY), NODES)), (Words(), (layout((NODES > 0).float()),))):
        batches = [(*given, LABELS)]
        config = {"data_loader": batches, "collect_func": lambda b: b[:-1], "loss_func": loss, **options}
        narrowed, result = sc.prune(model, mode, {"params": "60%"}, given, config)
        assert result.verification.passed
        assert narrowed(*given).isfinite().all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_are_told_apart_by_rows_of_a_sparse_tensor(layout: Layout) -> None:
    words = layout((NODES > 0).float())
    assert torch.equal(rows_of(words, [4, 1]).to_dense(), words.to_dense()[[4, 1]])
    assert rows_of(words, [4, 1]).layout == words.layout
    found = contractions_of(Words(), words).rows["head.weight", 0]
    assert found is not None
    assert found.dim == 0
    example = Example.of(Words(), words)
    assert len(set(_marks(example, [True] * 6))) == len({tuple(row) for row in words.to_dense().tolist()})
    assert described(words) != described(layout((NODES < 0).float()))


def test_nodes_that_cannot_be_judged_one_by_one_are_told() -> None:
    batches = [(ADJACENCY.to_sparse(), NODES, LABELS)]
    config = {"criterion": "fisher", "data_loader": batches, "collect_func": lambda b: b[:-1], "loss_func": loss}
    with pytest.raises(sc.SecateurError, match=r'Graphs does not run on one sample .* per="batch"'):
        sc.prune(Graphs(), "magnitude", {"params": "60%"}, (batches[0][0], NODES), config)


def test_what_cannot_be_differentiated_is_told() -> None:
    blocks = ADJACENCY.to_sparse_bsr((2, 2))
    config = {"data_loader": [(blocks, NODES, LABELS)], "collect_func": lambda b: b[:-1], "loss_func": loss}
    with pytest.raises(sc.SecateurError, match=r"PyTorch cannot differentiate .* needs no gradients"):
        sc.prune(Graphs(), "gradnas", {"params": "60%"}, (blocks, NODES), config)
