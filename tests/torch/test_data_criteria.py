"""Criteria that look at data are exactly what their formulas say, whatever the order, the grouping and the layout of it."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from tests.zoo.shim import declare_torchvision_operators
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur.core.graph import Graph
from secateur.errors import ConfigError, InputError
from secateur.testing import check_criterion, small_batches, small_network
from secateur.torch.criteria import (
    APoZ,
    BrainSurgeon,
    Fisher,
    GateGradient,
    MeanRank,
    Random,
    SecondMoment,
    Taylor,
    make,
)
from secateur.torch.measuring.samples import Rows, contractions_of
from secateur.torch.measuring.targets import output_norm
from secateur.torch.running.contractions import Site, taps
from secateur.torch.running.data import Data
from secateur.torch.trace import trace

torch.set_num_threads(1)

Gate = Callable[[torch.Tensor], torch.Tensor]  # a gate [size] or [outer, size] to what multiplies a weight
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def on_columns(*, each: int = 1, times: int = 1) -> Gate:
    """A gate on axis 1, where each unit has ``each`` neighbouring positions and the whole occurs ``times``."""
    return lambda g: g.flatten().repeat_interleave(each).repeat(times)


@dataclass
class Case:
    """A network in float64, its data, and by hand: for each width the weights that sum over it."""

    model: nn.Module
    x: torch.Tensor
    readers: Mapping[str, Mapping[str, Gate]]

    def __post_init__(self) -> None:
        self.model = self.model.double().eval()
        self.x = self.x.double() if self.x.is_floating_point() else self.x
        self.y = torch.arange(len(self.x)) % 3
        self.graph: Graph = trace(self.model, self.x[:2])

    def batches(self, *sizes: int) -> Batches:
        return list(zip(self.x.split(sizes or len(self.x)), self.y.split(sizes or len(self.x)), strict=True))

    def gate_gradients(self, width: str, loss_of: Callable[..., torch.Tensor] = cross_entropy) -> np.ndarray:
        """∂L/∂gate of every sample, one at a time: a gate before a contraction scales the columns of its weight."""
        shape, found = self.shape(width), []
        for x, y in zip(self.x, self.y, strict=True):
            gate = torch.ones(shape, dtype=torch.float64, requires_grad=True)
            changed = {}
            for name, multiplier in self.readers[width].items():
                weight, factor = self.model.get_parameter(name).detach(), multiplier(gate)
                if factor.dim() == 1:
                    factor = factor.view(1, -1, *[1] * (weight.dim() - 2))
                changed[name] = weight * factor
            output = functional_call(self.model, changed, (x[None],))
            loss = loss_of(getattr(output, "logits", output), y[None])
            found.append(torch.autograd.grad(loss, gate)[0].numpy())
        return np.stack(found)

    def shape(self, width: str) -> tuple[int, ...]:
        outer = self.graph[width].outer
        return (() if outer is None else (self.graph[outer].size,)) + (self.graph[width].size,)


class Convolutions(nn.Module):
    """A depthwise convolution, one with a multiplier, a grouped transposed one, and a flattened head."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.depthwise, self.project = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 4, 1)
        self.multiply, self.up = nn.Conv2d(4, 8, 3, groups=4), nn.ConvTranspose2d(8, 6, 2, groups=2)
        self.head = nn.Linear(6 * 5 * 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.project(torch.relu(self.depthwise(torch.relu(self.norm(self.expand(x)))))))
        return self.head(torch.relu(self.up(torch.relu(self.multiply(x)))).flatten(1))


