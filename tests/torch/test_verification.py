"""Verified means verified: what is compared, on what, how closely, and what is said when it differs."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import InputError, VerificationError
from secateur.torch.apply import verification_of
from secateur.torch.running.outputs import MOST_ITEMS, numbers_in
from secateur.torch.verify import verify

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) + 0.5


class Net(nn.Module):
    """Six in, ten hidden, eight out; what it returns is made by ``wrap``."""

    def __init__(self, wrap: Callable[[torch.Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.wrap = nn.Linear(6, 10), nn.Linear(10, 8), wrap

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x).relu()

    def forward(self, x: torch.Tensor) -> Any:
        return self.wrap(self.last(self.hidden(x)))


@dataclasses.dataclass(slots=True)
class Slots:
    logits: torch.Tensor


def every_second(model: nn.Module, x: torch.Tensor = X) -> sc.Plan:
    graph = sc.trace(model, x)
    return graph.plan({w.name: range(0, w.size, 2) for w in graph.free})


def proved(model: nn.Module, x: torch.Tensor = X) -> sc.Verification:
    found = verification_of(sc.apply(model, every_second(model, x)))
    assert found is not None
    assert found.passed
    return found


WRAPPED = {
    "slots": (Slots, "logits"),
    "a view of a dict": (lambda y: types.MappingProxyType({"y": y}), "y"),
    "a generator": (lambda y: (t for t in [y]), "[0]"),
    "nested": (lambda y: {"a": [1, (y,)]}, "a[1][0]"),
    "a plain object": (lambda y: types.SimpleNamespace(boxes=y), "boxes"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_outputs_are_found_in_whatever_holds_them(kind: str) -> None:
    wrap, place = WRAPPED[kind]
    found = proved(Net(wrap).eval())
    assert found.compared == ("first.out_features",)
    assert all(comparison.outputs == (place,) for comparison in found.comparisons)


@pytest.mark.parametrize("wrap", [lambda y: y.detach().numpy(), lambda y: y.tolist()], ids=["an array", "a list"])
def test_classes_that_leave_as_an_array_or_a_list_are_compared(wrap: Callable[[torch.Tensor], Any]) -> None:
    model = Net(wrap).eval()
    graph = sc.trace(model, X)
    classes = [w for w in graph.free if w.name == "last.out_features"]
    if classes:
        with pytest.raises(VerificationError) as caught:
            sc.apply(model, graph.plan({classes[0].name: range(5)}))
        assert caught.value.widths == ("last.out_features",)


NOTHING = {
    "none": lambda y: None,
    "text": lambda y: str(y.shape),
    "an integer": lambda y: {"n": 3},
    "no row": lambda y: y[:0],
    "nan": lambda y: y * float("nan"),
    "infinite": lambda y: y.abs() * float("inf"),
}


@pytest.mark.parametrize("wrap", NOTHING.values(), ids=NOTHING.keys())
def test_nothing_compared_is_nothing_verified(wrap: Callable[[torch.Tensor], Any]) -> None:
    model = Net(wrap).eval()
    graph = sc.trace(model, X)
    with pytest.raises(VerificationError, match="nothing was compared"):
        verify(model, graph.plan({w.name: range(3) for w in graph.free}), graph)


class Told(Net):
    """What ``does`` does to the hidden units begins once the trace is over."""

    def __init__(self, does: Callable[[Told, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.does, self.lies = does, False

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        h = super().hidden(x)
        return self.does(self, h) if self.lies else h


def ramp(h: torch.Tensor) -> torch.Tensor:
    return torch.linspace(1, 2, h.shape[1])


def drawn(h: torch.Tensor) -> torch.Tensor:
    return torch.rand(h.shape[1], generator=torch.Generator().manual_seed(0))


LIES: dict[str, Callable[[Told, torch.Tensor], torch.Tensor]] = {
    "the number of units": lambda net, h: h * h.shape[1],
    "their order": lambda net, h: h.flip(1),
    "their neighbours": lambda net, h: h.roll(1, 1),
    "a statistic": lambda net, h: h - h.mean(1, keepdim=True),
    "single precision only": lambda net, h: h * ramp(h) if h.dtype is torch.float32 else h,
    "double precision only": lambda net, h: h * ramp(h) if h.dtype is torch.float64 else h,
    "training only": lambda net, h: h * ramp(h) if net.training else h,
    "gradients only": lambda net, h: h * ramp(h) if torch.is_grad_enabled() else h,
    "large numbers only": lambda net, h: torch.where(h > 1.0, h * ramp(h), h),
    "numbers drawn from a seed": lambda net, h: h * drawn(h),
    "a very little": lambda net, h: h * (1 + 1e-9 * ramp(h)),
    "a size that is asserted": lambda net, h: h if h.shape[1] == 10 else h[:, :0],
}


@pytest.mark.parametrize("kind", LIES)
def test_narrowing_that_changes_what_is_computed_is_found(kind: str) -> None:
    model = Told(LIES[kind]).eval()
    plan = every_second(model)
    model.lies = True
    with pytest.raises(VerificationError) as caught:
        sc.apply(model, plan)
    assert caught.value.widths == ("first.out_features",)


def test_a_kernel_that_takes_memory_for_another_order_is_no_disagreement() -> None:
    class Tokens(nn.Module):
        """A batch of one, whose gradient reaches the norm transposed: PyTorch 2.13 reads that wrongly."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.norm(self.conv(x)).flatten(2).transpose(1, 2))

    assert proved(Tokens().eval(), torch.randn(1, 3, 4, 5)).comparisons[-1].gradients == 6


