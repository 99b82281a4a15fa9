"""Compensation: contractions as rows, ridge solutions, passes in lockstep, and networks that give what they gave before."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.torch.compensation import Compensation, Compensator
from secateur.torch.compensation.lockstep import Lockstep
from secateur.torch.compensation.rows import (
    input_rows,
    num_inputs,
    output_rows,
    positions,
    weight_of_rows,
    weight_rows,
)
from secateur.torch.compensation.solve import Fit, Option, refit
from secateur.torch.running.batch_norm import reestimate_batch_norm
from secateur.torch.running.contractions import Site, taps
from secateur.torch.running.data import Data

PATIENCE_S = 60  # a hang is what these seconds are against


# -- contractions as rows ----------------------------------------------------------------------------------------------


class Sites:
    """A tap that keeps what it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[Site, torch.Tensor]] = []

    def before(self, site: Site) -> torch.Tensor:
        return site.x

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        self.seen.append((site, y))
        return y


class Calls(nn.Module):
    """A parameter ``weight`` and an input, used as said."""

    def __init__(self, weight: torch.Tensor, use: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.use = use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.use(x, self.weight)


class Conv1D(nn.Module):
    """The linear layer of GPT-2: its weight is [inputs, outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


CONTRACTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (lambda: nn.Conv2d(3, 5, 3), (2, 3, 7, 9)),
    "conv, stride and padding": (lambda: nn.Conv2d(3, 5, (3, 2), stride=(2, 3), padding=(1, 2)), (2, 3, 7, 9)),
    "conv, dilation": (lambda: nn.Conv2d(3, 5, 3, dilation=(2, 3), padding=2), (2, 3, 9, 9)),
    "conv, same": (lambda: nn.Conv2d(3, 5, (4, 3), padding="same", dilation=(1, 2)), (2, 3, 7, 9)),
    "conv, valid": (lambda: nn.Conv2d(3, 5, 3, padding="valid"), (2, 3, 7, 9)),
    "conv, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1, bias=False), (2, 4, 5, 6)),
    "conv, depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, stride=2, padding=1), (2, 4, 7, 8)),
    "conv, reflecting": (lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), (2, 3, 6, 7)),
    "conv, no batch": (lambda: nn.Conv2d(3, 5, 3, padding=1), (3, 6, 7)),
    "conv 1d": (lambda: nn.Conv1d(3, 5, 4, stride=2, padding=1, dilation=2), (2, 3, 17)),
    "conv 3d": (lambda: nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 2), padding=(1, 0, 1), groups=2), (2, 2, 4, 5, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 5, 3), (2, 3, 4, 5)),
    "transposed, output padding": (
        lambda: nn.ConvTranspose2d(3, 5, (3, 4), stride=(2, 3), padding=(1, 2), output_padding=(1, 2)),
        (2, 3, 4, 5),
    ),
    "transposed, groups and dilation": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, dilation=2, padding=1, bias=False),
        (2, 4, 4, 5),
    ),
    "transposed, more padding than kernel": (lambda: nn.ConvTranspose2d(3, 4, 1, stride=2, padding=1), (2, 3, 5, 5)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=3, groups=2, output_padding=1), (2, 4, 6)),
    "transposed 3d": (
        lambda: nn.ConvTranspose3d(2, 3, (1, 2, 3), stride=(2, 1, 2), padding=(0, 1, 0)),
        (1, 2, 3, 4, 3),
    ),
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "linear, tokens": (lambda: nn.Linear(6, 4, bias=False), (2, 5, 6)),
    "linear, one sample": (lambda: nn.Linear(6, 4), (6,)),
    "addmm": (lambda: Conv1D(6, 4), (2, 5, 6)),
    "matmul": (lambda: Calls(torch.randn(6, 4), lambda x, w: x @ w), (2, 5, 6)),
    "matmul, transposed view": (lambda: Calls(torch.randn(4, 6), lambda x, w: x @ w.t()), (2, 5, 6)),
}


def one_site(name: str) -> tuple[Site, torch.Tensor]:
    torch.manual_seed(0)
    build, shape = CONTRACTIONS[name]
    model, tap = build().double(), Sites()
    with torch.no_grad(), taps(model, tap):
        model(torch.randn(*shape, dtype=torch.float64))
    assert len(tap.seen) == 1
    return tap.seen[0]


@pytest.mark.parametrize("limit", [10**6, 7])
@pytest.mark.parametrize("name", CONTRACTIONS)
def test_rows_of_inputs_times_rows_of_the_weight_are_the_outputs(name: str, limit: int) -> None:
    site, y = one_site(name)
    at = positions(y, site, limit, seed=3)
    assert len(at) == min(limit, y.numel() // y.shape[site.features])
    assert torch.equal(at, at.unique())  # ascending, each once
    rows_RGD = input_rows(site, at, tuple(y.shape[-site.spatial :]) if site.spatial else ())
    weight_GOD = weight_rows(site)
    assert rows_RGD.shape[1:] == (weight_GOD.shape[0], weight_GOD.shape[2]) == (site.groups, num_inputs(site))
    given = torch.einsum("rgd,god->rgo", rows_RGD, weight_GOD).flatten(1)
    wanted = output_rows(y, site, at)
    assert given.shape == wanted.shape
    assert torch.allclose(given + (0 if site.bias is None else site.bias), wanted, atol=1e-10)


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_a_weight_comes_back_from_its_rows(name: str) -> None:
    site, _ = one_site(name)
    assert torch.equal(weight_of_rows(site, weight_rows(site)), site.weight)


def test_positions_depend_on_the_seed_and_the_number_of_places_alone() -> None:
    site, y = one_site("conv")
    narrower = y[:, :2]
    assert torch.equal(positions(y, site, 9, seed=1), positions(narrower, site, 9, seed=1))
    assert not torch.equal(positions(y, site, 9, seed=1), positions(y, site, 9, seed=2))


def test_positions_leave_the_callers_random_numbers_alone() -> None:
    site, y = one_site("conv")
    before = torch.get_rng_state()
    positions(y, site, 9, seed=1)
    assert torch.equal(before, torch.get_rng_state())


# -- the ridge solution ------------------------------------------------------------------------------------------------


def brute_force(
    x: torch.Tensor, y: torch.Tensor, start: torch.Tensor, ridge: float, intercept: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """One group by least squares on stacked rows: data, and √λ times the weights themselves."""
    x, y, start = x.double(), y.double(), start.double()
    mean_x, mean_y = (x.mean(0), y.mean(0)) if intercept else (torch.zeros_like(x[0]), torch.zeros_like(y[0]))
    centred = x - mean_x
    penalty = (ridge * centred.square().sum() / x.shape[1]).sqrt()
    rows = torch.cat([centred, penalty * torch.eye(x.shape[1], dtype=torch.float64)])
    wanted = torch.cat([y - mean_y, penalty * start.T])
    weight = torch.linalg.lstsq(rows, wanted, driver="gelsd").solution.T
    return weight, mean_y - weight @ mean_x


def by_ridge(x: torch.Tensor, y: torch.Tensor, start: torch.Tensor, ridge: Option, intercept: bool) -> Fit | None:
    """A fit with no sample left out."""
    nobody = torch.zeros(len(x), dtype=torch.long)
    return refit(x, y, start, nobody, options=(ridge,), intercept=intercept)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_refit_is_the_ridge_solution(ridge: float, intercept: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(400, 3, 10) + 2, torch.randn(400, 3, 4) - 1
    x[:, 1] *= 5  # each group has a ridge of its own
    start = torch.randn(3, 4, 10)
    fit = by_ridge(x, y, start, ridge, intercept)
    assert fit is not None
    for group in range(3):
        weight, shift = brute_force(x[:, group], y[:, group], start[group], ridge, intercept)
        assert torch.allclose(fit.weight_GOD[group].double(), weight, atol=5e-5)
        assert torch.allclose(fit.shift_GO[group].double(), shift, atol=1e-4)
    assert intercept or not fit.shift_GO.any()


def test_a_strong_ridge_holds_the_weights_and_a_weak_one_lets_go() -> None:
    torch.manual_seed(0)
    x, start, truth = torch.randn(500, 1, 8), torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    y = torch.einsum("rgd,god->rgo", x, truth)
    held = by_ridge(x, y, start, 1e6, False)
    free = by_ridge(x, y, start, 1e-9, False)
    assert held is not None
    assert free is not None
    assert torch.allclose(held.weight_GOD, start, atol=1e-4)
    assert torch.allclose(free.weight_GOD, truth, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_a_weight_that_is_right_is_not_touched(scale: float) -> None:
    torch.manual_seed(0)
    x, start = torch.randn(100, 2, 6) * scale, torch.randn(2, 3, 6)
    y = torch.einsum("rgd,god->rgo", x, start)
    assert by_ridge(x, y, start, 1e-3, True) is None
    assert by_ridge(x, torch.zeros_like(y), torch.zeros_like(start), 1e-3, True) is None


@pytest.mark.parametrize("intercept", [True, False])
def test_inputs_that_say_nothing_leave_weights_finite(intercept: bool) -> None:
    y, start = torch.randn(50, 1, 3), torch.randn(1, 3, 6)
    for x in (torch.zeros(50, 1, 6), torch.ones(50, 1, 6), torch.randn(2, 1, 6).repeat_interleave(25, 0)):
        fit = by_ridge(x, y, start, 1e-3, intercept)
        assert fit is not None
        assert fit.weight_GOD.isfinite().all()
        assert fit.shift_GO.isfinite().all()
    if intercept:
        assert torch.allclose(fit.shift_GO + fit.weight_GOD @ x.mean(0)[0], y.mean(0), atol=1e-4)


@pytest.mark.parametrize("offset", [30.0, 3000.0])
def test_inputs_far_from_zero_are_fitted_as_well(offset: float) -> None:
    torch.manual_seed(0)
    x, truth = torch.randn(500, 1, 6) + offset, torch.randn(1, 3, 6)
    y = torch.einsum("rgd,god->rgo", x.double(), truth.double()).float()
    fit = by_ridge(x, y, truth + 0.1 * torch.randn(1, 3, 6), 1e-6, True)
    assert fit is not None
    assert torch.allclose(fit.weight_GOD, truth, atol=1e-3)


def test_a_shift_moves_means_and_no_weight() -> None:
    torch.manual_seed(0)
    x, y, start = torch.randn(200, 2, 5) + 1, torch.randn(200, 2, 3) + 4, torch.randn(2, 3, 5)
    fit = by_ridge(x, y, start, "bias", True)
    assert fit is not None
    assert torch.equal(fit.weight_GOD, start)
    given = torch.einsum("rgd,god->rgo", x, start) + fit.shift_GO
    assert torch.allclose(given.mean(0), y.mean(0), atol=1e-5)


# -- passes in lockstep ------------------------------------------------------------------------------------------------


def within_patience(run: Callable[[], None]) -> BaseException | None:
    """Run in another thread; what it raised. Fails if it does not end, or leaves threads behind."""
    raised: list[BaseException] = []
    before = set(threading.enumerate())

    def body() -> None:
        try:
            run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "it hangs"
    assert set(threading.enumerate()) <= before, "threads are left"
    return raised[0] if raised else None


class Journeys:
    """Passes that go through places in a given order, and a log of what happened."""

    def __init__(self, *journeys: Sequence[str], order: Sequence[str] = ("a", "b", "c")) -> None:
        self.journeys, self.log, self.running = journeys, [], 0
        self.lockstep = Lockstep(order, self.decide)

    def decide(self, place: str, here: dict[int, Any]) -> Any:
        assert not self.running
        self.log.append((place, here))
        if place == "bad decision":
            raise ValueError("no decision")
        return f"{place} of {len(here)}"

    def body(self, number: int) -> None:
        self.running += 1
        for place in self.journeys[number]:
            assert self.running == 1
            if place == "fault":
                raise ValueError("no way on")
            self.running -= 1
            got = self.lockstep.meet(number, place, (number, place))
            self.running += 1
            assert got.startswith(f"{place} of ")
        self.running -= 1

    def run(self) -> BaseException | None:
        return within_patience(lambda: self.lockstep.run([self.body] * len(self.journeys)))


def test_all_passes_meet_at_each_place_in_order() -> None:
    journeys = Journeys("abc", "abc", "abc")
    assert journeys.run() is None
    assert journeys.log == [(place, {n: (n, place) for n in range(3)}) for place in "abc"]


def test_the_earliest_place_is_decided_first_and_others_wait() -> None:
    journeys = Journeys("ca", "cba", "a", order="cba")
    assert journeys.run() is None
    assert [(place, list(here)) for place, here in journeys.log] == [("c", [0, 1]), ("b", [1]), ("a", [0, 1, 2])]


@pytest.mark.parametrize("routes", [("abc", "cba"), ("abab", "baba", "ccc"), ("a", "", "b"), ("xyz", "zyx", "abx")])
def test_passes_that_visit_in_another_order_all_come_through(routes: tuple[str, ...]) -> None:
    journeys = Journeys(*routes)
    assert journeys.run() is None
    visits = sorted((number, place) for _, here in journeys.log for number, place in here.values())
    assert visits == sorted((number, place) for number, route in enumerate(routes) for place in route)


def test_no_pass_at_all_and_passes_that_meet_nowhere_end_at_once() -> None:
    assert Journeys().run() is None
    assert Journeys("", "").run() is None


@pytest.mark.parametrize(
    "routes",
    [(["fault"], ["a"]), (["a", "fault"], ["a", "b"]), (["a"], ["a"], ["fault"]), (["a", "b"], ["a", "fault"], ["a"])],
)
def test_a_fault_in_a_pass_stops_all_and_is_raised(routes: tuple[list[str], ...]) -> None:
    error = Journeys(*routes).run()
    assert isinstance(error, ValueError)
    assert str(error) == "no way on"


def test_a_fault_in_a_decision_stops_all_and_is_raised() -> None:
    journeys = Journeys(["a", "bad decision", "c"], ["a", "bad decision"], ["a", "c"], order=["a", "bad decision", "c"])
    error = journeys.run()
    assert isinstance(error, ValueError)
    assert str(error) == "no decision"
    assert [place for place, _ in journeys.log] == ["a", "bad decision"]


def test_a_pass_that_catches_everything_cannot_swallow_the_stop() -> None:
    ended = []

    def body(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt
        try:
            lockstep.meet(number, "a", None)
        except Exception:
            ended.append(number)

    lockstep = Lockstep("a", lambda *_: None)
    assert isinstance(within_patience(lambda: lockstep.run([body] * 3)), KeyboardInterrupt)
    assert ended == []


# -- what was linear in what is left comes back ------------------------------------------------------------------------


def mixed(layer: Any, kept: int, groups: int = 1) -> Any:
    """Every unit of a group above the first ``kept`` becomes a mix of these, so that it can be taken away without loss."""
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            for group in () if tensor is None else tensor.chunk(groups):
                generator = torch.Generator().manual_seed(kept)  # the same mix for weights and biases
                mix = torch.randn(len(group) - kept, kept, generator=generator) / kept**0.5
                group[kept:] = torch.einsum("ok,k...->o...", mix, group[:kept])
    return layer


def images(count: int = 64, channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def conv_chain() -> tuple[nn.Module, dict[str, Any]]:
    model = nn.Sequential(mixed(nn.Conv2d(3, 12, 3, padding=1), 6), nn.Conv2d(12, 5, 3, padding=1))
    return model, {"0": range(6)}


def linear_chain() -> tuple[nn.Module, dict[str, Any]]:
    model = nn.Sequential(nn.Flatten(), mixed(nn.Linear(192, 16), 7), mixed(nn.Linear(16, 12), 6), nn.Linear(12, 4))
    return model, {"1": range(7), "2": range(6)}


def batch_norm_chain() -> tuple[nn.Module, dict[str, Any]]:
    model = nn.Sequential(
        mixed(nn.Conv2d(3, 12, 3, bias=False), 6), nn.BatchNorm2d(12), nn.Conv2d(12, 5, 3, bias=False),
        nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3),
    )  # fmt: skip
    return model, {"0": range(6)}


def grouped() -> tuple[nn.Module, dict[str, Any]]:
    model = nn.Sequential(mixed(nn.Conv2d(3, 12, 3, padding=1), 4, groups=2), nn.Conv2d(12, 6, 3, groups=2))
    return model, {"0": range(4)}


def transposed() -> tuple[nn.Module, dict[str, Any]]:
    model = nn.Sequential(mixed(nn.Conv2d(3, 10, 3), 5), nn.ConvTranspose2d(10, 4, 3, stride=2, output_padding=1))
    return model, {"0": range(5)}


class Residual(nn.Module):
    """A stream that two blocks add to; the first loses what nothing in it can give back, the second can."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8))
        self.wide = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.lost(x)
        return self.head(x + self.wide(x))


def trimmed(model: nn.Module, kept: dict[str, Any], x: torch.Tensor) -> tuple[nn.Module, sc.Plan]:
    """A narrowed copy: ``kept`` maps the module that makes a width to what stays of it."""
    graph = sc.trace(model, x[:2])
    makers = {w.name: w for w in graph.free}
    chosen = {}
    for module, indices in kept.items():
        (name,) = (n for n, w in makers.items() if any(u.tensor == f"{module}.weight" and u.axis == 0 for u in w.uses))
        chosen[name] = list(indices)
    plan = graph.plan(chosen)
    return sc.apply(model, plan), plan


def off_by(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).square().mean() / other.square().mean()).item()


