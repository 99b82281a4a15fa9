"""What the example did not reach: narrowed with what is certainly its width, or its width is left whole."""

from __future__ import annotations

import warnings
from functools import cached_property

import pytest
import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def mlp(given: int, inner: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(given, inner), nn.BatchNorm1d(inner), nn.ReLU(), nn.Linear(inner, out))


class Heads(nn.Module):
    """Several heads on one body; the first argument after the rows says which one runs."""

    def __init__(self, *heads: nn.Module, width: int = 12) -> None:
        super().__init__()
        self.body, self.heads = nn.Linear(6, width), nn.ModuleList(heads)

    def forward(self, x: Tensor, task: int = 0) -> Tensor:
        return self.heads[task](torch.relu(self.body(x)))


def tensors_with(graph: sc.Graph, width: str) -> set[str]:
    return {use.tensor for use in graph[width].uses}


def test_a_head_that_did_not_run_is_narrowed_like_the_one_that_did() -> None:
    model = Heads(mlp(12, 8, 3), mlp(12, 5, 7)).eval()
    graph = sc.trace(model, (X, 0))
    assert "heads.1.0.weight" in tensors_with(graph, "body.out_features")
    plan = graph.plan({"body.out_features": range(0, 12, 2)})
    expected = torch.relu(model.body(X)) * torch.tensor([1.0, 0.0] * 6)
    torch.testing.assert_close(sc.apply(model, plan)(X, 1), model.heads[1](expected))


def test_what_is_inside_such_a_head_stays_whole() -> None:
    graph = sc.trace(Heads(mlp(12, 8, 3), mlp(12, 5, 7)), (X, 0))
    assert {w.name for w in graph.free} == {"body.out_features", "heads.0.0.out_features"}


def test_another_width_of_that_size_leaves_it_open_which_one_it_is() -> None:
    graph = sc.trace(Heads(nn.Linear(12, 12), nn.Linear(12, 12)), (X, 0))
    assert not graph.free


def test_a_head_of_another_kind_freezes_what_it_may_be_given() -> None:
    graph = sc.trace(Heads(nn.Linear(12, 3), nn.Bilinear(12, 12, 3)), (X, 0))
    assert "also=" in str(graph["body.out_features"].frozen)


class Unused(nn.Module):
    """A deep body, and a part beside its end that is called for many rows alone."""

    def __init__(self, unused: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*(mlp(10, 14, 10) for _ in range(2)))
        self.inp, self.fc, self.unused = nn.Linear(6, 10), nn.Linear(10, 3), unused

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(self.inp(x))
        return self.fc(h) if len(x) < 99 else self.unused(h)


def test_an_unused_part_freezes_only_what_is_before_its_module() -> None:
    graph = sc.trace(Unused(nn.Linear(10, 4)), X)
    assert {w.name for w in graph.free} == {"body.0.0.out_features", "body.1.0.out_features"}
    assert len(sc.trace(Unused(nn.Linear(14, 4)), X).free) >= 2


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_multiple_of_a_width_may_be_made_of_it(factor: int) -> None:
    graph = sc.trace(Unused(nn.Linear(5, 10 * factor)), X)
    assert graph["inp.out_features"].frozen


class Tokens(nn.Module):
    """Two learnt tokens, of which one stands in only for rows that are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(6, 10), nn.Linear(10, 3)
        self.start, self.masked = nn.Parameter(torch.randn(1, 1, 10)), nn.Parameter(torch.randn(1, 10))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.embed(x)
        if mask is not None:
            h = torch.where(mask[..., None], self.masked, h)
        return self.out(torch.cat([self.start.expand(len(x), 1, -1), h], 1))


def test_a_parameter_beside_one_of_the_same_ending_is_narrowed_with_it() -> None:
    rows = X.view(2, 2, 6)
    graph = sc.trace(Tokens(), rows)
    assert "masked" in tensors_with(graph, "embed.out_features")
    small = sc.apply(Tokens(), graph.plan({"embed.out_features": range(4)}))
    assert small(rows, torch.tensor([[True, False], [False, True]])).shape == (2, 3, 3)


class Switch(nn.Module):
    """Experts that see only the rows sent to them."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.gate, self.out = nn.Linear(6, 10), nn.Linear(10, 5), nn.Linear(10, 3)
        self.experts = nn.ModuleList(mlp(10, 8 + e, 10) for e in range(5))

    def forward(self, x: Tensor) -> Tensor:
        h, total = self.inp(x), torch.zeros(len(x), 10)
        chosen = self.gate(h).argmax(-1)
        for e, expert in enumerate(self.experts):
            if (chosen == e).any():
                total = torch.where((chosen == e)[:, None], expert(h), total)
        return self.out(h + total)


def test_experts_that_got_no_rows_are_narrowed_with_those_that_did() -> None:
    torch.manual_seed(0)
    model = Switch().eval()
    assert len({int(e) for e in model.gate(model.inp(X)).argmax(-1)}) < 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = sc.trace(model, X)
    carriers = tensors_with(graph, "inp.out_features")
    assert {f"experts.{e}.0.weight" for e in range(5)} <= carriers or graph["inp.out_features"].frozen


