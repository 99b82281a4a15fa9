"""The sparsifier: a user's rule, training under masks, narrowing; what comes out computes what was masked."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from tests.fuzz.networks import random_network
from tests.zoo.shim import declare_torchvision_operators
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

import secateur as sc
from secateur.errors import ConfigError, InputError, VerificationError
from secateur.torch.apply import verification_of
from secateur.torch.narrowing.masks import mask_plan, masks_of
from secateur.torch.pruners.sparsifier import FPGMRule, LSTMSaliencyRule, SaliencyRule, Sparsifier
from secateur.torch.running.outputs import output_tensors


class Document(nn.Module):
    """The example of the document."""

    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            nn.Linear(700, 500), nn.ReLU(), nn.Linear(500, 800, bias=False), nn.ReLU(), nn.Linear(800, 600), nn.ReLU()
        )
        self.linear = nn.Linear(600, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.seq(x))


class SaliencyPruner(Sparsifier):
    """The rule of the document, word for word."""

    def update_mask(self, module: nn.Module, tensor_name: str, **kwargs: Any) -> None:
        weights = getattr(module, tensor_name)
        mask = getattr(module.parametrizations, tensor_name)[0].mask
        saliency = -weights.norm(dim=tuple(range(1, weights.dim())), p=1)
        num_to_pick = int(len(mask) * kwargs["sparsity_level"])
        mask.data[saliency.topk(num_to_pick).indices] = False


def num_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def no_parametrisation(model: nn.Module) -> bool:
    return not any(parametrize.is_parametrized(module) for module in model.modules())


def agree(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-9 * float(a.abs().max().clamp(min=1e-12))


def shaken(model: nn.Module) -> nn.Module:
    """Batch norms with statistics and scales of their own, all in double precision."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.double().eval()


def pruned(model: nn.Module, x: Any, config: Any = None, rule: Any = None) -> tuple[Tensor, Tensor, nn.Module]:
    """Output under the masks, output narrowed, the narrowed model."""
    sparsifier = Sparsifier(rule or SaliencyRule())
    sparsifier.prepare(model, config, dummy_input=x)
    sparsifier.step()
    with torch.no_grad():
        masked = model(x)
        small = sparsifier.prune()
        return masked, small(x), small


def test_the_example_of_the_document() -> None:
    model, x = Document().double(), torch.randn(3, 700, dtype=torch.float64)
    names = ["seq.0.weight", "seq.2.weight", "seq.4.weight", "linear.weight"]
    pruner = SaliencyPruner({"prune_bias": True})
    pruner.prepare(model, [{"tensor_fqn": name, "sparsity_level": 0.5} for name in names], dummy_input=x)
    pruner.enable_mask_update = True
    assert num_params(model) == 1_233_500
    before = model(x)
    pruner.step()
    masked = model(x)
    kept = pruner.plan.indices("linear.weight")[0]
    small = pruner.prune()
    assert small is model
    assert num_params(small) == 396_150
    assert agree(masked[:, kept], small(x))
    assert masked.count_nonzero() == 3 * 2
    assert not agree(masked, before)
    assert no_parametrisation(small)
    assert sc.plans_of(small)[0].sizes["seq.0.out_features"] == 250


def conv_bn_conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(12, 4, 3, padding=1),
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm(self.b(self.a(x).relu()))
        return self.fc(x.relu().mean((2, 3)))