def test_what_follows_a_grouped_transposed_convolution_is_given_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 12, 2, groups=2), nn.Conv2d(12, 4, 3)).eval()
    x = images()
    graph = sc.trace(model, x[:2])
    (inner,) = (w for w in graph.free if any(u.tensor == "1.weight" and u.axis == 1 for u in w.uses))
    plan = graph.plan({inner.name: range(inner.size - 2)})
    small = sc.apply(model, plan)
    wanted, before = model(x), off_by(small(x), model(x))
    Compensator(model, Data(loader=[x])).fit(small, plan)
    assert off_by(small(x), wanted) < before


@pytest.mark.parametrize("batches", [1, 4])
@pytest.mark.parametrize("build", [conv_chain, linear_chain, batch_norm_chain, grouped, transposed])
def test_units_that_are_mixes_of_others_are_given_back(build: Any, batches: int) -> None:
    torch.manual_seed(0)
    model, kept = build()
    x = images()
    reestimate_batch_norm(model, [x])
    model.eval()
    wanted = model(x)
    small, plan = trimmed(model, kept, x)
    before = off_by(small(x), wanted)
    compensator = Compensator(model, Data(loader=list(x.chunk(batches))), ridge=1e-5)
    done = compensator.fit(small, plan)
    assert done.refitted
    assert not done.left
    assert before > 0.05
    assert off_by(small(x), wanted) < 1e-8
    fresh = torch.randn(16, 3, 8, 8)
    if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        assert off_by(small(fresh), model(fresh)) < 1e-8