class Attention(nn.Module):
    """A transformer layer of torch's own; without ``batch_first`` samples are the second dimension."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embed, self.attention = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.norm, self.up, self.down, self.head = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return self.head((x if self.batch_first else x.transpose(0, 1)).mean(1))


def small() -> Case:
    model = small_network()
    model.head = nn.Linear(6, 3)
    with torch.no_grad():
        model.out.bias.add_(2.0)  # else the head sees zeros only
    stream = {"inner.weight": on_columns(), "grouped.weight": lambda g: g.repeat_interleave(8, 0)[..., None, None]}
    readers = {
        "stem.out_channels[1]": stream,
        "inner.out_channels": {"back.weight": on_columns()},
        "grouped.groups": {"inner.weight": on_columns(each=4), "qkv.weight": on_columns(each=8)},
        "grouped.out_channels[1]": {"qkv.weight": on_columns()},
        "num_heads": {"out.weight": on_columns(each=4)},
        "qkv.out_features[1]": {"out.weight": on_columns(times=4)},
        "out.out_features": {"head.weight": on_columns()},
    }
    return Case(model, torch.randn(5, 3, 6, 6), readers)


def convolutions() -> Case:
    rows = on_columns(times=2)
    readers = {
        "expand.out_channels": {"project.weight": on_columns()},  # the depthwise convolution only hands them on
        "up.groups": {"head.weight": on_columns(each=75)},
        "proj.out_channels[1]": {"up.weight": lambda g: g.flatten().repeat_interleave(2).view(-1, 1, 1, 1)},
        "multiply.out_channels[2]": {"up.weight": lambda g: g.repeat(4).view(-1, 1, 1, 1)},
        "up.out_channels": {"head.weight": lambda g: rows(g).repeat_interleave(25)},
    }
    readers["project.out_channels[1]"] = readers.pop("proj.out_channels[1]")
    return Case(Convolutions(), torch.randn(5, 3, 6, 6), readers)


def attention(*, batch_first: bool) -> Case:
    features = {"attention.in_proj_weight", "up.weight", "head.weight"}
    readers = {
        "attention.num_heads": {name: on_columns(each=4) for name in (*features, "attention.out_proj.weight")},
        "embed.out_features[1]": {name: on_columns(times=2) for name in (*features, "attention.out_proj.weight")},
        "up.out_features": {"down.weight": on_columns()},
    }
    return Case(Attention(batch_first=batch_first), torch.randn(5, 5, 6), readers)  # 5 samples of 5 tokens: no telling


def bert() -> Case:
    declare_torchvision_operators()
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=12,
        max_position_embeddings=8,
        num_labels=3,
    )
    layer = "bert.encoder.layer.0"
    projections = [f"{layer}.attention.self.{name}.weight" for name in ("query", "key", "value")]
    embedded = [*projections, f"{layer}.intermediate.dense.weight", "bert.pooler.dense.weight"]
    readers = {
        "bert.embeddings.word_embeddings.embedding_dim": dict.fromkeys(embedded, on_columns()),
        f"{layer}.attention.self.num_heads": {f"{layer}.attention.output.dense.weight": on_columns(each=4)},
        f"{layer}.attention.self.attention_head_size": {f"{layer}.attention.output.dense.weight": on_columns(times=4)},
        f"{layer}.intermediate.dense.out_features": {f"{layer}.output.dense.weight": on_columns()},
        "bert.pooler.dense.out_features": {"classifier.weight": on_columns()},
    }
    return Case(BertForSequenceClassification(config), torch.randint(0, 50, (5, 6)), readers)


def made(make_case: Callable[[], Case]) -> Case:
    torch.manual_seed(0)
    return make_case()


CASES = {
    "small": made(small),
    "convolutions": made(convolutions),
    "attention": made(lambda: attention(batch_first=True)),
    "attention_tokens_first": made(lambda: attention(batch_first=False)),
    "bert": made(bert),
}
SMALL = CASES["small"]


@pytest.mark.parametrize("name", CASES)
class TestGates:
    def test_every_free_width_is_judged(self, name):
        case = CASES[name]
        assert set(GateGradient(data_loader=case.batches())(case.graph, case.model)) == set(case.readers)

    def test_a_gate_gradient_is_the_gradient_of_a_gate(self, name):
        case = CASES[name]
        scores = GateGradient(data_loader=case.batches())(case.graph, case.model)
        for width in case.readers:
            expected = np.square(case.gate_gradients(width)).mean(0)
            assert expected.max() > 0, width
            assert np.allclose(scores[width], expected, rtol=1e-6, atol=1e-12), width

    def test_the_output_may_stand_for_the_loss(self, name):
        case = CASES[name]
        scores = GateGradient(data_loader=[case.x], target="output")(case.graph, case.model)
        for width in case.readers:
            expected = np.square(case.gate_gradients(width, lambda z, _: (z - z.mean()).norm())).mean(0)
            assert np.allclose(scores[width], expected, rtol=1e-6, atol=1e-12), width

    def test_taylor_on_activations_is_its_absolute_value(self, name):
        case = CASES[name]
        scores = Taylor(data_loader=case.batches())(case.graph, case.model)
        for width in case.readers:
            assert np.allclose(scores[width], np.abs(case.gate_gradients(width)).mean(0), rtol=1e-6, atol=1e-12), width

    def test_a_batch_as_a_whole_has_the_gradient_of_its_loss(self, name):
        case = CASES[name]
        scores = GateGradient(data_loader=case.batches(2, 3), per="batch")(case.graph, case.model)
        for width in case.readers:
            s = case.gate_gradients(width)
            expected = (np.square(s[:2].mean(0)) + np.square(s[2:].mean(0))) / 2
            assert np.allclose(scores[width], expected, rtol=1e-6, atol=1e-12), width


PER_SAMPLE = [
    GateGradient(),
    GateGradient(target="output"),
    BrainSurgeon(),
    Taylor(),
    Taylor(of="element"),
    Taylor(of="element", power=2),
    Fisher(),
    SecondMoment(),
    APoZ(),
    MeanRank(),
    APoZ(activation="relu6"),
]
PER_BATCH = [
    GateGradient(per="batch"),
    Fisher(per="batch"),
    *(Taylor(on="weight", of=of, power=power) for of in ("unit", "element") for power in (1, 2)),
]


def scored(criterion: Any, case: Case, batches: Batches) -> dict[str, np.ndarray]:
    return make(criterion, Data(loader=batches))(case.graph, case.model)


def assert_close(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert np.allclose(first[name], second[name], rtol=1e-6, atol=1e-12), name


@pytest.mark.parametrize("criterion", [*PER_SAMPLE, *PER_BATCH], ids=repr)
def test_the_order_of_batches_does_not_matter(criterion):
    batches = SMALL.batches(1, 2, 2)
    assert_close(scored(criterion, SMALL, batches), scored(criterion, SMALL, batches[::-1]))


@pytest.mark.parametrize("criterion", PER_SAMPLE, ids=repr)
@pytest.mark.parametrize("name", ["small", "attention_tokens_first", "bert"])
def test_the_size_of_batches_does_not_matter(criterion, name):
    case = CASES[name]
    whole = scored(criterion, case, case.batches())
    assert_close(whole, scored(criterion, case, case.batches(2, 2, 1)))
    assert_close(whole, scored(criterion, case, case.batches(1, 1, 1, 1, 1)))


KIT = [
    *((criterion, {"non_negative": not isinstance(criterion, MeanRank)}) for criterion in PER_SAMPLE),
    *((criterion, {"per_sample": False}) for criterion in PER_BATCH),
]


@pytest.mark.parametrize("check", [check for c, options in KIT for check in check_criterion(c, **options)], ids=str)
def test_our_data_driven_criteria_pass_the_kit(check):
    check()


class Careless(Taylor):
    """Breaks one promise of those who look at data, to see that the kit notices."""

    breaks = ""
    __slots__ = ()

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, np.ndarray]:
        assert self.data is not None
        batches = list(self.data.loader)
        match self.breaks:
            case "says_the_same_twice":
                return {name: values + np.random.rand() for name, values in super().__call__(graph, model).items()}
            case "does_not_depend_on_the_order_of_batches":
                return make(Taylor(), Data(loader=batches[:1]))(graph, model)
            case "does_not_depend_on_the_size_of_batches":
                return make(Taylor(on="weight"), self.data)(graph, model)
            case "judges_in_evaluation_mode":
                scale = 1 + model.training
                return {name: values * scale for name, values in make(Taylor(), self.data)(graph, model).items()}
            case "leaves_a_model_in_training_alone":
                model.stem.weight.requires_grad_()  # type: ignore[union-attr]
            case "leaves_the_model_alone_after_an_error":
                model.eval()
        found = make(Taylor(), self.data)(graph, model)
        return found


NEW_PROMISES = [str(check) for check in check_criterion(Taylor())][len(list(check_criterion(make("l1")))) :]


@pytest.mark.parametrize("promise", NEW_PROMISES)
def test_the_kit_notices_a_broken_promise(promise, monkeypatch):
    monkeypatch.setattr(Careless, "breaks", promise)
    (check,) = [check for check in check_criterion(Careless()) if check.name == promise]
    with pytest.raises(AssertionError):
        check()


class Crossed(nn.Module):
    """Attention with narrow keys, written out: what query and key are multiplied over is read by no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attention = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), dim=-1)
        return self.head((attention @ self.value(x)).mean(1))


