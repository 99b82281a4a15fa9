"""Code that runs inside a transform of `torch.func`, or only when what the model returned is used up: it is heard as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Any:
        return self.second(torch.relu(self.first(x)))


class MapsAModule(Net):
    def forward(self, x: Tensor) -> Any:
        return torch.vmap(self.second)(torch.relu(torch.vmap(self.first)(x)))


class MapsACall(Net):
    def forward(self, x: Tensor) -> Any:
        weights = dict(self.first.named_parameters())
        h = torch.vmap(lambda row: torch.func.functional_call(self.first, weights, (row,)))(x)
        return self.second(torch.relu(h))


class MapsAttention(Net):
    def forward(self, x: Tensor) -> Any:
        h = self.first(x).view(5, 1, 1, -1)
        mixed = torch.vmap(lambda q: nn.functional.scaled_dot_product_attention(q, h[0], h[0], scale=0.3))(h)
        return self.second(mixed.reshape(5, -1))


class Jacobian(Net):
    def forward(self, x: Tensor) -> Any:
        return torch.vmap(torch.func.jacrev(super().forward))(x)


class GradientOfItsInput(Net):
    """Energies and forces."""

    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            x = x.clone().requires_grad_(True)
            energy = self.second(torch.tanh(self.first(x)))
            return energy, torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


class GradientsOfRows(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), torch.vmap(torch.func.grad(lambda row: torch.tanh(self.first(row)).sum()))(x)


class Hamiltonian(Net):
    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.second(nn.functional.softplus(self.first(x))).sum()
            q, p = torch.autograd.grad(energy, x, create_graph=True)[0].chunk(2, -1)
        return torch.cat([p, -q], -1)


class Forces(Net):
    """By distances, through a smooth activation whose own gradient PyTorch takes apart in Python."""

    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.second(nn.functional.silu(self.first(x - x.mean(0)))).sum(1)
            return energy, -torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


KINDS = [Forces, Hamiltonian, MapsAModule, MapsACall, MapsAttention, Jacobian, GradientOfItsInput, GradientsOfRows]


@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_inside_a_transform_is_narrowed(kind: type[Net]) -> None:
    graph = sc.trace(kind(), X)
    assert 12 in [width.size for width in graph.free]
    _, result = sc.prune(kind(), "magnitude", {"params": "70%"}, dummy_input=X)
    assert result.verification.passed


def test_an_identity_is_as_wide_as_what_it_stands_beside() -> None:
    class Regular(Net):
        def forward(self, x: Tensor) -> Any:
            gram = self.first.weight @ self.first.weight.t()
            return super().forward(x), (gram - torch.eye(gram.shape[0])).pow(2).sum(), x @ torch.eye(6)

    graph = sc.trace(Regular(), X)
    assert [width.size for width in graph.free] == [12]
    assert sc.verify(Regular(), graph.plan({"first.out_features": range(3, 9)}), graph).passed
    assert "eye" not in str(graph.notes)


def test_text_that_the_code_makes_of_a_size_still_keeps_it() -> None:
    class Names(Net):
        def forward(self, x: Tensor) -> Any:
            return {repr(self.first): super().forward(x)}

    assert sc.trace(Names(), X).free == ()


class Yields(Net):
    def parts(self, h: Tensor) -> Iterator[Tensor]:
        yield self.second(h)
        yield self.second(-h)

    def forward(self, x: Tensor) -> Any:
        return {"parts": self.parts(torch.relu(self.first(x)))}


class YieldsBeside(Net):
    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.first(x))
        return self.second(h), (self.side(row) for row in h)


@pytest.mark.parametrize("kind", [Yields, YieldsBeside])
def test_a_generator_that_is_returned_runs_while_the_trace_listens(kind: type[Net]) -> None:
    model = kind()
    graph = sc.trace(model, X)
    assert [width.size for width in graph.free] == [12]
    assert not any("exercise" in (width.frozen or "") for width in graph.widths)
    said = sc.verify(model, graph.plan({"first.out_features": range(3, 10)}), graph)
    assert said.passed
    assert len(said.comparisons[0].outputs) == {Yields: 2, YieldsBeside: 6}[kind]


def test_a_generator_without_an_end_is_refused() -> None:
    class Endless(Net):
        def parts(self, h: Tensor) -> Iterator[Tensor]:
            while True:
                yield h[0, 0]

        def forward(self, x: Tensor) -> Any:
            return self.parts(super().forward(x).detach())

    with pytest.raises(sc.SecateurError, match="yields more than"):
        sc.trace(Endless(), X)


class MapsABlock(Net):
    """What goes into the transform is the output of a layer, and is added to something, too."""

    def __init__(self) -> None:
        super().__init__()
        self.skip, self.norm = nn.Linear(6, 12), nn.BatchNorm1d(12)

    def normed(self, row: Tensor) -> Tensor:
        norm = self.norm
        h = self.first(row)[None]
        return nn.functional.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias)[0]

    def forward(self, x: Tensor) -> Any:
        h = self.skip(x)
        branch = torch.vmap(lambda row: self.normed(row) + row.sum())(x)
        return self.second(torch.vmap(torch.tanh)(h) + (branch + h))


BATCHES = [(torch.randn(16, 6, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3)]


@pytest.mark.parametrize("kind", [MapsAModule, MapsACall, MapsABlock, GradientsOfRows])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("gradnas", {}),
        ("progressive", {"steps": 2}),
        ("magnitude", {"criterion": "brain_surgeon"}),
        ("magnitude", {"compensate": "bias"}),
        ("magnitude", {"compensate": "answers"}),
    ],
)
def test_what_looks_at_data_passes_by_what_runs_inside_a_transform(
    kind: type[Net], mode: str, options: dict[str, Any]
) -> None:
    def loss(output: Any, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(output if isinstance(output, Tensor) else output[0], batch[1])

    model, result = sc.prune(
        kind().eval(), mode, {"params": "70%"}, X, {"data_loader": BATCHES, "loss_func": loss, **options}
    )
    fitted = result.compensation
    assert (fitted is not None) == (mode == "progressive" or "compensate" in options)
    assert fitted is None or "inside a transform of torch.func" in fitted.left["first.weight"]
    assert all(p.isfinite().all() for p in model.parameters())


def test_what_a_transform_reads_of_a_contraction_is_not_changed_any_more() -> None:
    from secateur.torch.compensation.chain import chain_of
    from secateur.torch.compensation.passes import Batch, Recorder
    from secateur.torch.compensation.records import Original
    from secateur.torch.running.contractions import taps

    class Read(Net):
        def forward(self, x: Tensor) -> Any:
            self.h = self.first(x)
            return self.second(torch.vmap(torch.tanh)(self.h))

    model = Read()
    with torch.no_grad(), taps(model, Recorder(model, Batch(0, 5), Original(), lambda _: 100)):
        model(X)
    chain = chain_of(model.h)
    assert chain is not None
    assert chain.read


def test_a_criterion_that_sees_no_unit_says_what_else_there_is() -> None:
    with pytest.raises(sc.SecateurError, match=r"first.out_features.*torch.func.vmap.*Use another criterion"):
        sc.prune(MapsAModule(), "activation", {}, X, {"data_loader": BATCHES})