def test_a_depthwise_convolution_gives_back_what_its_own_inputs_lost() -> None:
    """Its inputs come from a layer that was narrowed, so its kernels must change scale; nothing else can."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1)).eval()
    x = images()
    compensator = Compensator(model, Data(loader=[x]), ridge=1e-5)
    plan = sc.trace(model, x[:2]).plan({})
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed[1].weight *= torch.linspace(0.2, 2, 8).reshape(8, 1, 1, 1)
    compensator.fit(changed, plan)
    assert torch.allclose(changed[1].weight, model[1].weight, atol=1e-4)


def test_a_depthwise_network_gets_nearer_and_its_last_layer_gives_the_rest_back() -> None:
    torch.manual_seed(0)
    first = mixed(nn.Conv2d(3, 12, 1), 3)
    model = nn.Sequential(first, nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(12, 4, 1)).eval()
    with torch.no_grad():
        model[1].weight[6:] = model[1].weight[:1]  # the same kernel everywhere: a mix stays a mix
        model[1].weight[:6] = model[1].weight[:1]
    x = images()
    small, plan = trimmed(model, {"0": range(6)}, x)
    wanted = model(x)
    before = off_by(small(x), wanted)
    Compensator(model, Data(loader=[x]), ridge=1e-5).fit(small, plan)
    assert before > 0.05
    assert off_by(small(x), wanted) < 1e-8


def test_a_block_gives_back_what_the_blocks_before_it_lost() -> None:
    """What the first block no longer adds is linear in the stream; the second block, wide enough, adds it instead."""
    torch.manual_seed(0)
    model = Residual().eval()
    with torch.no_grad():
        model.lost[0].bias.fill_(5.0)  # its ReLU never cuts: the block is linear, but six units are too few for less
    x = torch.randn(400, 8)
    small, plan = trimmed(model, {"lost.0": [0, 1]}, x)
    wanted = model(x)
    before = off_by(small(x), wanted)
    data = Data(loader=list(x.chunk(2)))
    done = Compensator(model, data, ridge=1e-5).fit(small, plan)
    assert before > 0.01
    assert off_by(small(x), wanted) < 1e-6
    assert "wide.1.weight" in done.refitted
    stream = x + small.lost(x)
    assert off_by(stream, x + model.lost(x)) > 1e-3  # the first block itself could not
    assert not torch.allclose(small.wide[1].weight, model.wide[1].weight, atol=1e-3)


class Added(nn.Module):
    """A stream that loses something, then a block whose output passes ``way`` before it is added."""

    def __init__(self, way: nn.Module) -> None:
        super().__init__()
        self.lost = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1))
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        nn.init.orthogonal_(self.block[0].weight)
        self.way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.lost(x)
        return x + self.way(self.block(x))


class AddedInPlace(Added):
    """The same, into the stream itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.lost(x)
        x += self.way(self.block(x))
        return x


