"""What compensation chooses on samples left out: folds, ridges, batch-norm statistics, and what it says about them."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.torch.compensation import Compensation, Compensator
from secateur.torch.compensation.lockstep import Lockstep
from secateur.torch.compensation.solve import RIDGES, Option, refit
from secateur.torch.measuring.folds import FOLDS, folds_of, owners
from secateur.torch.running.data import Data

OPTIONS: tuple[Option, ...] = ("nothing", "bias", *reversed(RIDGES))

# -- folds -------------------------------------------------------------------------------------------------------------


def sources(count: int, each: int, spread: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples that come from a few sources, mixed, and which source each is from."""
    generator = torch.Generator().manual_seed(count)
    which = torch.arange(count).repeat_interleave(each)[torch.randperm(count * each, generator=generator)]
    centres = torch.randn(count, 20, generator=generator)
    return centres[which] + spread * torch.randn(len(which), 20, generator=generator), which


@pytest.mark.parametrize("count", [2, 3, 4])
def test_samples_of_one_source_are_left_out_together(count: int) -> None:
    looks, which = sources(count, 12, spread=0.05)
    folds = folds_of([looks])
    if count == FOLDS:
        assert all(len(folds[which == source].unique()) == 1 for source in range(count))
    assert all(len(which[folds == fold].unique()) == 1 for fold in folds.unique())


def test_folds_do_not_depend_on_the_order_of_samples() -> None:
    looks, _ = sources(5, 9)
    order = torch.randperm(len(looks), generator=torch.Generator().manual_seed(3))
    one, other = folds_of([looks])[order], folds_of([looks[order]])
    assert ((one[:, None] == one) == (other[:, None] == other)).all()


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 7, 64])
def test_every_fold_has_samples_enough(samples: int) -> None:
    folds = folds_of([torch.randn(samples, 6, generator=torch.Generator().manual_seed(samples))])
    sizes = folds.bincount(minlength=FOLDS)
    assert len(folds) == samples
    assert (sizes > 0).sum() >= min(samples, 2)
    assert sizes.max() <= max(samples * 9 // 16 + 1, 1)


def test_samples_that_are_all_alike_are_still_parted() -> None:
    assert len(folds_of([torch.ones(8, 3)]).unique()) == FOLDS


def test_rows_belong_to_the_sample_that_they_are_part_of() -> None:
    at = torch.arange(3 * 5)
    assert owners(at, 15, 3).tolist() == [0] * 5 + [1] * 5 + [2] * 5


# -- the ridge ---------------------------------------------------------------------------------------------------------


def rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(90, 2, 7, generator=generator) + 1
    start = torch.randn(2, 3, 7, generator=generator)
    truth = start + 0.3 * torch.randn(2, 3, 7, generator=generator)
    y = torch.einsum("rgd,god->rgo", x, truth) + 0.5 * torch.randn(90, 2, 3, generator=generator)
    return x, y, start, torch.randint(0, FOLDS, (90,), generator=generator)


def left_out_by_hand(option: Option, intercept: bool) -> float:
    """Fit without each fold by stacked rows, judge on it, add up."""
    x, y, start, folds = (t.double() for t in rows())
    total = 0.0
    for fold in folds.unique():
        inside = folds == fold
        for group in range(x.shape[1]):
            total += _by_hand(x[:, group], y[:, group], start[group], inside, option, intercept)
    return total / float((y - y.mean(0)).square().sum())


def _by_hand(x: Any, y: Any, start: Any, inside: Any, option: Option, intercept: bool) -> float:
    if option == "nothing":
        return float((y[inside] - x[inside] @ start.T).square().sum())
    seen_x, seen_y = x[~inside], y[~inside]
    mean_x, mean_y = (seen_x.mean(0), seen_y.mean(0)) if intercept else (torch.zeros(7), torch.zeros(3))
    weight = start.T
    if isinstance(option, float):
        centred = seen_x - mean_x
        penalty = (option * centred.square().sum() / x.shape[1]).sqrt()
        stacked = torch.cat([centred, penalty * torch.eye(7, dtype=torch.float64)])
        wanted = torch.cat([seen_y - mean_y, penalty * start.T])
        weight = torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution
    return float((y[inside] - mean_y - (x[inside] - mean_x) @ weight).square().sum())


@pytest.mark.parametrize("intercept", [True, False])
def test_the_choice_is_that_of_leaving_each_fold_out_by_hand(intercept: bool) -> None:
    options = tuple(o for o in OPTIONS if intercept or o != "bias")
    x, y, start, folds = rows()
    fit = refit(x, y, start, folds, options=options, intercept=intercept)
    assert fit is not None
    by_hand = {option: left_out_by_hand(option, intercept) for option in options}
    assert fit.held_out == pytest.approx(by_hand, rel=1e-4)
    assert fit.option == min(by_hand, key=by_hand.__getitem__)
    whole = refit(x, y, start, torch.zeros_like(folds), options=(fit.option,), intercept=intercept)
    assert whole is not None
    assert torch.allclose(fit.weight_GOD, whole.weight_GOD, atol=1e-5)


def test_what_no_fit_can_know_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    x, start = torch.randn(12, 1, 40), torch.randn(1, 3, 40)
    y = torch.einsum("rgd,god->rgo", x, start) + torch.randn(12, 1, 3)
    fit = refit(x, y, start, torch.arange(12) % FOLDS, options=OPTIONS, intercept=True)
    assert fit is not None
    assert fit.held_out[fit.option] <= fit.held_out["nothing"]
    single = refit(x, y, start, torch.zeros(12, dtype=torch.long), options=OPTIONS, intercept=True)
    assert single is not None
    assert single.option == "nothing"
    assert torch.equal(single.weight_GOD, start)


# -- whole networks ----------------------------------------------------------------------------------------------------


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    norm = (lambda c: nn.BatchNorm2d(c)) if seed % 2 else (lambda c: nn.Identity())
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), norm(12), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), norm(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 5),
    )  # fmt: skip
    with torch.no_grad():
        model.train()
        for _ in range(20):
            model(images(64))
    return model.eval()


