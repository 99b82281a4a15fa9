"""Criteria say what the papers say, for every layout, and read the model without touching it."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.handmade import chain
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Axis, alongs_of, kept_indices, widths_of
from secateur.errors import ConfigError, InputError
from secateur.testing import check_criterion, small_network
from secateur.torch.criteria import CRITERIA, FPGM, L1, L2, LAMP, BatchNormScale, Random, make
from secateur.torch.criteria.reduction import NORMALIZERS, REDUCTIONS, lamp
from secateur.torch.measuring import norms as sums_module
from secateur.torch.measuring.norms import power_matrix, power_sums
from secateur.torch.trace import trace

torch.set_num_threads(1)

KIT = [
    *((criterion, {}) for criterion in (L1(), L2(), BatchNormScale(), LAMP(), FPGM())),
    *((L2(reduction=reduction), {}) for reduction in REDUCTIONS),
    *((L1(normalizer=name), {"non_negative": name != "gaussian"}) for name in (None, *NORMALIZERS)),
    (L1(bias=True), {}),
    (Random(seed=3), {"equivariant": False}),
]


@pytest.mark.parametrize("check", [check for c, options in KIT for check in check_criterion(c, **options)], ids=str)
def test_our_own_criteria_pass_the_kit(check):
    check()


class Mine:
    """Breaks one promise at a time, to see that the kit notices."""

    name = "mine"

    def __init__(self, breaks: str) -> None:
        self.breaks, self.calls = breaks, 0

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, np.ndarray]:
        self.calls += 1
        scores = L1()(graph, model)
        name = next(iter(scores))
        match self.breaks:
            case "scores_free_widths_only":
                scores["head.out_features"] = np.ones(4)
            case "has_one_score_for_each_unit":
                scores[name] = scores[name][:-1]
            case "is_finite":
                scores[name][0] = np.nan
            case "is_never_negative":
                scores[name][0] = -1
            case "follows_a_permutation_of_units":
                scores[name] = np.arange(scores[name].size, dtype=float)
            case "does_not_read_gradients":
                scores[name] += sum(p.grad.sum().item() for p in model.parameters() if p.grad is not None)
            case "does_not_touch_random_state":
                torch.rand(1)
            case "leaves_the_model_alone":
                model.train(not model.training)
            case "works_in_bfloat16":
                scores[name] *= 1 + (next(model.parameters()).dtype == torch.bfloat16)
        return scores


@pytest.mark.parametrize(
    "promise", [str(c) for c in check_criterion(L1()) if str(c) not in ("has_a_name", "works_in_float64")]
)
def test_the_kit_notices_a_broken_promise(promise):
    (check,) = [check for check in check_criterion(Mine(promise)) if check.name == promise]
    with pytest.raises(AssertionError):
        check()


class Everything(nn.Module):
    """Transposed, depthwise and ordinary convolutions, a concatenation, a shared embedding, a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.unembed = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.unembed.weight = self.embed.weight
        self.one, self.two = nn.Linear(8, 6), nn.Linear(8, 10)
        self.depthwise = nn.Conv1d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose1d(16, 12, 1)
        self.recurrent, self.back = nn.LSTM(12, 8, batch_first=True), nn.Linear(8, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        both = torch.relu(torch.cat([self.one(x), self.two(x)], dim=-1)).transpose(1, 2)
        y = torch.relu(self.up(torch.relu(self.depthwise(both)))).transpose(1, 2)
        return self.unembed(x + self.back(self.recurrent(y)[0]))


class Tied(nn.Module):
    """An embedding that is the output projection too, around one residual layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.unembed = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.unembed.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        return self.unembed(x + self.inner(x))


def networks() -> dict[str, tuple[nn.Module, Graph]]:
    torch.manual_seed(0)
    small, everything = small_network(), Everything().eval()
    return {
        "small": (small, trace(small, torch.zeros(2, 3, 6, 6))),
        "everything": (everything, trace(everything, torch.zeros(2, 5, dtype=torch.long))),
    }


NETWORKS = networks()


def counting(graph: Graph, model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The parameters that count, each tensor once."""
    named = {name: tensor for name, tensor in model.named_parameters() if "bias" not in name.rpartition(".")[2]}
    return [(name, tensor) for name, tensor in named.items() if name in graph.layouts]


def positions(made_of: Axis, width: str, unit: int) -> list[int]:
    """Where on an axis a unit is: what is gone when all but this unit are kept."""
    size = next(u.size for u in alongs_of(made_of) if u.width == width)
    left = kept_indices(made_of, {width: np.delete(np.arange(size), unit)})
    return sorted(set(range(made_of.size)) - set(left.tolist()))


def by_hand(graph: Graph, model: nn.Module, width: str, place: tuple[int, ...], power: float) -> float:
    """The norm of one unit, by picking its slice out of each axis of each tensor."""
    said, outer = [], graph[width].outer
    for name, tensor in counting(graph, model):
        for axis, made_of in enumerate(graph.layouts[name]):
            if width not in widths_of(made_of):
                continue
            piece, here = tensor.detach().double().abs() ** power, positions(made_of, width, place[-1])
            if len(place) > 1 and outer in widths_of(made_of):
                here = sorted(set(here) & set(positions(made_of, outer, place[0])))
            elif len(place) > 1:
                (other,) = [i for i, also in enumerate(graph.layouts[name]) if outer in widths_of(also)]
                there = positions(graph.layouts[name][other], outer, place[0])
                piece = piece.index_select(other, torch.tensor(there))
            said.append(piece.index_select(axis, torch.tensor(here)).sum().item())
    return float(np.mean(said)) ** (1 / power)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("criterion", "power"), [(L1(normalizer=None), 1), (L2(normalizer=None), 2)])