def test_an_iterator_that_never_ends_is_refused() -> None:
    with pytest.raises(InputError, match=f"more than {MOST_ITEMS:,} items"):
        numbers_in(iter(lambda: torch.zeros(1), None))


def test_it_says_what_was_compared_on_what_and_how_closely() -> None:
    found = proved(Net().eval())
    scenes = [(c.inputs, c.mode, c.gradients, c.dtype) for c in found.comparisons]
    assert scenes == [
        ("the example", "evaluation", 0, "float64"),
        ("fresh inputs, a batch of 3", "evaluation", 0, "float32"),
        ("inputs of another size than 4", "evaluation", 0, "float32"),
        ("fresh inputs", "training", 4, "float32"),
    ]
    assert found.tolerance <= 1e-12
    text = str(found)
    assert "1 exact widths" in text
    assert "fresh inputs in training with the gradients of 4 parameters" in text


class OtherBranch(Net):
    """The example's mean goes one way; other inputs go another, on which the place of a unit counts."""

    def forward(self, x: torch.Tensor) -> Any:
        h = self.hidden(x)
        return self.last(h if x.mean() > 0 else h.flip(1))


class OnlyInTraining(Net):
    def forward(self, x: torch.Tensor) -> Any:
        h = self.hidden(x)
        return self.last(h * torch.tensor([1.0, 2.0] * 5)[: h.shape[1]] if self.training else h)


class OnlyInTheGradient(Net):
    """The same numbers forwards; backwards the place of a unit counts."""

    def forward(self, x: torch.Tensor) -> Any:
        h = self.hidden(x)
        weights = torch.arange(h.shape[1]) + 1.0
        return self.last(h.detach() + (h - h.detach()) * weights)


@pytest.mark.parametrize("kind", [OtherBranch, OnlyInTraining, OnlyInTheGradient])
def test_what_the_example_in_evaluation_does_not_show_is_found_and_the_width_named(kind: type[Net]) -> None:
    model = kind().eval()
    graph = sc.trace(model, X)
    if graph["first.out_features"].frozen is not None:
        pytest.skip("the trace knows, and leaves the width whole")
    plan = graph.plan({"first.out_features": [1, 3, 4, 6, 9]})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(VerificationError, match=r"narrowing first\.out_features changes what") as caught:
        sc.apply(model, plan, in_place=True)
    assert caught.value.widths == ("first.out_features",)
    assert "please report" not in str(caught.value).lower()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


