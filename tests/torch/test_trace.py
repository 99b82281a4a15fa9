"""What may be traced, what a trace says, and that it leaves no mark."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.errors import InputError, TraceError


class TwoInputs(nn.Module):
    """A positional input, a keyword one, and an option."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        hidden = self.a(x) if y is None else self.a(x) + self.b(y) * scale
        return self.head(hidden.relu())


X, Y = torch.randn(2, 6), torch.randn(2, 5)


@pytest.mark.parametrize(
    ("dummy_input", "uses_b"),
    [
        (X, False),
        ((X,), False),
        ((X, Y), True),
        ((X, {"y": Y}), True),
        ((X, Y, {"scale": 0.5}), True),
        ({"x": X, "y": Y}, True),
    ],
)
def test_dummy_input_follows_the_convention(dummy_input: object, uses_b: bool) -> None:
    graph = sc.trace(TwoInputs(), dummy_input)
    assert [w.name for w in graph.free] == (["a.out_features"] if uses_b else [])
    assert ("b.weight" in {u.tensor for u in graph["a.out_features"].uses}) is uses_b


def test_an_empty_dict_at_the_end_passes_a_dict_by_position() -> None:
    class TakesDict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = TwoInputs()

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.net(batch["image"])

    assert sc.trace(TakesDict(), ({"image": X}, {}))["net.a.out_features"].size == 8


@pytest.mark.parametrize("dummy_input", [None, (X, {1: Y})])
def test_an_unusable_dummy_input_is_an_input_error(dummy_input: object) -> None:
    with pytest.raises(InputError):
        sc.trace(TwoInputs(), dummy_input)


def test_a_model_that_does_not_run_is_a_trace_error_with_the_cause() -> None:
    with pytest.raises(TraceError, match=r"TwoInputs does not run on this dummy_input") as caught:
        sc.trace(TwoInputs(), torch.randn(2, 7))
    assert caught.value.__cause__ is not None


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 6, 3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6 * 16, 4))


IMAGE = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("layer", [nn.Linear(4, 8), nn.Conv1d(3, 8, 1), nn.LSTM(4, 8)], ids=["linear", "conv", "lstm"])
def test_an_example_of_other_numbers_than_the_weights_is_one_that_does_not_run(layer: nn.Module) -> None:
    with pytest.raises(TraceError, match="does not run on this dummy_input"):
        sc.trace(layer, torch.randn(2, 3, 4).double())
    with torch.autocast("cpu", torch.bfloat16):
        sc.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), torch.randn(2, 3, 4))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_mode_and_dtype_do_not_change_what_is_coupled(dtype: torch.dtype, training: bool) -> None:
    model = convolutional().to(dtype).train(training)
    graph = sc.trace(model, IMAGE.to(dtype))
    assert [(w.name, w.size, w.exact) for w in graph.free] == [("0.out_channels", 8, True), ("4.out_channels", 6, True)]
    small = sc.apply(model, graph.plan({"0.out_channels": [1, 2, 5], "4.out_channels": [0, 3]}))
    assert small.training is training
    assert next(small.parameters()).dtype is dtype


def everything(model: nn.Module) -> list[object]:
    held: list[object] = []
    for module in model.modules():
        held.append(module.training)
        for key, value in vars(module).items():
            inner = list(value.items()) if isinstance(value, dict) else value
            held.append((key, [(k, id(v)) for k, v in inner] if isinstance(inner, list) else id(value)))
    return held