class Scale(nn.Module):
    """One learnt factor a channel, as in networks with a layer scale."""

    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor(factors).reshape(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


def loss_of_a_block(way: nn.Module, kind: type[Added] = Added) -> tuple[float, float]:
    """How far off the narrowed network is, before and after it was fitted."""
    torch.manual_seed(0)
    model, x = kind(way), images(channels=4)
    reestimate_batch_norm(model, [x])
    model.eval()
    small, plan = trimmed(model, {"lost.0": [0, 1]}, x)
    wanted = model(x)
    before = off_by(small(x), wanted)
    Compensator(model, Data(loader=[x]), ridge=1e-5).fit(small, plan)
    return before, off_by(small(x), wanted)


class Asserting(nn.Module):
    """Looks at a shape, and hands its input on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == 4
        return x


@pytest.mark.parametrize(
    "way",
    [
        nn.Identity(),
        nn.Dropout(0.5),
        nn.Dropout2d(0.5),
        Asserting(),
    ],
    ids=lambda way: type(way).__name__,
)
def test_a_sum_is_fitted_through_what_changes_nothing(way: nn.Module) -> None:
    before, after = loss_of_a_block(way)
    assert before > 0.01
    assert after < 1e-6


def test_a_sum_in_place_is_fitted_as_any_other() -> None:
    before, after = loss_of_a_block(nn.Identity(), AddedInPlace)
    assert before > 0.01
    assert after < 1e-6


class ReadTwice(nn.Module):
    """The block's output goes into the sum, and elsewhere: only the sum could be fitted to, and must not be."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8))
        self.block, self.head = nn.Linear(8, 8), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stream = x + self.lost(x)
        y = self.block(stream)
        other = torch.relu(y)
        return self.head(torch.cat([stream + y, other], -1))


def test_an_output_that_was_read_before_its_sum_is_not_fitted_to_the_sum() -> None:
    torch.manual_seed(0)
    model, x = ReadTwice().eval(), torch.randn(300, 8)
    small, plan = trimmed(model, {"lost.0": range(3)}, x)
    wanted = model.block(x + model.lost(x))
    Compensator(model, Data(loader=[x]), ridge=1e-5).fit(small, plan)
    assert off_by(small.block(x + small.lost(x)), wanted) < 1e-6


@pytest.mark.parametrize("factors", [(0.1,) * 4, (3.0,) * 4, (0.5, -1.0, 2.0, 0.25)])
def test_a_sum_is_fitted_through_a_scale(factors: tuple[float, ...]) -> None:
    before, after = loss_of_a_block(Scale(*factors))
    assert before > 0.01
    assert after < 1e-6


def test_a_sum_is_fitted_through_batch_norm() -> None:
    """Not exactly: its statistics are measured anew, so what the block gives has the spread it had before."""
    before, after = loss_of_a_block(nn.BatchNorm2d(4))
    assert before > 0.01
    assert after < before / 4


def test_a_bias_takes_over_the_mean_of_what_was_removed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 5)).eval()
    x = torch.randn(300, 8) + 0.3
    kept, gone = list(range(12)), list(range(12, 20))
    small, plan = trimmed(model, {"0": kept}, x)
    Compensator(model, Data(loader=list(x.chunk(3))), method="bias").fit(small, plan)
    mean = torch.relu(model[0](x))[:, gone].mean(0)
    folded = model[2].bias + model[2].weight[:, gone] @ mean
    assert torch.equal(small[2].weight, model[2].weight[:, kept])
    assert torch.allclose(small[2].bias, folded, atol=1e-5)
    assert torch.allclose(small(x).mean(0), model(x).mean(0), atol=1e-5)


