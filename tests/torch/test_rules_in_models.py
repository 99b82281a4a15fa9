"""Operators as people call them inside a network: pruned, and held against the first network by hand.

The widths named here are free, and what the library calls verified is what zeroed units give.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import secateur as sc

torch.set_num_threads(1)


class Between(nn.Module):
    """Two layers of twelve, something, a head."""

    def __init__(self, between: Callable[[Tensor, Tensor], Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 3)
        self.between = between

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        a, b = torch.tanh(self.a(x)), torch.tanh(self.b(x))
        return self.head(a * b), self.between(a, b)


def halved(model: nn.Module, x: object) -> tuple[nn.Module, nn.Module]:
    """The model with the odd units of every free exact width removed, and with these units zero."""
    graph = sc.trace(model, x)
    kept = {width.name: list(range(0, width.size, 2)) for width in graph.free if width.exact}
    small = sc.apply(model, graph.plan(kept))
    with torch.no_grad():
        for width in (graph[name] for name in kept):
            for use in width.uses:
                tensor = dict(model.named_parameters())[use.tensor]
                tensor.index_fill_(use.axis, torch.arange(1, width.size, 2), 0.0)
    return small, model


def agree(model: nn.Module, x: tuple[object, ...] | Tensor) -> None:
    small, masked = halved(model.eval().double(), x)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in masked.parameters())
    args = x if isinstance(x, tuple) else (x,)
    for one, other in zip(_tensors(small(*args)), _tensors(masked(*args)), strict=True):
        torch.testing.assert_close(one, other)


def _tensors(tree: object) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [t for part in tree for t in _tensors(part)]  # type: ignore[attr-defined]


EXACT: dict[str, Callable[[Tensor, Tensor], Tensor | tuple[Tensor, ...]]] = {
    "mse, summed": lambda a, b: F.mse_loss(a, b, reduction="sum"),
    "smooth l1 of each row": lambda a, b: F.smooth_l1_loss(a, b, reduction="none").sum(1),
    "huber, summed": lambda a, b: F.huber_loss(a, b, reduction="sum"),
    "cosine": lambda a, b: F.cosine_embedding_loss(a, b, torch.ones(a.shape[0])),
    "contrastive": lambda a, b: F.cross_entropy(a @ b.t(), torch.arange(a.shape[0])),
    "triplet": lambda a, b: F.triplet_margin_with_distance_loss(a, b, a.roll(1, 0), distance_function=_squared),
    "distance": lambda a, b: (torch.dist(a, b), F.pdist(a)),
    "in place": lambda a, b: a.clone().unsqueeze_(1).squeeze_(1).t_().t_().abs_().sum(1),
    "compared in place": lambda a, b: (a.clone().gt_(0.5) * b).sum(1),
    "conjugate": lambda a, b: torch.complex(a, b).conj().imag.sum(1),
    "how many": lambda a, b: torch.count_nonzero(a * b, dim=1),
    "leaky": lambda a, b: F.rrelu(a).sum(1),
    "on a diagonal": lambda a, b: torch.trace(a.t() @ a) + (a @ torch.diag_embed(b[0]) @ b.t()),
    "solved for": lambda a, b: torch.linalg.solve((torch.eye(4) * 3 + 1).to(a), a * b).sum(1),
    "whole matrices of the others": lambda a, b: torch.linalg.inv(a @ a.t() + torch.eye(a.shape[0])),
}


@pytest.mark.parametrize("name", EXACT)
def test_units_between_two_layers_can_go(name: str) -> None:
    agree(Between(EXACT[name]), torch.randn(4, 6).double())


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).pow(2).sum(1)


INEXACT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.huber_loss,
    "bce": lambda a, b: F.binary_cross_entropy(a.sigmoid(), b.sigmoid()),
    "bce of logits, summed": lambda a, b: F.binary_cross_entropy_with_logits(a, b.sigmoid(), reduction="sum"),
    "kl": lambda a, b: F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="batchmean"),
    "soft margin": lambda a, b: F.soft_margin_loss(a, b.detach().sign()),
    "mode": lambda a, b: (a * 3).round().mode(1)[0],
}


@pytest.mark.parametrize("name", INEXACT)
def test_a_loss_whose_mean_counts_units_makes_them_inexact(name: str) -> None:
    graph = sc.trace(Between(INEXACT[name]), torch.randn(4, 6))
    assert [(width.size, width.exact) for width in graph.free] == [(12, False)]
    assert not any("no rule" in note for note in graph.notes)


@pytest.mark.parametrize(
    ("between", "told"),
    [
        (lambda a, b: F.cross_entropy(a, torch.arange(4)), "labels say which of it is meant"),
        (lambda a, b: F.multi_margin_loss(a, torch.arange(4)), "labels say which of it is meant"),
        (lambda a, b: a.clone().as_strided_((4, 12), (1, 4)), "memory seen in other steps"),
        (lambda a, b: a.as_strided((4, 12), (1, 4)), "an arbitrary strided view"),
        (lambda a, b: a.masked_select(b > 0), "its values are read"),
        (lambda a, b: torch.linalg.matrix_exp(a.t() @ a), "a function of the whole matrix"),
    ],
)
def test_what_reads_units_by_their_number_keeps_them_and_says_why(between: Callable[..., Tensor], told: str) -> None:
    graph = sc.trace(Between(between), torch.randn(4, 6))
    assert graph.free == ()
    assert any(told in (width.frozen or "") for width in graph.widths)


class Packed(nn.Module):
    """Words of sentences of several lengths."""

    def __init__(self, kind: type[nn.RNNBase], batch_first: bool) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 8), nn.Linear(8, 10)
        self.rnn, self.head = kind(10, 12, batch_first=batch_first), nn.Linear(12, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        first = self.rnn.batch_first
        packed = pack_padded_sequence(self.norm(self.embed(ids)), lengths.cpu(), first, enforce_sorted=False)
        out, lengths = pad_packed_sequence(self.rnn(packed)[0], first)
        return self.head(out), lengths


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
def test_packed_sequences_run_without_data_at_any_width(kind: type[nn.RNNBase], batch_first: bool) -> None:
    ids, lengths = torch.randint(0, 20, (4, 7)), torch.tensor([7, 3, 5, 2])
    x = (ids if batch_first else ids.t().contiguous(), lengths)
    model = Packed(kind, batch_first)
    graph = sc.trace(model, x)
    assert sorted(width.size for width in graph.free) == [8, 10, 12]
    assert not any("real tensors" in note for note in graph.notes)
    small, result = sc.prune(model, "magnitude", {"params": "60%"}, dummy_input=x)
    assert result.verification.passed
    assert small.rnn.hidden_size < 12


class SpectralNorm(nn.Module):
    """Power iteration by hand, on a buffer that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(12, 6)), nn.Linear(12, 3)
        self.register_buffer("u", F.normalize(torch.randn(12), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            u = self.u.clone().unsqueeze_(1)
            v = F.normalize(self.weight.t() @ u, dim=0)
            u = F.normalize(self.weight @ v, dim=0)
        sigma = (u * (self.weight @ v)).sum()
        return self.head(torch.relu(F.linear(x, self.weight / sigma).unsqueeze(1).squeeze_(1)))


def test_a_spectral_norm_by_hand_is_narrowed() -> None:
    _, result = sc.prune(SpectralNorm(), "magnitude", {"params": "60%"}, dummy_input=torch.randn(4, 6))
    assert result.verification.passed


class Graphs(nn.Module):
    """Two layers over the edges of a graph, given as a sparse matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return torch.sparse.mm(edges, self.second(torch.relu(torch.sparse.mm(edges, self.first(x)))))


class Mixed(nn.Module):
    """A sparse matrix of its own between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 12), nn.Linear(10, 7), nn.Linear(7, 3)
        mask = torch.rand(10, 12, generator=torch.Generator().manual_seed(0)) > 0.6
        self.register_buffer("mix", mask.float().to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.sparse.mm(self.mix, torch.relu(self.first(x)).T).T))