def test_magnitudes_are_the_norms_of_the_slices(network, criterion, power):
    model, graph = NETWORKS[network]
    scores = criterion(graph, model)
    assert set(scores) == {w.name for w in graph.free}
    for width in graph.free:
        for place in np.ndindex(scores[width.name].shape):
            expected = by_hand(graph, model, width.name, place, power)
            assert scores[width.name][place] == pytest.approx(expected, rel=1e-5), (width.name, place)


def test_tied_weights_count_once():
    torch.manual_seed(0)
    model = Tied()
    graph = trace(model, torch.zeros(2, 5, dtype=torch.long))
    (stream,) = [w.name for w in graph.free]
    columns = [model.embed.weight, model.inner.weight, model.inner.weight.t()]
    expected = sum(weight.detach().abs().sum(0) for weight in columns) / 3
    assert np.allclose(L1(normalizer=None)(graph, model)[stream], expected.numpy(), rtol=1e-5)


def batch_normed() -> tuple[nn.Module, Graph]:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    return model.eval(), trace(model.eval(), torch.zeros(1, 3, 8, 8))


def test_batch_norm_really_counts():
    model, graph = batch_normed()
    before = L1(normalizer=None)(graph, model)
    with torch.no_grad():
        model[1].weight[3] = 100.0
    after = L1(normalizer=None)(graph, model)
    first, second = (w.name for w in graph.free)
    assert after[first][3] == pytest.approx(before[first][3] + 99 / 3, rel=1e-5), "one of three tensors says 99 more"
    assert np.array_equal(np.delete(after[first], 3), np.delete(before[first], 3))
    assert np.array_equal(after[second], before[second])


def test_batch_norm_scale_is_the_scale_and_leaves_other_widths_out():
    model, graph = batch_normed()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -2, 3, 4, 0, 6, 7, 8]))
    scores = BatchNormScale(normalizer=None)(graph, model)
    assert {name: values.tolist() for name, values in scores.items()} == {graph.free[0].name: [1, 2, 3, 4, 0, 6, 7, 8]}


def test_batch_norm_scale_without_batch_norm_says_what_to_do():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(InputError, match=r"no free width passes a batch norm .* such as l1"):
        BatchNormScale()(trace(model, torch.zeros(1, 4)), model)