def images(count: int) -> torch.Tensor:
    """Smooth random pictures: neighbours are alike, as in photographs."""
    return nn.functional.interpolate(torch.randn(count, 3, 3, 3), (8, 8), mode="bilinear")


def off_by(one: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((one(x) - other(x)).square().mean())


def compensated(model: nn.Module, x: torch.Tensor, **options: Any) -> tuple[nn.Module, nn.Module, Compensation]:
    """A network narrowed at random, the same compensated, and what was said of it."""
    plan = sc.plan(sc.trace(model, x[:1]), "random", {"params": "60%"})
    plain, fitted = sc.apply(model, plan, verify=False), sc.apply(model, plan, verify=False)
    done = Compensator(model, Data(loader=list(x.split(4))), **options).fit(fitted, plan)
    return plain, fitted, done


@pytest.mark.parametrize("samples", [1, 2, 4, 12])
def test_few_data_are_never_worse_than_none(samples: int) -> None:
    worse, ratios = 0, []
    for seed in range(10):
        model = network(seed)
        plain, fitted, _ = compensated(model, images(samples))
        fresh = images(300)
        ratios.append(off_by(fitted, model, fresh) / max(off_by(plain, model, fresh), 1e-12))
        worse += ratios[-1] > 1.02
    assert worse == 0, ratios


def test_evidence_is_json_and_says_what_each_weight_gained() -> None:
    model = network(1)
    _, _, done = compensated(model, images(64))
    assert [layer.name for layer in done.layers] == ["3.weight", "8.weight", "10.weight"]
    for layer in done.layers:
        assert set(layer.held_out) == {"nothing", "bias", *(f"{ridge:g}" for ridge in RIDGES)}
        assert layer.held_out[layer.option] == min(layer.held_out.values())
        assert layer.fitted <= layer.before
    again = json.loads(json.dumps(done.as_dict()))
    assert again["layers"][0]["option"] == done.layers[0].option
    assert again["samples"] == 64


def test_a_number_is_taken_as_it_is() -> None:
    _, _, done = compensated(network(0), images(32), ridge=0.5)
    assert {layer.option for layer in done.layers} == {"0.5"}


@pytest.mark.parametrize("ridge", ["strong", 0, -1.0, None])
def test_a_ridge_is_auto_or_a_positive_number(ridge: Any) -> None:
    config = {"data_loader": [images(4)], "ridge": ridge}
    with pytest.raises(sc.ConfigError, match="ridge"):
        sc.prune(network(0), "magnitude", {"params": "60%"}, images(1), config)


def test_a_result_holds_the_evidence() -> None:
    config = {"data_loader": [images(16) for _ in range(2)], "compensate": "least_squares"}
    _, result = sc.prune(network(0), "magnitude", {"params": "60%"}, images(1), config)
    assert isinstance(result.compensation, Compensation)
    assert result.compensation.refitted == result.refitted


# -- batch norm --------------------------------------------------------------------------------------------------------


def test_samples_unlike_those_of_training_do_not_move_a_network_that_has_lost_nothing() -> None:
    model = network(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    strange = images(16) * 3 + 2
    Compensator(model, Data(loader=[strange])).fit(model, sc.trace(model, strange[:1]).plan({}))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_channels_keep_the_mean_and_spread_that_they_had_on_the_same_samples() -> None:
    model = network(1)
    x = images(64) * 2 + 1
    plan = sc.plan(sc.trace(model, x[:1]), "l2", {"params": "60%"})
    fitted = sc.apply(model, plan, verify=False)
    done = Compensator(model, Data(loader=list(x.split(8)))).fit(fitted, plan)
    assert "4.running_mean" in done.norms
    with torch.no_grad():
        wanted, given = model[:5](x)[:, plan.indices("4.weight")[0]], fitted[:5](x)
    assert torch.allclose(given.mean((0, 2, 3)), wanted.mean((0, 2, 3)), atol=0.05)
    assert torch.allclose(given.std((0, 2, 3)), wanted.std((0, 2, 3)), rtol=0.1)


# -- stopping ----------------------------------------------------------------------------------------------------------


def test_an_interruption_leaves_no_pass_waiting() -> None:
    def decide(point: str, here: Any) -> None:
        raise KeyboardInterrupt

    lockstep: Lockstep[None, None] = Lockstep("a", decide)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        lockstep.run([lambda number: lockstep.meet(number, "a", None)] * 3)
    assert threading.active_count() == before


def test_progress_goes_from_the_first_point_to_the_last() -> None:
    told: list[float] = []
    model, x = network(0), images(16)
    compensator = Compensator(model, Data(loader=[x]))
    compensator.fit(model, sc.trace(model, x[:1]).plan({}), tell=lambda share, word: told.append(share))
    assert told == sorted(told)
    assert 0 <= told[0] < told[-1] <= 1