class Tokens(nn.Module):
    """Inputs of three dimensions with as many tokens as features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.relu(self.a(x)))))


@pytest.mark.parametrize(
    ("make", "shape"),
    [(conv_bn_conv, (2, 3, 8, 8)), (Residual, (2, 3, 8, 8)), (Tokens, (2, 8, 8))],
    ids=["conv-bn-conv, padded, with bias", "residual", "T = C"],
)
@pytest.mark.parametrize(
    "rule",
    [SaliencyRule(), FPGMRule(), FPGMRule(dist=1), FPGMRule(dist=torch.cdist)],
    ids=["saliency", "fpgm", "fpgm l1", "fpgm cdist"],
)
def test_narrowed_equals_masked(make: Any, shape: tuple[int, ...], rule: Any) -> None:
    model = shaken(make())
    whole = num_params(model)
    masked, narrowed, small = pruned(model, torch.randn(shape, dtype=torch.float64), rule=rule)
    assert agree(masked, narrowed)
    assert num_params(small) < 0.6 * whole
    assert no_parametrisation(small)


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(n, marks=pytest.mark.sweep) for n in ("vgg11_bn", "mobilenet_v2"))]
)
def test_networks_of_torchvision(name: str) -> None:
    declare_torchvision_operators()
    from torchvision import models

    torch.manual_seed(0)
    options = {"num_classes": 10, "dropout": 0.0} if name == "vgg11_bn" else {"num_classes": 10}
    model = getattr(models, name)(weights=None, **options)
    if name == "vgg11_bn":  # its classifier alone is 120 million weights
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 10)
    model = shaken(model)
    whole = num_params(model)
    masked, narrowed, small = pruned(model, torch.randn(1, 3, 32, 32, dtype=torch.float64))
    assert agree(masked, narrowed)
    assert num_params(small) < 0.35 * whole


class Recurrent(nn.Module):
    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(6, 8, num_layers=2, batch_first=True), nn.Linear(8, 3)
        self.norm = nn.LayerNorm(8) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.lstm(x)[0]))


def test_the_four_gates_of_an_lstm_unit_go_together() -> None:
    config = [{"tensor_fqn": f"lstm.weight_{part}_l{i}"} for part in ("ih", "hh") for i in range(2)]
    model, x = Recurrent(norm=False).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    masked, narrowed, small = pruned(model, x, config, LSTMSaliencyRule(sparsity_level=0.25))
    assert agree(masked, narrowed)
    assert small.lstm.hidden_size == 6
    assert small.lstm.weight_hh_l1.shape == (24, 6)


def test_an_lstm_before_a_layer_norm_is_narrowed_though_masks_cannot_foretell_it() -> None:
    model, x = Recurrent(norm=True).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    _, narrowed, small = pruned(model, x)
    assert small.norm.normalized_shape == (4,)
    assert narrowed.isfinite().all()
    assert "lstm.hidden_size" in verification_of(small).not_compared


def test_gates_masked_apart_stay_as_zeros_and_are_told_of() -> None:
    model, x = Recurrent(norm=False).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    sparsifier = SaliencyPruner({"sparsity_level": 0.5})
    sparsifier.prepare(model, [{"tensor_fqn": "lstm.weight_ih_l0"}], dummy_input=x)
    sparsifier.step()
    masked = model(x)
    with pytest.warns(
        UserWarning, match=r"lstm.weight_ih_l0: \d+ masked rows stay, as zeros: they are not all the rows"
    ):
        small = sparsifier.prune()
    assert agree(masked, small(x))


def test_training_under_masks_keeps_masked_and_narrowed_equal() -> None:
    model, x = shaken(Residual()), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    sparsifier = Sparsifier(SaliencyRule(), {"sparsity_level": 0.25})
    sparsifier.prepare(model, dummy_input=x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, weight_decay=0.1)
    model.train()
    for _ in range(3):
        sparsifier.step()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    model.eval()
    masked = model(x)
    counts = {width: len(kept) for width, kept in sparsifier.plan.kept.items()}
    assert counts == {"stem.out_channels": 6, "a.out_channels": 6}
    assert agree(masked, sparsifier.prune()(x))


def zero_first_two(module: nn.Module, tensor_name: str, **config: Any) -> None:
    module.parametrizations[tensor_name][0].mask[: config["count"]] = False


def test_a_function_is_a_rule_and_free_keys_reach_it() -> None:
    model, x = shaken(conv_bn_conv()), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    masked, narrowed, small = pruned(model, x, [{"tensor_fqn": "0.weight", "count": 2}], zero_first_two)
    assert agree(masked, narrowed)
    assert small[0].out_channels == small[1].num_features == 6
    assert sc.plans_of(small)[0].kept["0.out_channels"] == tuple(range(2, 8))


@pytest.mark.parametrize("order", [1, -1])
def test_where_all_producers_are_named_a_unit_goes_when_all_mask_it(order: int) -> None:
    model, x, more, less = shaken(Residual()), torch.randn(2, 3, 8, 8, dtype=torch.float64), "stem", "b"
    config = [{"tensor_fqn": f"{more}.weight", "count": 4}, {"tensor_fqn": f"{less}.weight", "count": 2}][::order]
    with pytest.warns(UserWarning, match=rf"{more}.weight: 2 masked rows stay.*not masked in {less}.weight too"):
        masked, narrowed, small = pruned(model, x, config, zero_first_two)
    assert agree(masked, narrowed)
    assert small.stem.out_channels == 6
    assert small.get_parameter(f"{more}.weight")[:2].abs().max() == 0
    assert small.get_parameter(f"{more}.bias")[:2].abs().max() == 0


def test_a_rule_may_put_a_mask_of_its_own_in() -> None:
    def replace(module: nn.Module, tensor_name: str, *, every: int, **_: Any) -> None:
        module.parametrizations[tensor_name][0].mask = torch.arange(8) % every > 0

    model, x = shaken(Residual()), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    config = [{"tensor_fqn": "stem.weight", "every": 2}, {"tensor_fqn": "b.weight", "every": 4}]
    sparsifier = Sparsifier(replace)
    sparsifier.prepare(model, config, dummy_input=x)
    sparsifier.step()
    assert model.stem.bias[::2].abs().max() == 0
    masked = model(x)
    with pytest.warns(UserWarning, match="stem.weight: 2 masked rows stay"):
        assert agree(masked, sparsifier.prune()(x))
    assert model.stem.out_channels == 6


def test_what_is_masked_stays_masked_in_the_next_step() -> None:
    class LargestGo:
        sparsity_level = 0.5

        def scores(self, weight: Tensor) -> Tensor:
            return -weight.flatten(1).abs().sum(1)

    model = shaken(conv_bn_conv())
    sparsifier = Sparsifier(LargestGo())
    sparsifier.prepare(model, dummy_input=torch.randn(1, 3, 8, 8, dtype=torch.float64))
    sparsifier.step()
    first = dict(sparsifier.plan.kept)
    sparsifier.step()
    assert dict(sparsifier.plan.kept) == first


def test_where_one_producer_is_named_the_others_follow() -> None:
    model, x = shaken(Residual()), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    masked, narrowed, small = pruned(model, x, [{"tensor_fqn": "b.weight", "count": 2}], zero_first_two)
    assert agree(masked, narrowed)
    assert small.stem.out_channels == small.b.out_channels == 6


def test_rows_that_are_frozen_stay_as_zeros_with_the_reason() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.fft.fft(self.a(x)).real)

    model, x = Net().double(), torch.randn(2, 6, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"a.weight: 2 masked rows stay, as zeros: .*fft"):
        masked, narrowed, _ = pruned(model, x, [{"tensor_fqn": "a.weight", "count": 2}], zero_first_two)
    assert agree(masked, narrowed)


def with_constants(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    return shaken(nn.Sequential(*layers))


FOLDABLE = {
    "linear": (
        lambda: with_constants(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3)),
        (2, 5, 6),
    ),
    "conv, bn, pool, conv": (
        lambda: with_constants(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3),
            nn.Tanh(),
            nn.Conv2d(8, 2, 1),
        ),
        (2, 3, 12, 12),
    ),
    "conv, flatten, linear": (
        lambda: with_constants(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(8 * 36, 3)),
        (2, 3, 6, 6),
    ),
    "reflecting padding": (
        lambda: with_constants(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 2, 3, padding=1, padding_mode="reflect")),
        (2, 3, 8, 8),
    ),
}


@pytest.mark.parametrize("name", FOLDABLE)
def test_constants_of_kept_biases_are_folded_into_what_follows(name: str) -> None:
    make, shape = FOLDABLE[name]
    model, x = make(), torch.randn(shape, dtype=torch.float64)
    again, whole = copy.deepcopy(model), num_params(model)
    weights = [n for n, p in model.named_parameters() if p.dim() > 1][:-1]
    config = [{"tensor_fqn": n, "prune_bias": False} for n in weights]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masked, narrowed, small = pruned(model, x, config)
    assert agree(masked, narrowed)
    assert num_params(small) < 0.6 * whole
    other = torch.randn(shape, dtype=torch.float64)
    fresh = Sparsifier(SaliencyRule())
    fresh.prepare(again, config, dummy_input=x)
    fresh.step()
    assert agree(again(other), small(other))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"padding": 1}, "2.weight reads them with padding"),
        ({"bias": False}, "2.weight reads them and has no bias"),
    ],
)
def test_constants_that_cannot_be_folded_stay_and_are_told_of(options: Any, says: str) -> None:
    model = with_constants(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 2, 3, **options))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with pytest.warns(
        UserWarning, match=f"0.weight: 4 masked rows stay, as zeros: prune_bias=False.*0.bias, and {says}"
    ):
        masked, narrowed, small = pruned(model, x, [{"tensor_fqn": "0.weight", "prune_bias": False}])
    assert agree(masked, narrowed)
    assert small[0].out_channels == 8


def test_without_a_configuration_the_output_stays_whole() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, narrowed, _ = pruned(Document(), torch.randn(2, 700))
    assert narrowed.shape == (2, 4)


def test_all_rows_masked_leaves_one_unit_of_zeros() -> None:
    model, x = shaken(conv_bn_conv()), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with pytest.warns(UserWarning, match="last of their width"):
        masked, narrowed, small = pruned(model, x, [{"tensor_fqn": "3.weight", "sparsity_level": 1.0}])
    assert agree(masked, narrowed)
    assert small[3].out_channels == 1


def test_grouped_convolutions_lose_as_many_channels_in_every_group() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 2, 1))
    model, x = model.double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    masked, narrowed, small = pruned(model, x, [{"tensor_fqn": "0.weight"}, {"tensor_fqn": "2.weight"}])
    assert agree(masked, narrowed)
    assert (small[0].out_channels, small[2].out_channels) == (4, 8)


def test_a_failure_leaves_the_masked_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise VerificationError("made up")

    model, x = shaken(conv_bn_conv()), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    sparsifier = Sparsifier(SaliencyRule())
    config = [{"tensor_fqn": "0.weight"}, {"tensor_fqn": "3.weight", "prune_bias": False}]
    model[5] = nn.Conv2d(12, 4, 3).double()
    sparsifier.prepare(model, config, dummy_input=x)
    sparsifier.step()
    masked, state = model(x), copy.deepcopy(model.state_dict())
    with monkeypatch.context() as patch:
        patch.setattr("secateur.torch.pruners.sparsifier.sparsifier.apply", broken)
        with pytest.raises(VerificationError):
            sparsifier.prune()
    assert agree(masked, model(x))
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert agree(masked, sparsifier.prune()(x))
    assert model[3].out_channels == 6


def test_tied_weights_are_masked_under_both_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 2)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(torch.relu(self.a(x)))))

    model, x = Tied().double(), torch.randn(2, 8, dtype=torch.float64)
    with warnings.catch_warnings(record=True):
        masked, narrowed, small = pruned(model, x, [{"tensor_fqn": "a.weight", "count": 3}], zero_first_two)
    assert agree(masked, narrowed)
    assert small.a.weight is small.b.weight


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ([{"tensor_fqn": "0.weigth"}], "Did you mean '0.weight'"),
        ([{"sparsity_level": 0.5}], "names its tensor"),
        ([{"tensor_fqn": "0.weight", "sparsity_level": 50}], "share from 0 to 1"),
        ([{"tensor_fqn": "0.weight", "sparsity": 0.5}], "no key 'sparsity'. Did you mean 'sparsity_level'"),
        ([{"tensor_fqn": "0.weight"}, {"tensor_fqn": "0.weight"}], "0.weight is there twice"),
        ([{"tensor_fqn": "0.weight", "prune_bias": 1}], "prune_bias is True or False"),
        ({"tensor_fqn": "0.weight"}, "list of dicts"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(config: Any, says: str) -> None:
    model = conv_bn_conv()
    sparsifier = Sparsifier(SaliencyRule())
    with pytest.raises(ConfigError, match=says):
        sparsifier.prepare(model, config, dummy_input=torch.randn(1, 3, 8, 8))
    assert not masks_of(model)


def test_a_configuration_that_fails_half_way_leaves_no_mask() -> None:
    model, x = conv_bn_conv(), torch.randn(1, 3, 8, 8)
    calls = []

    def failing(self: Sparsifier, owner: nn.Module, entry: Any) -> None:
        calls.append(entry.fqn)
        if len(calls) == 2:
            raise InputError("made up")
        attach(self, owner, entry)

    attach = Sparsifier._attach
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sparsifier, "_attach", failing)
        with pytest.raises(InputError, match="made up"):
            Sparsifier(SaliencyRule()).prepare(
                model, [{"tensor_fqn": "0.weight"}, {"tensor_fqn": "3.weight"}], dummy_input=x
            )
    assert len(calls) == 2
    assert not masks_of(model)


def test_misuse_is_told() -> None:
    with pytest.raises(ConfigError, match="a rule is needed"):
        Sparsifier()
    with pytest.raises(ConfigError, match="one of them"):
        SaliencyPruner(SaliencyRule())
    sparsifier = Sparsifier(SaliencyRule())
    with pytest.raises(InputError, match="prepare"):
        sparsifier.step()
    model, x = conv_bn_conv(), torch.randn(1, 3, 8, 8)
    sparsifier.prepare(model, dummy_input=x)
    with pytest.raises(InputError, match="already"):
        sparsifier.prepare(model, dummy_input=x)
    assert not sparsifier.leftovers
    sparsifier.prune()
    assert not masks_of(model)


@pytest.mark.parametrize("seed", range(100, 115))
def test_random_rows_of_random_networks_masked_and_narrowed_agree(seed: int) -> None:
    """Rows are masked at random in two of three weights, whole units or parts of units."""

    def random_rows(module: nn.Module, tensor_name: str, **_: Any) -> None:
        mask = module.parametrizations[tensor_name][0].mask
        mask[torch.rand(len(mask), generator=generator) < 0.6] = False

    generator = torch.Generator().manual_seed(seed)
    network = random_network(seed)
    model = network.model.double().eval()
    inputs = tree_map(lambda x: x.double() if x.is_floating_point() else x, network.inputs)
    example = (*inputs, {}) if isinstance(inputs[-1], dict) else inputs
    sparsifier = Sparsifier(random_rows)
    names = [name for name, p in model.named_parameters() if p.dim() > 1 and "parametrizations" not in name]
    free = {use.tensor for w in sc.trace(model, example).free for use in w.uses if w.exact and use.axis == 0}
    names = [name for name in names if name in free]
    if not names:
        pytest.skip("nothing to mask here")
    sparsifier.prepare(model, [{"tensor_fqn": name} for name in names], dummy_input=example)
    sparsifier.step()
    inexact = [name for name in sparsifier.plan.kept if not sparsifier.plan.graph[name].exact]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masked = output_tensors(model(*inputs))
        narrowed = output_tensors(sparsifier.prune()(*inputs))
    assert no_parametrisation(model)
    for a, b in zip(masked, narrowed, strict=True):
        if not inexact and a.is_floating_point() and a.numel() and a.shape == b.shape:
            scale = max(float(b.abs().nan_to_num(0, 0, 0).max()), 1e-30)
            assert bool(((a - b).abs().nan_to_num(0) / scale < 1e-8).all())


@pytest.mark.parametrize("name", ["keys", "values", "pop"])
def test_a_parameter_that_pytorch_cannot_parametrise_is_refused_before_anything_is_masked(name: str) -> None:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.out = nn.Linear(8, 16), nn.Linear(10, 3)
            self.register_parameter(name, nn.Parameter(torch.randn(10, 16)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out((self.query(x) @ self.get_parameter(name).t()).relu())

    model, x = Pool(), torch.randn(4, 8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(sc.InputError, match="Call the parameter something else"):
        mask_plan(model, sc.plan(sc.trace(model, x), "l1", {"params": "60%"}))
    with pytest.raises(sc.InputError, match="Call the parameter something else"):
        Sparsifier(SaliencyRule()).prepare(model, None, dummy_input=x)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