def rows(*, each: int) -> Gate:
    return lambda g: g.repeat_interleave(each).view(-1, 1)


def test_a_width_that_no_weight_reads_is_seen_where_it_is_produced():
    torch.manual_seed(0)
    model = Crossed()
    with torch.no_grad():
        model.query.bias.zero_()  # so that a gate on the rows of its weight is a gate on the query
    case = Case(model, torch.randn(5, 7, 6), {"query.out_features": {"query.weight": rows(each=1)}})
    scores = GateGradient(data_loader=case.batches(2, 3))(case.graph, case.model)
    assert set(scores) == {"query.out_features", "value.out_features"}
    assert np.allclose(scores["query.out_features"], np.square(case.gate_gradients("query.out_features")).mean(0))


class Stacked(nn.Module):
    """Two recurrent layers: no contraction that can be watched reads what the first one gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(5, 4, batch_first=True), nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)[0])[0][:, -1])


def test_a_width_that_no_activation_shows_is_judged_by_its_parameters():
    torch.manual_seed(0)
    model = Stacked()
    readers = {"second.hidden_size": {"head.weight": on_columns()}}
    case = Case(model, torch.randn(4, 3, 5), readers)
    scores = GateGradient(data_loader=case.batches())(case.graph, case.model)
    assert set(scores) == {"first.hidden_size", "second.hidden_size"}
    assert np.allclose(scores["second.hidden_size"], np.square(case.gate_gradients("second.hidden_size")).mean(0))
    loss = cross_entropy(model(case.x), case.y)
    weights = {"first.weight_ih_l0": 0, "first.weight_hh_l0": 0, "second.weight_ih_l0": 1}
    slopes = []
    for name, axis in [*weights.items(), ("first.weight_hh_l0", 1)]:
        w = model.get_parameter(name)
        product = (w * torch.autograd.grad(loss, w, retain_graph=True)[0]).detach()
        slopes.append(product.sum(1 - axis).view(-1, 4).sum(0))
    assert np.allclose(scores["first.hidden_size"], torch.stack(slopes).mean(0).square().numpy(), rtol=1e-6)


class Mixed(nn.Module):
    """Every sample takes the mean of all of them: what a row means for which sample cannot be told."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        return self.head(torch.tanh(self.two(x + x.mean(0, keepdim=True))))