def test_biases_count_only_when_asked_for():
    model, graph = batch_normed()
    name = graph.free[1].name
    without, with_bias = L1(normalizer=None)(graph, model)[name], L1(normalizer=None, bias=True)(graph, model)[name]
    assert np.allclose(3 * with_bias, 2 * without + model[3].bias.detach().abs().numpy(), rtol=1e-5)


def test_lamp_is_the_share_among_all_that_are_not_smaller():
    assert np.allclose(lamp(np.array([1.0, 4, 9])), [1 / 14, 4 / 13, 1])
    assert np.allclose(lamp(np.array([9.0, 1, 4])), [1, 1 / 14, 4 / 13])


def test_lamp_gives_equal_units_equal_scores():
    assert np.allclose(lamp(np.array([2.0, 2, 1, 1])), [1 / 2, 1 / 2, 1 / 6, 1 / 6])
    assert lamp(np.zeros(3)).tolist() == [0, 0, 0]


def test_lamp_ranks_as_the_euclidean_norm():
    model, graph = NETWORKS["small"]
    norms, shares = L2()(graph, model), LAMP()(graph, model)
    for name in norms:
        assert np.array_equal(np.argsort(norms[name], axis=None), np.argsort(shares[name], axis=None)), name


class TestFPGM:
    def test_it_sums_the_distances_between_raw_slices(self):
        model, graph = batch_normed()
        first = graph.free[0].name
        rows = model[0].weight.detach().flatten(1).double()
        columns = model[3].weight.detach().transpose(0, 1).flatten(1).double()
        expected = (torch.cdist(rows, rows).sum(1) + torch.cdist(columns, columns).sum(1)) / 2
        assert np.allclose(FPGM(normalizer=None)(graph, model)[first], expected.numpy(), rtol=1e-4)

    def test_the_sign_of_weights_matters(self):
        """A peer measures distances between squared magnitudes: there w and −w are the same filter."""
        model, graph = batch_normed()
        with torch.no_grad():
            model[0].weight[1] = -model[0].weight[0]
            model[0].weight[2] = model[0].weight[0]
            for i in (1, 2):
                model[3].weight[:, i] = model[3].weight[:, 0]
        score = FPGM()(graph, model)[graph.free[0].name]
        assert score[0] == pytest.approx(score[2], rel=1e-5)
        assert score[1] > 1.01 * score[0]

    def test_units_that_are_copies_of_each_other_are_at_no_distance(self):
        model, graph = batch_normed()
        with torch.no_grad():
            for layer in (model[0], model[3]):
                layer.weight.copy_(torch.ones_like(layer.weight))
        assert np.allclose(FPGM(normalizer=None)(graph, model)[graph.free[0].name], 0, atol=1e-4)

    def test_ragged_widths_are_compared_inside_their_outer_index(self):
        model, graph = NETWORKS["small"]
        (name,) = [w.name for w in graph.free if w.outer and "stem.weight" in {use.tensor for use in w.uses}]
        weight = model.grouped.weight.detach().double().unflatten(0, (2, 8))  # group, out, in, h, w
        slices = weight.movedim(2, 1).flatten(2)
        across = torch.cdist(slices, slices).sum(-1)
        others = [model.stem.weight.detach(), model.inner.weight.detach().transpose(0, 1), model.back.weight.detach()]
        said = [across]
        for tensor in others:
            rows = tensor.double().unflatten(0, (2, 4)).flatten(2)
            said.append(torch.cdist(rows, rows).sum(-1))
        assert np.allclose(FPGM(normalizer=None)(graph, model)[name], torch.stack(said).mean(0).numpy(), rtol=1e-4)