# -- what stays as it is -----------------------------------------------------------------------------------------------


def fitted(model: nn.Module, kept: dict[str, Any], x: torch.Tensor, **options: Any) -> tuple[nn.Module, Compensation]:
    small, plan = trimmed(model, kept, x)
    return small, Compensator(model, Data(loader=list(x.chunk(2))), **options).fit(small, plan)


@pytest.mark.parametrize("method", ["bias", "least_squares"])
def test_an_untouched_network_stays_bit_for_bit(method: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
    before = copy.deepcopy(model.state_dict())
    compensator = Compensator(model, Data(loader=list(images().chunk(3))), method=method)
    done = compensator.fit(model, sc.trace(model, images(2)).plan({}))
    tolerance = {"rtol": 1e-5, "atol": 1e-6}
    for name, tensor in model.state_dict().items():
        if method == "least_squares":
            assert torch.equal(tensor, before[name]), name
        else:
            assert torch.allclose(tensor, before[name], **tolerance), name
    assert method == "bias" or done.refitted == ()


class Twice(nn.Module):
    """One layer called twice, another once."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 12)
        self.back = nn.Linear(12, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = self.back(torch.relu(self.inside(x)))
        return self.last(x)


def test_a_weight_that_is_used_twice_is_left_and_named() -> None:
    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(200, 8)
    small, done = fitted(model, {"inside": range(6)}, x)
    assert set(done.left) == {"inside.weight", "back.weight"}
    assert "more than once" in done.left["back.weight"]
    assert done.refitted == ("last.weight",)
    assert torch.equal(small.back.weight, model.back.weight[:, :6])
    assert torch.equal(small.back.bias, model.back.bias)
    plain = trimmed(model, {"inside": range(6)}, x)[0]
    assert off_by(small(x), model(x)) < off_by(plain(x), model(x))


class Tied(nn.Module):
    """A language model in small: the output weight is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.up, self.down = nn.Linear(8, 24), nn.Linear(24, 8)
        self.head = nn.Linear(8, 20)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        return self.head(x + self.down(torch.relu(self.up(x))))


def test_a_tied_embedding_is_left_and_named() -> None:
    torch.manual_seed(0)
    model, ids = Tied().eval(), torch.randint(0, 20, (30, 7))
    small, done = fitted(model, {"up": range(10)}, ids)
    assert list(done.left) == ["embed.weight"]
    assert "embedding" in done.left["embed.weight"]
    assert torch.equal(small.embed.weight, model.embed.weight)
    assert small.head.weight is small.embed.weight
    assert torch.equal(small.head.bias, model.head.bias)
    assert "down.weight" in done.refitted


def test_flags_gradients_and_random_numbers_are_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Dropout(0.5), nn.ReLU(), nn.Linear(12, 4))
    model.train()
    model[0].eval()
    model[3].weight.requires_grad_(False)
    x = torch.randn(100, 8)
    small, plan = trimmed(model, {"0": range(6)}, x)
    flags = [m.training for m in model.modules()]
    frozen = [p.requires_grad for p in model.parameters()]
    state = torch.get_rng_state()
    Compensator(model, Data(loader=[x])).fit(small, plan)
    for kind in (model, small):
        assert [m.training for m in kind.modules()] == flags
        assert [p.requires_grad for p in kind.parameters()] == frozen
        assert all(p.grad is None for p in kind.parameters())
    assert all(p.is_leaf for p in small.parameters())
    assert torch.equal(state, torch.get_rng_state())