def test_what_cannot_be_told_apart_is_shared_out_evenly():
    torch.manual_seed(0)
    case = Case(Mixed(), torch.randn(4, 6), {})
    seen = contractions_of(case.model, case.x)
    assert seen.rows == {("one.weight", 0): Rows(0, True), ("two.weight", 0): None, ("head.weight", 0): None}
    whole = GateGradient(data_loader=case.batches(), per="batch")(case.graph, case.model)
    assert_close(GateGradient(data_loader=case.batches())(case.graph, case.model), whole)


class TestRows:
    @pytest.mark.parametrize("name", ["attention", "attention_tokens_first"])
    def test_the_layout_is_found_though_samples_and_tokens_are_as_many(self, name):
        case = CASES[name]
        found = contractions_of(case.model, case.x).rows
        assert found["attention.in_proj_weight", 0] == Rows(1, True)  # torch's own code puts tokens first
        assert found["attention.out_proj.weight", 0] == Rows(0, False)
        assert found["up.weight", 0] == Rows(0 if name == "attention" else 1, True)

    def test_equal_samples_leave_the_usual_layout(self):
        case = CASES["attention"]
        assert set(contractions_of(case.model, torch.ones_like(case.x)).rows.values()) == {Rows(0, True)}

    def test_rows_are_told_apart(self):
        values = torch.arange(6.0).unsqueeze(-1)
        assert Rows(0, True).by_sample(values, 2).flatten(1).tolist() == [[0, 1, 2], [3, 4, 5]]
        assert Rows(0, False).by_sample(values, 2).flatten(1).tolist() == [[0, 2, 4], [1, 3, 5]]


def batch_normed() -> Case:
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.GELU(), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(20, 3))
    nn.init.uniform_(model[1].weight, -1, 1)
    return Case(model, torch.randn(5, 3, 6, 6), {})