class Exits(nn.Module):
    """The first classifier only decides whether to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.exit, self.out = nn.Linear(6, 10), nn.Linear(10, 4), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.body(x))
        early = self.exit(h)
        return early if early.softmax(-1).max() > 2 else self.out(h)


def test_what_only_decides_a_branch_is_left_whole() -> None:
    graph = sc.trace(Exits(), X)
    assert graph["exit.out_features"].frozen
    assert graph["body.out_features"].frozen is None


class Trains(nn.Module):
    """While it trains it returns a second output, and multiplies by numbers made for a literal width."""

    def __init__(self, *, literal: bool) -> None:
        super().__init__()
        self.hidden, self.literal = 10, literal
        self.body, self.out, self.aux = nn.Linear(6, 10), nn.Linear(10, 4), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = torch.relu(self.body(x))
        if not self.training:
            return self.out(h)
        width = 10 if self.literal else self.hidden
        h = h * torch.bernoulli(torch.full((width,), 0.9))
        return self.out(h), self.aux(h)


def test_training_is_always_listened_to() -> None:
    graph = sc.trace(Trains(literal=False), X)
    assert graph["aux.out_features"].frozen == "the model's output"
    small = sc.apply(Trains(literal=False), graph.plan({"body.out_features": range(5)}))
    assert [len(t[0]) for t in small.train()(X)] == [4, 5]
    assert not sc.trace(Trains(literal=True), X).free


class WithTable(nn.Module):
    """A buffer as long as its widths, which no run reads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.rand(12))
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

    def more(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.more(torch.relu(self.first(x))))


class OnABranch(WithTable):
    def more(self, h: Tensor) -> Tensor:
        return h * self.table if len(h) > 99 else h


class ByAnyName(WithTable):
    def more(self, h: Tensor) -> Tensor:
        return h * getattr(self, "".join(("ta", "ble"))) if len(h) > 99 else h


class ByAProperty(WithTable):
    @cached_property
    def twice(self) -> Tensor:
        return self.table * 2

    def more(self, h: Tensor) -> Tensor:
        return h * self.twice if len(h) > 99 else h


@pytest.mark.parametrize(("kind", "free"), [(WithTable, 1), (OnABranch, 0), (ByAnyName, 0), (ByAProperty, 0)])
def test_a_buffer_that_no_code_speaks_of_shares_no_width(kind: type[WithTable], free: int) -> None:
    assert len(sc.trace(kind(), X).free) == free


class LeftOver(nn.Module):
    """A layer, and a scale, that no method names; others say in ``more`` how they might come to them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)
        self.old = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12))
        self.scale = nn.Parameter(torch.rand(12))
        for module in self.modules():  # a constructor's doings are over
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
        nn.init.zeros_(self.old[0].bias)

    def more(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.more(torch.relu(self.first(x))))


class NamesIt(LeftOver):
    def more(self, h: Tensor) -> Tensor:
        return self.old(h) if len(h) > 99 else h


class NamesTheScale(LeftOver):
    def more(self, h: Tensor) -> Tensor:
        return h * self.scale if len(h) > 99 else h


class AsksByText(LeftOver):
    def more(self, h: Tensor) -> Tensor:
        return getattr(self, "o" + "ld")(h) if len(h) > 99 else h


class AsksForAll(LeftOver):
    def more(self, h: Tensor) -> Tensor:
        return [*self.children()][2](h) if len(h) > 99 else h


class KeepsItInAList(LeftOver):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [self.old]

    def more(self, h: Tensor) -> Tensor:
        return self.layers[0](h) if len(h) > 99 else h


def _applied(model: LeftOver, h: Tensor) -> Tensor:
    return model.old(h) if len(h) > 99 else h


class HandsItselfOn(LeftOver):
    def more(self, h: Tensor) -> Tensor:
        return _applied(self, h)


class InItsMethod(LeftOver):
    """Nothing calls it, but whoever has the model may."""

    def embed(self, x: Tensor) -> Tensor:
        return self.old(self.first(x))


class FromATable(LeftOver):
    WAYS = {"plain": lambda model, h: h, "old": lambda model, h: model.old(h)}  # noqa: RUF012

    def more(self, h: Tensor) -> Tensor:
        return self.WAYS["plain" if len(h) < 99 else "old"](self, h)


_WAYS = {"old": lambda model, h: model.old(h)}


class FromAFilesTable(LeftOver):
    def more(self, h: Tensor) -> Tensor:
        return h if len(h) < 99 else _WAYS["old"](self, h)


class Around(nn.Module):
    """One above it asks for whatever is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = LeftOver()

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y if len(x) < 99 else dict(self.named_modules())["inner.old"](y)


def _hooked() -> nn.Module:
    model = LeftOver()
    model.first.register_forward_hook(lambda _, given, out: model.old(out) if len(out) > 99 else out)
    return model


class AsLayer(nn.TransformerEncoderLayer):
    """What the constructor of its base made, code of PyTorch's may use."""

    def forward(self, src: Tensor, *args: object, **kwargs: object) -> Tensor:
        return self.norm2(src + self.linear2(torch.relu(self.linear1(self.norm1(src)))))


def test_a_layer_that_no_code_leads_to_shares_no_width() -> None:
    model = LeftOver()
    graph = sc.trace(model, X)
    assert {w.name for w in graph.free} == {"first.out_features"}
    assert any("old.0, old.1" in note and "scale" in note for note in graph.notes)
    small = sc.apply(model, graph.plan({"first.out_features": range(5)}))
    assert small.old[0].weight.shape == (12, 12)


_LEADING = [
    NamesIt,
    NamesTheScale,
    AsksByText,
    AsksForAll,
    KeepsItInAList,
    HandsItselfOn,
    InItsMethod,
    FromATable,
    FromAFilesTable,
    Around,
    _hooked,
]


@pytest.mark.parametrize("made", _LEADING)
def test_where_code_may_come_to_it_the_width_is_whole(made: type[nn.Module]) -> None:
    assert not sc.trace(made(), X).free


def test_what_a_base_of_pytorchs_may_use_is_within_reach() -> None:
    graph = sc.trace(AsLayer(8, 2, 16, batch_first=True).eval(), torch.randn(2, 5, 8))
    assert not any("leads to" in note for note in graph.notes)
