"""What a new user does wrong in the first hour, and how it is told; what they mean, and that it is taken so."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.core.options import options_table
from secateur.errors import ConfigError, InputError

torch.manual_seed(0)
GOOD = [(torch.randn(8, 1, 8, 8), torch.randint(0, 10, (8,))) for _ in range(3)]
X = GOOD[0][0][:2]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def prune(mode: Any = "gradnas", bounds: Mapping[str, Any] | None = None, **config: Any) -> sc.PruneResult:
    return sc.prune(net(), mode, bounds or {"macs": "60%"}, X, config=config or None)[1]


DICTS = [{"image": x, "label": y} for x, y in GOOD]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"data_loader": DICTS}, "a dict with image, label.*collect_func"),
        ({"data_loader": [(x.repeat(1, 3, 1, 1), y) for x, y in GOOD]}, r"tensor \(8, 3, 8, 8\) of float32.*collect_func"),
        ({"data_loader": torch.randn(16, 1, 8, 8)}, "one tensor .* read row by row"),
        ({"data_loader": GOOD, "collect_func": lambda batch: batch["x"]}, "collect_func fails on a batch"),
        ({"data_loader": GOOD, "loss_func": lambda output: output.sum()}, "loss_func fails.*called as loss_func"),
        ({"data_loader": GOOD, "loss_func": nn.CrossEntropyLoss}, r"write CrossEntropyLoss\(\)"),
        ({"data_loader": [x for x, _ in GOOD], "loss_func": nn.CrossEntropyLoss()}, "takes logits and labels"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_told_by_the_argument_with_the_way_out(config: dict[str, Any], said: str) -> None:
    for mode in ("gradnas", "progressive"):
        with pytest.raises(InputError, match=said):
            prune(mode, **config)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"data_loader": [x for x, _ in GOOD]}, "pass loss_func"),
        ({"forward_loop": lambda m: [m(x) for x, _ in GOOD]}, "a forward_loop gives the model's inputs alone"),
    ],
)
def test_data_without_labels_are_told_by_a_mode_that_is_about_a_loss_and_will_do_for_progressive(
    config: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        prune("gradnas", **config)
    assert prune("progressive", **config, steps=1).macs


def test_finetune_and_measure_tell_it_too() -> None:
    with pytest.raises(InputError, match="collect_func"):
        sc.training.finetune(net(), DICTS, epochs=1)
    with pytest.raises(InputError, match="collect_func"):
        sc.measure(net(), DICTS, dummy_input=X)


def test_a_fault_of_the_users_own_comes_through_as_it_was() -> None:
    class Broken(Exception):
        pass

    def loss(output: torch.Tensor, batch: object) -> torch.Tensor:
        raise Broken

    with pytest.raises(Broken):
        prune(data_loader=GOOD, loss_func=loss)

    calls = 0

    def later(output: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("the disk is full")
        return nn.functional.cross_entropy(output, batch[1])

    with pytest.raises(RuntimeError, match=r"^the disk is full$"):
        prune(data_loader=GOOD, loss_func=later)


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.functional.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.0)]
)
def test_a_loss_of_torch_is_taken_as_everybody_means_it(loss: Any) -> None:
    own = prune(data_loader=GOOD, loss_func=lambda output, batch: nn.functional.cross_entropy(output, batch[1]))
    assert prune(data_loader=GOOD, loss_func=loss).plan.kept == own.plan.kept
    config = {"loss_func": loss, "lr": 1e-3}
    assert len(sc.training.finetune(net(), GOOD, epochs=1, config=config).losses) == 1
    labelled = [{"input": x, "labels": y} for x, y in GOOD]
    same = prune(data_loader=labelled, collect_func=lambda batch: batch["input"], loss_func=loss)
    assert same.plan.kept == own.plan.kept


@pytest.mark.parametrize("name", ["Adam", "torch.optim.SGD", "nonsense"])
def test_an_optimizer_by_name_is_told_what_to_give(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is a name: give torch\.optim\.(Adam|SGD)"):
        sc.training.finetune(net(), GOOD, epochs=1, config={"optimizer": name})


@pytest.mark.parametrize(
    ("theirs", "ours"), [("keep", "exclude"), ("channel_divisible", "multiple_of"), ("eval_fn", None)]
)
def test_other_names_of_an_option_are_translated(theirs: str, ours: str | None) -> None:
    with pytest.raises(ConfigError) as refused:
        prune("magnitude", **{theirs: "3"})
    assert (f"Here it is called {ours!r}" in str(refused.value)) == (ours is not None)


@pytest.mark.parametrize(
    "mode",
    [
        ["magnitude"],
        {"magnitude": {"criterion": "l2"}},
        [("magnitude", {"criterion": "l2"})],
        ("magnitude", {"criterion": "l2"}),
    ],
)
def test_a_mode_in_a_list_or_a_dict_is_that_mode(mode: Any) -> None:
    criterion = "l1" if mode == ["magnitude"] else "l2"
    assert prune(mode).plan.kept == prune("magnitude", criterion=criterion).plan.kept


def test_what_is_said_twice_or_of_several_modes_is_told() -> None:
    with pytest.raises(ConfigError, match="a list with an entry for each"):
        prune(["magnitude", "gradnas"])
    with pytest.raises(ConfigError, match="once will do"):
        prune({"magnitude": {"criterion": "l2"}}, criterion="l1")
    with pytest.raises(ConfigError, match="names no mode"):
        prune([])
    with pytest.raises(ConfigError, match="the options of a mode are a dict"):
        prune({"mode": "magnitude"})


@pytest.mark.parametrize("options", [{"multiple_of": 10**400}, {"floor": 10**400}, {"ratios": [10**400]}])
def test_a_number_beyond_all_networks_is_not_told_digit_by_digit(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="bits is beyond any network's") as refused:
        prune("magnitude", **options)
    assert len(str(refused.value)) < 200


def test_a_constraint_of_none_holds_nothing() -> None:
    assert (
        prune("magnitude", {"macs": "60%", "params": None}).plan.kept == prune("magnitude", {"macs": "60%"}).plan.kept
    )
    with pytest.raises(ConfigError, match="constraints are needed"):
        prune("magnitude", {"macs": None})


def test_a_large_cut_in_the_dark_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="with no data looked at"):
        prune("magnitude", {"macs": "50%"})


@pytest.mark.parametrize(
    ("mode", "bound", "data"), [("magnitude", "90%", None), ("magnitude", "50%", GOOD), ("progressive", "50%", GOOD)]
)
def test_a_small_cut_or_one_with_data_is_not(mode: str, bound: str, data: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune(mode, {"macs": bound}, **({} if data is None else {"data_loader": data}))


def test_a_result_is_data() -> None:
    result = prune("fastnas", score_func=lambda model: float(model(X).std()), max_evaluations=4, data_loader=GOOD)
    assert isinstance(result.score, float)
    found = json.loads(result.to_json())
    assert found["after"] == dict(result.after)
    assert sc.Plan.from_json(json.dumps(found["plan"])) == result.plan
    copied = dataclasses.asdict(result)
    assert copied["plan"]["kept"] == dict(result.plan.kept)
    assert prune("magnitude").score is None


def test_options_print_themselves() -> None:
    shown = str(sc.modes.FastNAS(max_evaluations=7))
    for name in sc.modes.FastNAS.model_fields:
        assert name in shown
    assert "7" in shown
    assert "score_func" in options_table(sc.modes.FastNAS)
    with pytest.raises(ConfigError, match="fastnas needs a score_func"):
        prune("fastnas")


def test_a_graph_is_gone_through_width_by_width() -> None:
    graph = sc.trace(net(), X)
    assert list(graph) == list(graph.widths)


def test_labels_of_32_bits_are_labels() -> None:
    short = [(x, y.int()) for x, y in GOOD]
    assert prune(data_loader=short).plan.kept == prune(data_loader=GOOD).plan.kept


def test_one_number_for_two_classes_is_told_what_loss_to_give() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 1), nn.Sigmoid())
    loader = [(x, y % 2) for x, y in GOOD]
    with pytest.raises(InputError, match=r"one number.*binary_cross_entropy"):
        sc.prune(model, "gradnas", {"params": "60%"}, X, {"data_loader": loader})


def test_an_export_configuration_names_the_mode_that_meets_it() -> None:
    with pytest.raises(ConfigError, match='mode="minitron" alone'):
        prune("magnitude", {"export_config": {"hidden_size": 4}})


@pytest.mark.parametrize("mode", ["magnitude", "progressive", "gradnas"])
def test_a_weight_that_is_no_number_is_named(mode: str) -> None:
    model = net()
    name, weight = next(iter(model.named_parameters()))
    weight.data.flatten()[0] = float("nan")
    with pytest.raises(InputError, match=f"{name} holds NaN"):
        sc.prune(model, mode, {"params": "60%"}, X, {} if mode == "magnitude" else {"data_loader": GOOD})


def test_an_id_beyond_the_vocabulary_is_called_one() -> None:
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    good, bad = torch.arange(6).view(2, 3), torch.full((2, 3), 10)
    with pytest.raises(sc.VerificationError, match="an id at or above the number of embeddings"):
        sc.prune(model, "magnitude", {"params": "60%"}, bad)
    with pytest.raises(InputError, match="an id at or above the number of embeddings"):
        sc.prune(model, "progressive", {"params": "60%"}, good, {"data_loader": [bad]})