class TestActivations:
    case = batch_normed()

    def after(self, layer: int) -> np.ndarray:
        """``[channels, everything else]``"""
        return self.case.model[: layer + 1](self.case.x).detach().transpose(0, 1).flatten(1).numpy()

    def scores(self, criterion: Any) -> list[np.ndarray]:
        return list(scored(criterion, self.case, self.case.batches(2, 3)).values())

    def test_apoz_is_the_share_that_is_not_zero_where_it_is_read(self):
        first, second = self.scores(APoZ())
        assert np.allclose(first, (self.after(2) > 0).mean(1))
        assert 0 < first.min() < first.max() < 1
        assert np.allclose(second, 1), "a gelu gives no zeros"

    def test_mean_rank_is_the_mean_after_the_activation(self):
        first, second = self.scores(MeanRank())
        assert np.allclose(first, self.after(2).mean(1))
        assert np.allclose(second, self.after(4).mean(1))

    def test_second_moment(self):
        first, second = self.scores(SecondMoment(normalizer=None))
        assert np.allclose(first, np.square(self.after(2)).mean(1))
        assert np.allclose(second, np.square(self.after(4)).mean(1))

    @pytest.mark.parametrize("name", ["relu", "relu6", "gelu", "silu"])
    def test_a_named_activation_is_put_on_what_the_layer_gives(self, name):
        first, second = self.scores(MeanRank(activation=name))
        function = getattr(nn.functional, name)
        for scores, layer in ((first, 0), (second, 3)):
            assert np.allclose(scores, function(torch.from_numpy(self.after(layer))).mean(1)), layer

    def test_heads_are_judged_by_all_that_they_hold(self):
        case = CASES["attention"]
        seen = {}

        class Keep:
            def before(self, site: Site) -> torch.Tensor:
                seen[site.name] = site.x
                return site.x

            def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
                return y

        with taps(case.model, Keep()):
            case.model(case.x)
        scores = scored(SecondMoment(normalizer=None), case, case.batches())
        readers = ("attention.in_proj_weight", "attention.out_proj.weight", "up.weight", "head.weight")
        values = torch.cat([seen[name].detach().reshape(-1, 2, 4).transpose(0, 1).flatten(1) for name in readers], 1)
        assert np.allclose(scores["attention.num_heads"], values.square().mean(1))


class TestWeights:
    case = batch_normed()

    def slopes(self, *, each: int) -> list[list[np.ndarray]]:
        """w · ∂L/∂w of the tensors that carry the first width, as ``[units, everything else]``, for each batch."""
        found = []
        for x, y in zip(self.case.x.split(each), self.case.y.split(each), strict=True):
            weights = [self.case.model[0].weight, self.case.model[1].weight, self.case.model[3].weight]
            grads = torch.autograd.grad(cross_entropy(self.case.model(x), y), weights)
            products = [(w * g).detach() for w, g in zip(weights, grads, strict=True)]
            first, scale, columns = products
            found.append([t.flatten(1).numpy() for t in (first, scale[:, None], columns.transpose(0, 1))])
        return found

    def first(self, criterion: Any, *sizes: int) -> np.ndarray:
        return scored(criterion, self.case, self.case.batches(*sizes))[self.case.graph.free[0].name]

    @pytest.mark.parametrize("power", [1, 2])
    def test_taylor_of_units_and_of_elements(self, power):
        batches = self.slopes(each=3)
        by_unit = [np.mean([np.abs(t.sum(1)) ** power for t in tensors], axis=0) for tensors in batches]
        by_element = [np.mean([(np.abs(t) ** power).sum(1) for t in tensors], axis=0) for tensors in batches]
        for of, values in (("unit", by_unit), ("element", by_element)):
            scores = self.first(Taylor(on="weight", of=of, power=power), 3, 2)
            assert np.allclose(scores, np.average(values, axis=0, weights=[3, 2])), of

    def test_fisher_is_the_mean_square_over_single_samples(self):
        squares = [np.mean([np.square(t).sum(1) for t in tensors], axis=0) for tensors in self.slopes(each=1)]
        assert np.allclose(self.first(Fisher(), 3, 2), np.mean(squares, axis=0) / 2)


DATA_DRIVEN = ["gate_gradient", "brain_surgeon", "taylor", "fisher", "second_moment", "apoz", "mean_rank"]