def test_a_sparse_matrix_of_the_networks_own_is_kept_whole() -> None:
    graph = sc.trace(Mixed(), torch.randn(4, 6))
    assert [width.name for width in graph.free] == ["second.out_features"]
    assert "first.out_features" in {
        w.name for w in graph.widths if w.frozen == "mix is no dense tensor, and is kept whole"
    }
    small, result = sc.prune(Mixed(), "magnitude", {"params": "80%"}, torch.randn(4, 6))
    assert result.verification.passed
    assert small.mix.is_sparse


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_network_over_a_sparse_matrix_is_narrowed(layout: torch.layout) -> None:
    edges = (torch.rand(5, 5, generator=torch.Generator().manual_seed(0)) > 0.4).float().to_sparse(layout=layout)
    _, result = sc.prune(Graphs(), "magnitude", {"params": "60%"}, dummy_input=(torch.randn(5, 6), edges))
    assert result.verification.passed


class Drawn(nn.Module):
    """Two layers, and numbers drawn between them."""

    def __init__(self, draw: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.first, self.head, self.draw = nn.Linear(6, 12), nn.Linear(12, 3), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.draw(self.first(x), self.training))


DRAWN: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "noise": lambda h, _: h + torch.randn_like(h),
    "gumbel": lambda h, _: F.gumbel_softmax(h, hard=True),
    "counts": lambda h, _: torch.poisson(h.exp()),
    "gamma": lambda h, _: torch.distributions.Gamma(h.exp(), torch.ones_like(h)).rsample(),
    "shares": lambda h, _: torch.distributions.Dirichlet(h.exp()).rsample(),
    "log normal": lambda h, _: h * torch.empty_like(h).log_normal_(),
    "cauchy": lambda h, _: h + torch.empty_like(h).cauchy_(),
    "attempts": lambda h, _: h + torch.empty_like(h).geometric_(0.3),
    "trials": lambda h, _: torch.binomial(torch.full_like(h, 3.0), h.sigmoid()),
}
WHILE_TRAINING: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "dropout": lambda h, training: F.dropout(h, 0.5, training),
    "slopes": lambda h, training: F.rrelu(h, training=training),
}


@pytest.mark.parametrize("name", DRAWN)
def test_numbers_drawn_for_each_unit_are_told_to_be_expected_ones_in_the_proof(name: str) -> None:
    model, x = Drawn(DRAWN[name]).eval(), torch.randn(4, 6)
    graph = sc.trace(model, x)
    assert [(width.size, width.exact) for width in graph.free] == [(12, False)]
    said = sc.verify(model, graph.plan({"first.out_features": range(2, 9)}), graph)
    assert said.passed
    assert "not compared: the random numbers it draws in evaluation" in str(said)


@pytest.mark.parametrize("name", WHILE_TRAINING)
def test_numbers_drawn_only_in_training_are_no_part_of_the_function(name: str) -> None:
    model, x = Drawn(WHILE_TRAINING[name]).eval(), torch.randn(4, 6)
    graph = sc.trace(model, x)
    assert [(width.size, width.exact) for width in graph.free] == [(12, True)]
    said = sc.verify(model, graph.plan({"first.out_features": range(2, 9)}), graph)
    assert any(one.mode == "training" and one.gradients == 4 for one in said.comparisons)
    assert said.notes == ()