@pytest.mark.parametrize("training", [True, False])
def test_a_trace_leaves_no_mark(training: bool) -> None:
    model = convolutional().train(training)
    calls: list[int] = []
    model[0].register_forward_hook(lambda *args: calls.append(1))
    before, bits, random = everything(model), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    sc.trace(model, IMAGE)
    assert everything(model) == before
    assert all(torch.equal(bits[k], v) for k, v in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(hasattr(p, "_secateur") for p in (*model.parameters(), *model.buffers()))
    assert not hasattr(IMAGE, "_secateur")


def test_a_trace_that_fails_leaves_no_mark() -> None:
    model = convolutional()
    before = everything(model)
    with pytest.raises(TraceError):
        sc.trace(model, torch.randn(2, 4, 8, 8))
    assert everything(model) == before


class Reads(nn.Module):
    """Branches on the values of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        return self.b(hidden if hidden.sum().item() > 1e9 else hidden.relu())


def test_code_that_reads_values_is_traced_as_it_ran_on_the_example() -> None:
    model = Reads()
    graph = sc.trace(model, X)
    assert any("the code reads values" in note for note in graph.notes)
    assert not hasattr(model.a.weight, "_secateur")
    # the sum that is read runs over the width: it is the same whether a unit is zero or gone
    assert graph["a.out_features"].frozen is None
    assert graph["a.out_features"].exact


def test_weights_without_data_are_enough() -> None:
    with torch.device("meta"):
        model = convolutional()
    graph = sc.trace(model, IMAGE.to("meta"))
    assert graph.params == sc.trace(convolutional(), IMAGE).params
    assert len(graph.free) == 2


class Shared(nn.Module):
    """One module twice, tied weights, a frozen parameter, and outputs in a dict of tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.twice = nn.Linear(8, 8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight
        self.twice.bias.requires_grad_(False)

    def forward(self, ids: Tensor) -> dict[str, tuple[Tensor, ...]]:
        x = self.twice(self.twice(self.embed(ids)).relu())
        return {"logits": (self.out(x),)}


def test_shared_modules_tied_weights_and_frozen_parameters_are_kept() -> None:
    model, ids = Shared(), torch.tensor([[1, 2, 3]])
    graph = sc.trace(model, ids)
    (width,) = graph.free
    assert width.size == 8
    small = sc.apply(model, graph.plan({width.name: [0, 2, 3]}))
    assert small.out.weight is small.embed.weight
    assert not small.twice.bias.requires_grad
    assert small.twice.weight.shape == (3, 3)
    assert small(ids)["logits"][0].shape == (1, 3, 11)


@dataclass
class Answer:
    """An output class of one's own."""

    logits: Tensor
    extra: SimpleNamespace


def test_outputs_in_objects_are_part_of_the_interface() -> None:
    class Wraps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = TwoInputs()

        def forward(self, x: Tensor) -> Answer:
            return Answer(self.net(x), SimpleNamespace(hidden=[self.net.a(x)]))

    graph = sc.trace(Wraps(), X)
    assert not graph.free
    assert graph["net.a.out_features"].frozen == "the model's output"


@torch.library.custom_op("secateur_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.flip(-1) * 2


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_unknown_operator_freezes_what_it_touches_and_is_named() -> None:
    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(F.relu(self.b(torch.ops.secateur_tests.mystery(self.a(x)))))

    graph = sc.trace(Unknown(), X)
    assert [w.name for w in graph.free] == ["b.out_features"]
    assert "mystery" in str(graph["a.out_features"].frozen)
    assert any("mystery" in note for note in graph.notes)
    assert "mystery" in str(graph)


def test_a_size_written_into_the_code_freezes_what_depends_on_it() -> None:
    class HardCoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).view(-1, 4, 2).relu().view(-1, 8))

    graph = sc.trace(HardCoded(), X)
    assert not graph.free
    assert any("written into the code" in str(w.frozen) for w in graph.widths)


def test_attributes_follow_their_widths() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.head_dim = 4, 6
            self.inner = self.num_heads * self.head_dim
            self.qkv, self.proj = nn.Linear(10, 3 * self.inner), nn.Linear(self.inner, 10)

        def forward(self, x: Tensor) -> Tensor:
            batch, tokens, _ = x.shape
            q, k, v = (
                self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
            )
            y = F.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2)
            return self.proj(y.reshape(batch, tokens, self.inner))

    model, x = Attention(), torch.randn(2, 5, 10)
    graph = sc.trace(model, x)
    assert {(w.name, w.kind) for w in graph.free} == {("num_heads", "heads"), ("head_dim", "head_dim")}
    rows = [[0, 3], [1, 2], [4, 5], [0, 1]]
    small = sc.apply(model, graph.plan({"num_heads": [0, 1, 3], "head_dim": rows}))
    assert (small.num_heads, small.head_dim, small.inner) == (3, 2, 6)
    kept = [h * 6 + d for h in (0, 1, 3) for d in rows[h]]
    assert torch.equal(small.proj.weight, model.proj.weight[:, kept])
    assert (model.num_heads, model.head_dim, model.inner) == (4, 6, 24)


def test_the_same_model_gives_the_same_graph() -> None:
    one, other = sc.trace(convolutional(), IMAGE), sc.trace(convolutional(), IMAGE)
    assert one == other
    assert sc.Graph.from_json(one.to_json()) == one


class _Routed(nn.Module):
    """One of two experts, by what the stem gives: a narrowed stem gives less, and the other one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)) for _ in range(2))
        nn.init.ones_(self.stem.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        return self.experts[0 if float(h.sum()) > 28 else 1](h)


def test_another_expert_than_the_traced_one_is_no_contradiction() -> None:
    graph = sc.trace(_Routed(), torch.ones(1, 4))
    assert graph["experts.0.0.out_features"].frozen is None