class TestSources:
    @pytest.mark.parametrize("name", DATA_DRIVEN)
    def test_each_is_found_by_its_name_and_takes_the_data_of_a_mode(self, name):
        criterion = make(name, Data(loader=SMALL.batches()))
        assert criterion.name == name
        assert criterion(SMALL.graph, SMALL.model).keys() == SMALL.readers.keys()

    @pytest.mark.parametrize("name", DATA_DRIVEN)
    def test_without_data_it_says_what_to_do(self, name):
        for ask in (lambda: make(name), lambda: sc.plan(SMALL.graph, name, {"macs": "50%"})):
            with pytest.raises(
                ConfigError, match=rf"criterion '{name}' looks at data and was given none: pass a data_lo"
            ):
                ask()

    def test_its_own_data_comes_first(self):
        own = Taylor(data_loader=SMALL.batches())
        assert make(own, Data(loader=SMALL.batches()[:1])) is own

    def test_a_criterion_of_weights_needs_no_data_and_takes_none(self):
        assert make("l1", Data(loader=SMALL.batches())) == make("l1")

    def test_two_sources_are_one_too_many(self):
        with pytest.raises(ConfigError, match="taylor: data_loader and forward_loop are given: one of them"):
            Taylor(data_loader=[], forward_loop=lambda model: None)

    @pytest.mark.parametrize(
        ("make_it", "message"),
        [
            (lambda: Taylor(on="weights"), "on is one of activation, weight, not 'weights'. Did you mean 'weight'"),
            (lambda: Taylor(of="units"), "of is one of unit, element, not 'units'. Did you mean 'unit'"),
            (lambda: Taylor(power=3), "power is 1 or 2, not 3"),
            (lambda: GateGradient(per="token"), "per is one of sample, batch, not 'token'"),
            (lambda: Taylor(target="logits"), "target is one of loss, output, agreement, not 'logits'"),
            (lambda: APoZ(activation="relu66"), "activation is one of relu, .* not 'relu66'. Did you mean 'relu6'"),
            (lambda: Fisher(num_batches=0), "fisher: num_batches is at least 1, not 0"),
        ],
    )
    def test_options_that_mean_nothing_are_refused(self, make_it, message):
        with pytest.raises(ConfigError, match=message):
            make_it()

    def test_a_forward_loop_gives_the_same_scores(self):
        def loop(model: nn.Module) -> None:
            for x, _ in SMALL.batches(2, 3):
                model(x)

        found = SecondMoment(forward_loop=loop)(SMALL.graph, SMALL.model)
        assert_close(found, SecondMoment(data_loader=SMALL.batches())(SMALL.graph, SMALL.model))

    def test_only_so_many_batches_are_used(self):
        few = Taylor(data_loader=SMALL.batches(2, 2, 1), num_batches=2)(SMALL.graph, SMALL.model)
        assert_close(few, Taylor(data_loader=SMALL.batches(2, 2, 1)[:2])(SMALL.graph, SMALL.model))

    def test_a_loss_of_ones_own_and_what_of_a_batch_the_model_takes(self):
        batches = [{"image": x, "label": y} for x, y in SMALL.batches(2, 3)]
        criterion = GateGradient(
            data_loader=batches,
            collect_func=lambda batch: batch["image"],
            loss_func=lambda output, batch: cross_entropy(output, batch["label"]),
        )
        expected = GateGradient(data_loader=SMALL.batches())(SMALL.graph, SMALL.model)
        assert_close(criterion(SMALL.graph, SMALL.model), expected)

    def test_a_plan_records_the_options_and_not_the_data(self):
        class Loader(list):
            def __deepcopy__(self, memo: Any) -> Any:
                raise AssertionError("the data was copied")

        record = sc.plan(SMALL.graph, Taylor(data_loader=Loader(SMALL.batches())), {"macs": "50%"}).provenance
        assert record["criterion"] == {
            "name": "taylor",
            "num_batches": 50,
            "on": "activation",
            "of": "unit",
            "target": "loss",
            "power": 1,
            "reduction": "mean",
            "normalizer": None,
            "bias": False,
        }

    @pytest.mark.parametrize("criterion", [*DATA_DRIVEN, Taylor(on="weight")], ids=str)
    def test_the_magnitude_mode_hands_on_its_data(self, criterion):
        config = {"criterion": criterion, "data_loader": small_batches()}
        example = torch.zeros(2, 3, 6, 6)
        _, result = sc.prune(small_network(), "magnitude", {"macs": "60%"}, example, config)
        named = make(criterion, Data(loader=small_batches()))
        graph = trace(small_network(), example)
        assert result.plan.kept == sc.plan(graph, named, {"macs": "60%"}).kept