class TestReduction:
    def test_reductions_of_two_tensors(self):
        said = np.array([[1.0, 4], [9, 1]])
        found = {name: REDUCTIONS[name](said).tolist() for name in REDUCTIONS}
        assert found == {
            "first": [1, 4],
            "max": [9, 4],
            "mean": [5, 2.5],
            "prod": pytest.approx([3, 2]),
            "sum": [10, 5],
        }

    def test_a_product_of_many_tensors_does_not_overflow(self):
        assert np.isfinite(REDUCTIONS["prod"](np.full((400, 3), 1e5))).all()
        assert REDUCTIONS["prod"](np.array([[0.0, 1], [5, 1]])).tolist() == [0, 1]

    def test_normalizers(self):
        values = np.array([1.0, 2, 3, 6])
        assert NORMALIZERS["mean"](values).mean() == pytest.approx(1)
        assert NORMALIZERS["sum"](values).sum() == pytest.approx(1)
        assert NORMALIZERS["max"](values).max() == 1
        assert (NORMALIZERS["standardization"](values).min(), NORMALIZERS["standardization"](values).max()) == (0, 1)
        assert NORMALIZERS["gaussian"](values).mean() == pytest.approx(0)
        assert NORMALIZERS["gaussian"](values).std() == pytest.approx(1)

    @pytest.mark.parametrize("name", list(NORMALIZERS))
    @pytest.mark.parametrize("values", [np.zeros(4), np.ones(4), np.ones(1), np.zeros((2, 3))])
    def test_no_normalizer_divides_by_zero(self, name, values):
        assert np.isfinite(NORMALIZERS[name](values)).all()

    @pytest.mark.parametrize("criterion", [L1, L2, BatchNormScale, FPGM])
    def test_an_unknown_reduction_or_normalizer_names_the_nearest(self, criterion):
        with pytest.raises(ConfigError, match=r"no reduction is called 'men'. Did you mean 'mean'"):
            criterion(reduction="men")
        with pytest.raises(ConfigError, match=r"no normalizer is called 'gausian'. Did you mean 'gaussian'"):
            criterion(normalizer="gausian")


class TestRandom:
    def test_the_seed_decides(self):
        model, graph = NETWORKS["small"]
        first, again, other = Random(seed=1)(graph, model), Random(seed=1)(graph, model), Random(seed=2)(graph, model)
        assert all(np.array_equal(first[name], again[name]) for name in first)
        assert not any(np.array_equal(first[name], other[name]) for name in first)

    def test_widths_of_one_size_get_scores_of_their_own(self):
        first, second = Random()(chain(8, 8), nn.Identity()).values()
        assert not np.array_equal(first, second)

    def test_a_width_does_not_depend_on_the_others(self):
        model, graph = NETWORKS["small"]
        fewer = graph.with_widths(w for w in graph.widths if w.name != "inner.out_channels")
        whole, part = Random()(graph, model), Random()(fewer, model)
        assert all(np.array_equal(part[name], whole[name]) for name in part)

    def test_a_generator_moves_on(self):
        model, graph = NETWORKS["small"]
        drawing = Random(seed=np.random.default_rng(0))
        first, second = drawing(graph, model), drawing(graph, model)
        assert not any(np.array_equal(first[name], second[name]) for name in first)


class TestRegistry:
    @pytest.mark.parametrize("name", ["l1", "l2", "bn_scale", "lamp", "fpgm", "random"])
    def test_each_criterion_is_found_by_its_name(self, name):
        assert make(name).name == name

    def test_an_object_is_taken_as_it_is(self):
        criterion = L1(reduction="max")
        assert make(criterion) is criterion

    def test_an_unknown_name_names_the_nearest(self):
        with pytest.raises(ConfigError, match=r"no criterion is called 'l11'. Did you mean 'l1'"):
            make("l11")

    @pytest.mark.parametrize("thing", [L1, 3, None, lambda graph, model: {}])
    def test_what_is_no_criterion_is_refused(self, thing):
        with pytest.raises(InputError, match="a criterion is a name, or an object with a name"):
            make(thing)

    def test_a_second_owner_of_a_name_is_refused_and_both_are_named(self):
        with pytest.raises(InputError, match=r"criterion 'l1' is .*magnitude\.L1 already; .*Mine needs another name"):
            CRITERIA.add("l1")(Mine)
        assert CRITERIA["l1"] is L1