class TwoOfWhichOneLies(nn.Module):
    """The place of a unit counts in ``second`` alone; ``lies`` is turned on once the trace is over."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 10), nn.Linear(10, 12), nn.Linear(12, 8)
        self.lies = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.second(self.first(x).relu()).relu()
        return self.last(h * torch.linspace(1, 2, h.shape[1]) if self.lies else h)


def lying() -> tuple[TwoOfWhichOneLies, sc.Plan]:
    model = TwoOfWhichOneLies().eval()
    plan = every_second(model)
    model.lies = True
    return model, plan


def test_the_width_at_fault_is_found_among_others() -> None:
    model, plan = lying()
    assert set(plan.kept) == {"first.out_features", "second.out_features"}
    with pytest.raises(VerificationError) as caught:
        sc.apply(model, plan)
    assert caught.value.widths == ("second.out_features",)


def test_freezing_what_is_at_fault_goes_on_with_the_rest() -> None:
    model, plan = lying()
    small = sc.apply(model, plan, on_mismatch="freeze")
    found = verification_of(small)
    assert found is not None
    assert found.passed
    assert list(found.frozen) == ["second.out_features"]
    assert found.compared == ("first.out_features",)
    assert small.first.out_features == 5
    assert small.second.out_features == 12
    with pytest.raises(InputError, match="on_mismatch"):
        sc.apply(model, plan, on_mismatch="ignore")  # type: ignore[arg-type]


def test_prune_searches_again_without_what_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.torch import prune as pruning

    works = pruning.trace

    def trace(model: TwoOfWhichOneLies, dummy_input: object, **more: Any) -> sc.Graph:
        model.lies = False
        graph = works(model, dummy_input, **more)
        model.lies = True
        return graph

    monkeypatch.setattr(pruning, "trace", trace)
    with pytest.raises(VerificationError):
        sc.prune(TwoOfWhichOneLies().eval(), "magnitude", {"params": "70%"}, X)
    model, result = sc.prune(TwoOfWhichOneLies().eval(), "magnitude", {"params": "70%"}, X, {"on_mismatch": "freeze"})
    assert model.second.out_features == 12
    assert result.params <= 0.7 * result.before["params"]
    assert "second.out_features" in result.frozen


def mixed() -> nn.Module:
    class HalfStem(Net):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(6, 6).half()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.stem(x.half()).float())

    return HalfStem().eval()


def test_a_half_precision_stem_does_not_blur_what_follows() -> None:
    assert proved(mixed()).comparisons[0].bound <= 1e-12


def test_an_error_far_below_single_precision_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.torch.verifying import comparing

    works = comparing.slices_of

    def off(tensors: Any, plan: sc.Plan) -> dict[str, torch.Tensor]:
        made = works(tensors, plan)
        with torch.no_grad():
            made["last.weight"] *= 1 + 2.8e-5
        return made

    model = Net().eval()
    plan = every_second(model)
    monkeypatch.setattr(comparing, "slices_of", off)
    with pytest.raises(VerificationError, match=r"differs by 1\.\de-05"):
        sc.apply(model, plan)


def test_complex_parameters_are_compared() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 10, dtype=torch.complex64)
            self.last = nn.Linear(10, 8, dtype=torch.complex64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x.to(torch.complex64)))

    found = proved(Complex().eval())
    assert found.comparisons[0].bound <= 1e-12
    assert found.comparisons[-1].gradients == 4


class IllConditioned(nn.Module):
    """Hidden units are nearly equal and taken from each other: rounding is a large part of what is left."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 400), nn.Linear(400, 3)
        with torch.no_grad():
            self.first.bias += 1e7

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(self.first(x))
        return y - y.detach().mean(0, keepdim=True)


def test_an_ill_conditioned_network_is_no_false_alarm_and_gets_a_wider_bound() -> None:
    found = proved(IllConditioned().eval())
    assert found.comparisons[0].bound < 1e-3
    assert all(c.difference <= c.bound for c in found.comparisons)


def test_dropout_and_noise_are_compared_in_training() -> None:
    class Noisy(Net):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def hidden(self, x: torch.Tensor) -> torch.Tensor:
            h = self.drop(super().hidden(x))
            return h + 0.1 * torch.randn_like(h)

    assert proved(Noisy().eval()).comparisons[-1].mode == "training"


WINDOWS: dict[int, torch.Tensor] = {}


@functools.lru_cache
def window(size: int) -> torch.Tensor:
    return torch.hann_window(size)


class Cached(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        WINDOWS.setdefault(x.shape[-1], torch.ones(x.shape[-1]))
        return super().forward(x * window(x.shape[-1]) * WINDOWS[x.shape[-1]])


def test_a_proof_leaves_nothing_in_the_process() -> None:
    model = Cached().eval()
    window.cache_clear()
    plan = every_second(model)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    small = sc.apply(model, plan)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(held.dtype is torch.float32 for held in WINDOWS.values())
    assert model(X).dtype is small(X).dtype is torch.float32
    assert window(6).dtype is torch.float32


def test_a_model_called_inside_inference_mode_is_verified() -> None:
    model = Net().eval()
    plan = every_second(model)
    with torch.inference_mode():
        found = verify(model, plan, plan.graph)  # type: ignore[arg-type]
    assert found.comparisons[-1].gradients == 4


def test_a_kernel_that_kills_the_process_where_no_gradient_is_wanted_is_given_room() -> None:
    model = nn.Sequential(nn.GroupNorm(1, 4), nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1)).eval()
    picture = torch.randn(2, 4, 2, 4).to(memory_format=torch.channels_last)
    graph = sc.trace(model, picture)
    assert verify(model, graph.plan({"1.out_channels": [0, 3, 4]}), graph).comparisons[-1].gradients


def test_a_kernel_that_reads_beyond_what_it_is_given_is_not_asked() -> None:
    """Of a packed sequence with other features than the layer has, the CPU's LSTM reads what lies behind it in memory."""

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.LSTM(8, 9, batch_first=True), nn.Linear(9, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), x.shape[1]), batch_first=True)
            return self.out(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])

    model, x = Packed().eval(), torch.randn(3, 8, 8)
    graph = sc.trace(model, x)
    kept = {width.name: range(4) for width in graph.free}
    assert kept
    for _ in range(3):  # what it read was another thing each time
        inputs = [one.inputs for one in verify(model, graph.plan(kept), graph).comparisons]
        assert "inputs of another size than 8" in inputs, "more steps of the same features"