class TestCircumstances:
    def test_frozen_parameters_are_no_obstacle(self):
        model = copy.deepcopy(SMALL.model).requires_grad_(False)
        assert_close(
            GateGradient(data_loader=SMALL.batches())(SMALL.graph, model),
            GateGradient(data_loader=SMALL.batches())(SMALL.graph, SMALL.model),
        )
        assert not any(p.requires_grad or p.grad is not None for p in model.parameters())

    @pytest.mark.parametrize("criterion", [GateGradient(), Fisher(), Taylor(on="weight"), APoZ()], ids=repr)
    @pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
    def test_autograd_may_be_off(self, criterion, around):
        expected = scored(criterion, SMALL, SMALL.batches())
        with around():
            assert_close(scored(criterion, SMALL, SMALL.batches()), expected)

    @pytest.mark.parametrize("criterion", [*PER_SAMPLE, *PER_BATCH], ids=repr)
    def test_it_works_under_autocast(self, criterion):
        model = small_network()
        graph = trace(model, torch.zeros(2, 3, 6, 6))
        judge = make(criterion, Data(loader=small_batches()))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = judge(graph, model)
        for name, values in judge(graph, model).items():
            assert np.allclose(found[name], values, rtol=0.1, atol=0.2 * np.abs(values).max()), name

    def test_a_loss_that_depends_on_nothing_is_refused(self):
        criterion = Taylor(data_loader=SMALL.batches(), loss_func=lambda output, batch: output.detach().sum())
        with pytest.raises(InputError, match="the loss does not depend on what is judged"):
            criterion(SMALL.graph, SMALL.model)

    def test_a_loss_that_is_not_finite_is_refused(self):
        criterion = Taylor(data_loader=SMALL.batches(), loss_func=lambda output, batch: output.sum() * torch.inf)
        with pytest.raises(InputError, match="activations or gradients are not finite"):
            criterion(SMALL.graph, SMALL.model)

    def test_an_input_that_is_overwritten_is_refused_rather_than_misread(self):
        class Overwriting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.one(x)
                y = self.two(x)
                x *= 2
                return y + self.three(x)

        torch.manual_seed(0)
        case = Case(Overwriting(), torch.randn(4, 4), {})
        with pytest.raises(InputError, match=r"two\.weight: the model overwrites its input in place"):
            Taylor(data_loader=case.batches())(case.graph, case.model)


class TestOutputNorm:
    def test_classes_are_the_last_dimension_or_that_of_maps(self):
        z = torch.randn(4, 3, 5, 6)
        maps = (z - z.mean(1, keepdim=True)).flatten(1).norm(dim=1).mean()
        assert torch.allclose(output_norm(z), maps)
        rows = (z[..., 0] - z[..., 0].mean(2, keepdim=True)).flatten(1).norm(dim=1).mean()
        assert torch.allclose(output_norm({"first": z[..., 0], "second": z}), rows)

    def test_a_single_number_is_not_centred_away(self):
        assert output_norm(torch.tensor([[3.0], [-5.0]])) == 4

    def test_an_output_without_numbers_is_refused(self):
        with pytest.raises(InputError, match=r'target="output" needs an output with \.logits'):
            output_norm((torch.ones(2, 2, dtype=torch.long),))


def digits() -> tuple[nn.Module, Graph, Batches, torch.Tensor, torch.Tensor]:
    """A small network trained on real digits, its training batches, and a test part."""
    from sklearn.datasets import load_digits

    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float().view(-1, 1, 8, 8) / 16
    torch.manual_seed(0)
    order = torch.randperm(len(images))
    train, test = order[:1200], order[1200:]
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(5):
        for some in train[torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))].split(64):
            optimizer.zero_grad()
            cross_entropy(model(images[some]), labels[some]).backward()
            optimizer.step()
    batches = [(images[some], labels[some]) for some in train[:256].split(64)]
    return model.eval(), trace(model.eval(), images[:2]), batches, images[test], labels[test]


def test_on_real_digits_looking_at_data_beats_drawing_lots():
    model, graph, batches, images, labels = digits()

    def accuracy(scores: Any) -> float:
        found = sc.plan(graph, scores, {"macs": "50%"})
        with sc.subnet(model, found, data_loader=batches), torch.no_grad():
            return (model(images).argmax(1) == labels).double().mean().item()

    by_lot = np.mean([accuracy(Random(seed=seed)) for seed in range(8)])
    for name in DATA_DRIVEN:
        scores = make(name, Data(loader=batches))(graph, model)
        assert accuracy(scores) > by_lot, name
        assert accuracy(scores) > accuracy({name: -values for name, values in scores.items()}) + 0.02, name