class AddedTo(nn.Module):
    """``addmm`` whose first argument is another activation, not a bias; and a bias that is one number for all."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 12)
        self.weight = nn.Parameter(torch.randn(12, 8))
        self.scalar = nn.Parameter(torch.ones(1))
        self.last = nn.Parameter(torch.randn(8, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.addmm(x, torch.relu(self.inside(x)), self.weight)
        return torch.addmm(self.scalar, h, self.last)


@pytest.mark.parametrize("method", ["bias", "least_squares"])
def test_what_addmm_adds_need_not_be_a_bias(method: Any) -> None:
    torch.manual_seed(0)
    model, x = AddedTo().eval(), torch.randn(200, 8)
    small, done = fitted(model, {"inside": range(9)}, x, method=method)
    plain = trimmed(model, {"inside": range(9)}, x)[0]
    assert off_by(small(x), model(x)) <= off_by(plain(x), model(x))
    assert "not a bias" in done.left["weight"]


class LowRank(nn.Module):
    """A weight that is a product of two parameters: the rows of the first are a width, too."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 12)
        self.left, self.right = nn.Parameter(torch.randn(12, 3)), nn.Parameter(torch.randn(3, 6))
        self.last = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(torch.relu(self.inside(x)) @ (self.left @ self.right)))


