"""What a search hands back is scored, whatever the mode; dead networks are errors, and options without effect are said."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.errors import DeadNetwork, InputError

torch.manual_seed(0)
CENTRES = 2 * torch.randn(4, 8)
LABELS = torch.arange(4).repeat(40)
X = CENTRES[LABELS] + 0.3 * torch.randn(160, 8)
LABELLED = list(zip(X.split(40), LABELS.split(40), strict=True))
BARE = list(X.split(40))


def trained() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(X), LABELS).backward()
        optimizer.step()
    return model.eval()


MODEL = trained()


def fresh() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    model.load_state_dict(MODEL.state_dict())
    return model.eval()


def accuracy(model: nn.Module) -> float:
    return float((model(X).argmax(1) == LABELS).float().mean())


def mislead(model: nn.Module) -> None:
    """The two largest units of the second layer never fire."""
    with torch.no_grad():
        model[2].weight[:2] = -10.0  # type: ignore[index]
        model[2].bias[:2] = -1.0  # type: ignore[index]


SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "magnitude": ("magnitude", {}),
    "gradnas": ("gradnas", {}),
    "progressive": ("progressive", {"steps": 2}),
    "activation": ("activation", {"remove": {"nn.Linear": 0.3}}),
    "fastnas": ("fastnas", {"score_func": accuracy}),
    "compensated": ("magnitude", {"compensate": "least_squares"}),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_every_mode_scores_what_it_returns(name: str) -> None:
    mode, config = SEARCHES[name]
    constraints = None if mode == "activation" else {"params": "70%"}
    model, result = sc.prune(fresh(), mode, constraints, X[:4], {"data_loader": LABELLED, **config})
    quality = result.quality
    assert quality is not None
    own = mode == "fastnas"
    assert quality.measure == ("score_func" if own else "minus the loss")
    expected = accuracy(model) if own else -float(F.cross_entropy(model(X), LABELS))
    assert result.score == pytest.approx(expected, rel=1e-4)
    assert quality.whole == pytest.approx(
        accuracy(MODEL) if own else -float(F.cross_entropy(MODEL(X), LABELS)), rel=1e-4
    )
    assert (quality.compensated is not None) is (mode == "progressive" or name == "compensated")
    assert json.loads(result.evidence.to_json())["quality"]["whole"] == pytest.approx(quality.whole)
    assert str(quality) in str(result)


def test_without_labels_agreement_with_the_whole_network_is_told() -> None:
    _, result = sc.prune(fresh(), "magnitude", {"params": "70%"}, X[:4], {"data_loader": BARE})
    assert result.quality is not None
    assert result.quality.measure == "agreement with the whole network"
    assert result.quality.whole == 1.0
    assert 0.5 < result.score < 1.0  # type: ignore[operator]


def test_a_score_is_asked_for_without_data_too() -> None:
    model, result = sc.prune(fresh(), "magnitude", {"params": "70%"}, X[:4], {"score_func": accuracy})
    assert result.quality is not None
    assert result.quality.whole == accuracy(MODEL)
    assert result.score == accuracy(model)


def test_without_means_nothing_is_claimed() -> None:
    _, result = sc.prune(fresh(), "magnitude", {"params": "70%"}, X[:4])
    assert result.score is None
    assert result.quality is None


@pytest.mark.parametrize("given", [{"data_loader": LABELLED}, {"data_loader": BARE}, {"score_func": accuracy}])
def test_a_network_that_answers_as_a_constant_is_an_error_with_the_ways_out(given: dict[str, Any]) -> None:
    model = fresh()
    mislead(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DeadNetwork, match=r"floor.*compensate.*unchanged"):
        sc.prune(model, "magnitude", {"params": "40%"}, X[:4], {"only": ["2.out_features"], **given})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("loader", [LABELLED, BARE], ids=["labelled", "bare"])
@pytest.mark.parametrize("scale", [0.0, 1e-6])
def test_a_network_that_never_told_inputs_apart_has_nothing_to_lose(scale: float, loader: list[Any]) -> None:
    model = fresh()
    mislead(model)
    with torch.no_grad():
        model[4].weight.mul_(scale)  # type: ignore[operator, union-attr]
        model[4].bias.fill_(1.0)  # type: ignore[operator, union-attr]
    sc.prune(model, "magnitude", {"params": "40%"}, X[:4], {"data_loader": loader, "only": ["2.out_features"]})


def test_the_loss_is_asked_for_thrice_at_most_on_few_samples() -> None:
    calls = []

    def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        calls.append(len(output))
        return F.cross_entropy(output, batch[1])

    loader = LABELLED * 4
    sc.prune(fresh(), "magnitude", {"params": "70%"}, X[:4], {"data_loader": loader, "loss_func": loss})
    assert sum(calls) == 2 * 280  # whole and narrowed, each on the batches that hold 256


IDLE: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "data options without data": (
        "magnitude",
        {"num_batches": 3, "loss_func": F.mse_loss},
        ["loss_func", "num_batches"],
    ),
    "compensation's without it": ("magnitude", {"data_loader": LABELLED, "ridge": 0.5}, ["ridge"]),
    "what belongs to a loader, with a loop": (
        "magnitude",
        {"forward_loop": lambda model: model(X), "collect_func": len},
        ["collect_func"],
    ),
    "batch norm's samples without data": (
        "fastnas",
        {"score_func": accuracy, "batch_norm_samples": 9},
        ["batch_norm_samples"],
    ),
    "freezing without a proof": ("magnitude", {"verify": False, "on_mismatch": "freeze"}, ["on_mismatch"]),
}


@pytest.mark.parametrize("kind", IDLE)
def test_an_option_without_effect_is_said(kind: str) -> None:
    mode, config, names = IDLE[kind]
    with pytest.warns(UserWarning, match="had no effect") as caught:
        sc.prune(fresh(), mode, {"params": "70%"}, X[:4], config)
    assert [f"config: {', '.join(names)} had no effect" in str(one.message) for one in caught].count(True) == 1


@pytest.mark.parametrize("name", SEARCHES)
def test_options_with_an_effect_are_not(name: str) -> None:
    mode, config = SEARCHES[name]
    constraints = None if mode == "activation" else {"params": "70%"}
    common = {"data_loader": LABELLED, "num_batches": 3, "floor": 0.1, "verify": False, "collect_func": lambda b: b[0]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sc.prune(fresh(), mode, constraints, X[:4], {**common, **config})


def test_one_step_pruning_says_what_the_whole_network_was_worth() -> None:
    pruner = sc.pruners.OneStepPruner(fresh(), X[:4])
    pruner.search(accuracy, {"params": "60%"}, num_candidates=4)
    small, result = pruner.prune()
    assert result.quality is not None
    assert result.quality.whole == accuracy(MODEL)
    assert result.score == accuracy(small)


def test_iterative_pruning_scores_what_it_masks_and_masks_nothing_dead() -> None:
    pruner = sc.pruners.IterativePruner(fresh(), X[:4])
    pruner.analyze(accuracy, ratios=(0.5,))
    masked, result = pruner.mask({"params": "70%"})
    assert result.score == accuracy(masked)
    misled = fresh()
    mislead(misled)
    pruner = sc.pruners.IterativePruner(misled, X[:4], limits={"only": ["2.out_features"]})
    pruner.analyze(accuracy, ratios=(0.5,))
    with pytest.raises(DeadNetwork, match="floor"):
        pruner.mask({"params": "40%"})
    assert pruner.plan is None
    assert accuracy(misled) == accuracy(MODEL)


@pytest.mark.parametrize("gives", ["raises", "nothing", "no number", "many"])
def test_a_broken_loss_is_an_error_where_only_the_result_is_judged(gives: str) -> None:
    def loss(output: torch.Tensor, batch: object) -> Any:
        if gives == "raises":
            raise ValueError("my loss is broken")
        return {"nothing": None, "no number": output.sum() * torch.nan, "many": output}[gives]

    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    config = {"data_loader": [(torch.randn(64, 16), torch.arange(64) % 4)], "loss_func": loss}
    with pytest.raises(InputError, match="loss"):
        sc.prune(model, "magnitude", {"params": "50%"}, torch.randn(2, 16), config)


def test_a_number_that_is_none_in_the_data_does_not_reach_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)).eval()
    good, bad = torch.randn(64, 16), torch.randn(64, 16)
    bad[3, 5] = torch.nan
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match="batch 1 of the data"):
        sc.prune(model, "magnitude", {"params": "50%"}, good[:2], {"data_loader": [good, bad]})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