class TestRefusals:
    def test_another_model_is_refused(self):
        _, graph = NETWORKS["small"]
        with pytest.raises(InputError, match=r"the model has no parameter .* trace this model anew"):
            L1()(graph, nn.Linear(3, 3))

    def test_a_model_of_another_shape_is_refused(self):
        model, graph = batch_normed()
        model = copy.deepcopy(model)
        model[0] = nn.Conv2d(3, 7, 3)
        with pytest.raises(InputError, match=r"0.weight has the shape \(7, 3, 3, 3\)"):
            L1()(graph, model)

    def test_weights_that_are_not_there_are_refused(self):
        model, graph = batch_normed()
        with pytest.raises(InputError, match="meta device: there are no weights to judge"):
            L1()(graph, copy.deepcopy(model).to("meta"))

    def test_frozen_widths_are_not_scored(self):
        model, graph = batch_normed()
        first = graph.free[0].name
        frozen = graph.with_widths(replace(w, frozen="by me") if w.name == first else w for w in graph.widths)
        for name in ("l1", "l2", "lamp", "fpgm", "random"):
            assert set(make(name)(frozen, model)) == {w.name for w in graph.free} - {first}, name


SHAPES = [(7,), (5, 3), (6, 4, 3, 3), (2, 50, 3), (1, 40), (40, 1), (3, 2, 2, 2, 2)]


class TestSums:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("chunk", [1, 4, 16, 2**18])
    @pytest.mark.parametrize("power", [1, 2, 3])
    def test_sums_do_not_depend_on_the_chunk(self, shape, chunk, power, monkeypatch):
        monkeypatch.setitem(sums_module._CHUNK, "cpu", chunk)
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        axes = list(range(len(shape)))
        for some in (axes, axes[:1], axes[-1:]):
            for axis, found in zip(some, power_sums(weight, some, power), strict=True):
                others = [a for a in axes if a != axis]
                expected = weight.abs().pow(power).sum(others) if others else weight.abs().pow(power)
                assert torch.allclose(found, expected), axis

    @pytest.mark.parametrize("chunk", [4, 2**18])
    def test_sums_over_all_axes_but_two(self, chunk, monkeypatch):
        monkeypatch.setitem(sums_module._CHUNK, "cpu", chunk)
        weight = torch.randn(6, 4, 3, dtype=torch.float64)
        for rows, columns in ((0, 1), (1, 0), (2, 0), (0, 2)):
            (other,) = {0, 1, 2} - {rows, columns}
            expected = weight.square().sum(other) if rows < columns else weight.square().sum(other).t()
            assert torch.allclose(power_matrix(weight, rows, columns, 2), expected)

    @pytest.mark.parametrize("change", [lambda w: w.to(memory_format=torch.channels_last), lambda w: w.transpose(0, 1),
                                        lambda w: w[::2], lambda w: w.expand(-1, -1, 3, -1)])  # fmt: skip
    def test_sums_do_not_depend_on_the_memory_layout(self, change):
        weight = change(torch.randn(8, 6, 1, 3))
        for axis, found in enumerate(power_sums(weight, range(4), 1)):
            assert torch.allclose(found, weight.abs().sum([a for a in range(4) if a != axis]))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_low_precision_is_summed_in_float32(self, dtype):
        weight = torch.full((4, 20_000), 1.0, dtype=dtype)
        rows, columns = power_sums(weight, [0, 1], 1)
        assert rows.dtype == columns.dtype == torch.float32
        assert rows.tolist() == [20_000] * 4, "a sum in bfloat16 stops at 256"

    def test_float64_stays_float64(self):
        (found,) = power_sums(torch.full((1, 3), 1 + 1e-12, dtype=torch.float64), [0], 1)
        assert found.item() != 3.0

    def test_the_weight_is_not_changed(self):
        weight = nn.Parameter(torch.randn(4, 4))
        before = weight.detach().clone()
        for power in (1, 2, 3):
            found = power_sums(weight, [0, 1], power)
            assert not any(vector.requires_grad for vector in found)
        assert torch.equal(weight, before)