@pytest.mark.parametrize("method", ["bias", "least_squares"])
def test_a_product_of_parameters_is_not_taken_for_data(method: Any) -> None:
    torch.manual_seed(0)
    model, x = LowRank().eval(), torch.randn(300, 8)
    small, _ = fitted(model, {"inside": range(8)}, x, method=method, ridge=1e-3)
    plain = trimmed(model, {"inside": range(8)}, x)[0]
    assert off_by(small(x), model(x)) < off_by(plain(x), model(x))


def test_few_samples_do_no_harm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    x, fresh = torch.randn(48, 16), torch.randn(500, 16)
    small, _ = fitted(model, {"0": range(48), "2": range(48)}, x)
    biased, _ = fitted(model, {"0": range(48), "2": range(48)}, x, method="bias")
    assert off_by(small(fresh), model(fresh)) < off_by(biased(fresh), model(fresh))


def test_a_bias_that_two_layers_share_is_not_moved_by_one_of_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 8))
    model[4].bias = model[2].bias
    x = torch.randn(300, 8)
    for method in ("bias", "least_squares"):
        small, _ = fitted(model, {"0": range(8)}, x, method=method)
        plain = trimmed(model, {"0": range(8)}, x)[0]
        assert small[4].bias is small[2].bias
        assert off_by(small(x), model(x)) <= off_by(plain(x), model(x))
    assert off_by(small(x), model(x)) < 0.9 * off_by(plain(x), model(x))  # least squares, without the bias
