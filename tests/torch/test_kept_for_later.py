"""What a trace cannot hear, for it is used later or by another way: it keeps its width whole."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Samples(nn.Module):
    """``latent`` is a size only in `sample`; ``layers`` is a count that happens to be as large."""

    def __init__(self) -> None:
        super().__init__()
        self.latent, self.layers = 10, 12
        self.encoder, self.decoder = nn.Linear(6, 10), nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x)))

    def sample(self, number: int) -> Tensor:
        return self.decoder(torch.randn(number, self.latent))

    def depth(self) -> int:
        return self.layers


def test_a_size_that_only_another_method_uses_keeps_its_width_whole() -> None:
    graph = sc.trace(Samples(), X)
    assert "sample()" in str(graph["encoder.out_features"].frozen)
    assert graph["decoder.0.out_features"].frozen is None


class SamplesInTwo(Samples):
    """The size is named in a private method, two steps from the one that is called."""

    def sample(self, number: int) -> Tensor:
        return self.decoder(self._noise(number))

    def _noise(self, number: int) -> Tensor:
        return self._drawn(number, self.latent)

    def _drawn(self, number: int, size: int) -> Tensor:
        return torch.randn(number, size)


class Fuses(Samples):
    """What makes another layer of it has sizes of its own, and so has what only that calls."""

    def sample(self, number: int) -> Tensor:
        return torch.zeros(number, 6)

    def switch(self) -> None:
        self.decoder = nn.Linear(self.latent, self.weight().shape[0])

    def weight(self) -> Tensor:
        return self._weight()

    def _weight(self) -> Tensor:
        return torch.eye(6, self.latent)


def test_a_size_in_a_private_method_of_another_one_keeps_its_width_whole() -> None:
    assert "_noise()" in str(sc.trace(SamplesInTwo(), X)["encoder.out_features"].frozen)
    assert sc.trace(Fuses(), X)["encoder.out_features"].frozen is None


class Layer(nn.Module):
    """Its sizes have the names that sizes have; only what starts it anew uses them."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight, self.bias = (
            nn.Parameter(torch.randn(out_features, in_features)),
            nn.Parameter(torch.zeros(out_features)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.bias.copy_(torch.empty(self.out_features).uniform_(-0.1, 0.1))
            self.weight.copy_(torch.randn(self.out_features, self.in_features))


def test_a_size_that_is_called_one_is_that_of_the_parameters_beside_it() -> None:
    model = nn.Sequential(Layer(6, 24), nn.ReLU(), Layer(24, 16), Layer(16, 5)).eval()
    graph = sc.trace(model, X)
    assert [(w.name, w.kind, w.size) for w in graph.free] == [
        ("0.weight.0", "features", 24),
        ("2.weight.0", "features", 16),
    ]
    small = sc.apply(model, graph.plan({w.name: range(3, 8) for w in graph.free}))
    assert (small[0].out_features, small[2].in_features, small[2].out_features) == (5, 5, 5)
    small[2].reset_parameters()
    assert small(X).shape == (4, 5)


def test_a_module_with_layers_in_it_may_speak_of_what_it_is_given() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input_dim, self.layer = 6, nn.Linear(6, 24)
            self.place, self.last = nn.Parameter(torch.randn(24)), nn.Linear(24, 6)
            self.output_dim = 24

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(x) + self.place)

    small = sc.apply(Net().eval(), sc.trace(Net().eval(), X).plan({"layer.out_features": range(5)}))
    assert (small.input_dim, small.output_dim) == (6, 24)


def test_where_two_widths_have_that_size_others_of_the_class_tell_or_nobody() -> None:
    graph = sc.trace(nn.Sequential(Layer(6, 24), nn.ReLU(), Layer(24, 24), Layer(24, 5)).eval(), X)
    assert [width.size for width in graph.free] == [24, 24]  # the first and the last layer tell
    small = sc.apply(graph.example.model, graph.plan({w.name: range(3 + 2 * i) for i, w in enumerate(graph.free)}))
    assert (small[2].in_features, small[2].out_features) == (3, 5)
    graph = sc.trace(nn.Sequential(nn.Linear(6, 24), nn.ReLU(), Layer(24, 24), nn.Linear(24, 5)).eval(), X)
    assert "reset_parameters()" in str(graph["0.out_features"].frozen)


class Lists(nn.Module):
    """Its own parameters in a list, and an optimizer that has stepped, for methods that no run calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 24), nn.Linear(24, 3)
        self.decayed = [self.first.weight, self.last.weight]
        self.optimizer = torch.optim.Adam(self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())

    def penalty(self) -> Tensor:
        return torch.stack([weight.norm() for weight in self.decayed]).sum()

    def train_step(self, x: Tensor) -> None:
        (self(x).square().mean() + self.penalty()).backward()
        self.optimizer.step()


def test_its_own_parameters_in_a_list_and_what_an_optimizer_keeps_of_them_keep_nothing_whole() -> None:
    model = Lists()
    model.train_step(X)
    assert [width.name for width in sc.trace(model, X).free] == ["first.out_features"]


class Prepared(nn.Module):
    """``latent`` is a size in `sample`, which the network that holds it has called when it was made, and nobody will again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Samples()
        if hasattr(self.inner, "sample"):
            self.inner.sample(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_size_that_only_a_constructor_needed_is_free() -> None:
    assert sc.trace(Prepared(), X)["inner.encoder.out_features"].frozen is None


class Shares(nn.Module):
    """A second parameter, and an array, that look at the memory of the first."""

    def __init__(self, *, transposed: bool, array: bool) -> None:
        super().__init__()
        data = torch.randn(10, 6)
        self.first, self.last = nn.Parameter(data), nn.Linear(6, 3)
        self.second = nn.Parameter(data.t() if transposed else data.t().clone())
        self.window = self.first.detach().numpy() if array else None

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(x @ self.first.T) @ self.second.T)


def test_parameters_on_one_memory_stay_as_they_are() -> None:
    free = {
        (transposed, array): len(sc.trace(Shares(transposed=transposed, array=array), X).free)
        for transposed in (False, True)
        for array in (False, True)
    }
    assert free[False, False] == 2
    assert free[True, False] == free[True, True] == 0
    assert free[False, True] == 1


def test_neighbours_in_one_buffer_are_no_aliases() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.randn(120)
            self.a, self.b = nn.Parameter(whole[:60].view(10, 6)), nn.Parameter(whole[60:].view(6, 10))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x @ self.a.T) @ self.b.T

    assert len(sc.trace(Flat(), X).free) == 1


class Steps(nn.Module):
    """``state`` is a size only where it goes on from a cache, which nobody gives; ``number`` says where it stands."""

    def __init__(self, number: int, width: int = 6, state: int = 10) -> None:
        super().__init__()
        self.number, self.state, self.taps = number, state, 7
        self.into, self.hidden, self.out = nn.Linear(width, state), nn.Linear(state, 7), nn.Linear(7, width)

    def forward(self, x: Tensor, cache: Tensor | None = None) -> Tensor:
        h = self.into(x)
        self.noted = (self.taps,)
        if cache is not None:
            h = self._step(h, cache)
        return x + self.out(torch.relu(self.hidden(h)))

    def _step(self, h: Tensor, cache: Tensor) -> Tensor:
        assert self.number
        return h + cache.view(-1, self.state)[self.taps]


class Stacked(nn.Module):
    """Layers that know their numbers, and something else that has as many units as the last one's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Steps(number) for number in (1, 2, 3))
        self.last = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


def test_a_size_that_only_a_method_uses_that_forward_did_not_call_keeps_its_width_whole() -> None:
    graph = sc.trace(Stacked(), X)
    for layer in range(3):
        assert "_step()" in str(graph[f"layers.{layer}.into.out_features"].frozen)
        # what the code names that did run would have been heard
        assert graph[f"layers.{layer}.hidden.out_features"].frozen is None
    assert graph["last.0.out_features"].frozen is None


class Heads(nn.Module):
    """As many heads as its number in the list."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.scale = number, nn.Linear(6, 2)

    def forward(self, x: Tensor, cache: Tensor | None = None) -> Tensor:
        y = self.scale(x)
        if cache is not None:
            y = self._again(y)
        return x + y.sum(-1, keepdim=True)

    def _again(self, y: Tensor) -> Tensor:
        return y.reshape(-1, 2) * self.number


def test_where_a_module_stands_in_its_list_is_no_size() -> None:
    graph = sc.trace(nn.Sequential(*(Heads(number) for number in (1, 2, 3))), X)
    assert graph["1.scale.out_features"].frozen is None


SETTINGS: dict[str, Callable[[], object]] = {
    "a namespace": lambda: argparse.Namespace(hidden=10, depth=12),
    "a dict": lambda: {"hidden": 10, "depth": 12},
    "a tuple": lambda: (1, 10),
    "a list": lambda: [6, 10],
    "a tensor": lambda: torch.rand(10),
    "an array": lambda: np.random.default_rng(0).random(10),
}


def _kept_in(make: Callable[[], object]) -> nn.Module:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = make()
            self.encoder, self.decoder = nn.Linear(6, 10), nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(torch.tanh(self.encoder(x)))

        def sample(self, number: int) -> Tensor:
            kept = self.kept.hidden if isinstance(self.kept, argparse.Namespace) else self.kept
            kept = kept["hidden"] if isinstance(kept, dict) else kept
            return self.decoder(torch.randn(number, 10) * torch.as_tensor(kept))

    return Keeps()


@pytest.mark.parametrize("kept", SETTINGS)
def test_a_size_that_is_kept_among_settings_or_by_a_tensor_keeps_its_width_whole(kept: str) -> None:
    graph = sc.trace(_kept_in(SETTINGS[kept]), X)
    assert "sample()" in str(graph["encoder.out_features"].frozen)
    assert graph["decoder.0.out_features"].frozen is None


class OfClass(nn.Module):
    LATENT = 10

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x)))

    def sample(self, number: int) -> Tensor:
        return self.decoder(torch.randn(number, self.LATENT))


def test_a_size_that_a_class_says_keeps_its_width_whole() -> None:
    assert "LATENT" in str(sc.trace(OfClass(), X)["encoder.out_features"].frozen)


class Shows(nn.Module):
    """The tensor that it holds is kept anew by the code that runs; its shape is that of the last output."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.seen = nn.Linear(6, 12), nn.Linear(12, 6), torch.rand(12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(torch.relu(self.up(x)))
        self.seen = y.detach()[0, :3]
        return y

    def last(self) -> Tensor:
        return self.seen


def test_a_tensor_that_code_which_ran_keeps_anew_is_no_size() -> None:
    assert sc.trace(Shows(), X)["up.out_features"].frozen is None


class Noisy(nn.Module):
    """A layer with noise on its weights, drawn anew by a method that the constructor calls first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight, self.sigma = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.ones(outputs, inputs))
        self.register_buffer("noise", torch.zeros(outputs, inputs))
        self.reset_noise()

    def spread(self, number: int) -> Tensor:
        drawn = torch.randn(number)
        return drawn.sign() * drawn.abs().sqrt()

    def reset_noise(self) -> None:
        self.noise.copy_(torch.outer(self.spread(self.outputs), self.spread(self.inputs)))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight + self.sigma * self.noise)


class NoisyAssigned(Noisy):
    def reset_noise(self) -> None:
        self.noise = torch.randn(self.outputs, self.inputs)


class NoisyReset(Noisy):
    def reset_noise(self) -> None:
        self.reset_parameters()

    def reset_parameters(self) -> None:
        make = torch.randn
        self.noise.copy_(make(self.outputs)[:, None] * make(self.inputs))


@pytest.mark.parametrize("kind", [Noisy, NoisyAssigned, NoisyReset])
def test_what_a_constructor_draws_and_others_draw_again_keeps_its_sizes(kind: type[Noisy]) -> None:
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), kind(24, 20), nn.ReLU(), nn.Linear(20, 3))
    graph = sc.trace(model, X)
    whole = [width for width in graph.widths if width.size in (20, 24)]
    assert len(whole) == 2
    assert all("where no run came" in str(width.frozen) for width in whole)


class Adapts(nn.Module):
    """A step of gradient descent on its own head before it answers, as MAML's inner loop has it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 24), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            loss = self.head(torch.relu(self.body(x))).square().mean()
            (slope,) = torch.autograd.grad(loss, self.head.weight)
        return nn.functional.linear(torch.relu(self.body(x)), self.head.weight - 0.1 * slope)


def test_a_model_that_differentiates_itself_is_not_blamed_on_the_example() -> None:
    with pytest.raises(sc.TraceError, match="differentiates as it runs") as told:
        sc.trace(Adapts(), X)
    assert "no fault of the dummy_input" in str(told.value)


class Rebuilt(nn.Module):
    """A head that can be given another layer, and layers that can be joined: what code of this kind makes is new."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features = self.width = 12
        self.body, self.head = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(x)))

    def reset_classifier(self, classes: int) -> None:
        self.head = nn.Linear(self.in_features, classes)

    def reparameterize(self) -> None:
        self.joined = self._made(torch.eye(self.width))

    def _made(self, weight: torch.Tensor) -> nn.Parameter:
        return nn.Parameter(weight)


def test_what_gives_a_module_other_layers_holds_no_width() -> None:
    graph = sc.trace(Rebuilt().eval(), torch.randn(2, 6))
    assert [w.size for w in graph.free] == [12]


class Prior(nn.Module):
    """What is sampled from is kept inside something: a dict, a list, a distribution."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.first, self.code, self.last = nn.Linear(6, 24), nn.Linear(24, 8), nn.Linear(8, 6)
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.code(self.first(x).relu()))

    def sample(self, number: int) -> Tensor:
        return self.last(next(iter(self.means())).expand(number, -1))

    def means(self) -> Iterator[Tensor]:
        match self.kept:
            case dict():
                yield from self.kept.values()
            case list():
                yield from self.kept
            case _:
                yield self.kept.sample()


@pytest.mark.parametrize(
    "kept",
    [{"mean": torch.zeros(8)}, [torch.zeros(8)], torch.distributions.Normal(torch.zeros(8), torch.ones(8))],
    ids=["dict", "list", "distribution"],
)
def test_tensors_inside_of_what_other_methods_read_keep_their_widths_whole(kept: Any) -> None:
    graph = sc.trace(Prior(kept).eval(), X)
    assert [width.name for width in graph.free] == ["first.out_features"]
    small = sc.apply(Prior(kept).eval(), sc.plan(graph, "l1", {"params": "60%"}), dummy_input=X, verify=False)
    assert small.sample(3).shape == (3, 6)


latent = Linear = nn.Linear  # the names of attributes, below


class Namesakes(nn.Module):
    """Its attributes have names that the file has for classes of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.latent, self.Linear = 24, nn.Linear(24, 3)
        self.body = nn.Linear(6, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.Linear(torch.relu(self.body(x)))

    def sample(self) -> Tensor:
        return self.Linear(torch.randn(2, self.latent))


def test_an_attribute_that_is_called_as_a_class_of_layers_builds_none() -> None:
    assert "sample()" in str(sc.trace(Namesakes(), X)["body.out_features"].frozen)


class Halves(nn.Module):
    """YOLOv8's C2f: ``c`` is a size in `forward_split` alone, which nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 8
        self.first, self.inner, self.last = nn.Linear(6, 16), nn.Linear(8, 8), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        return self.last(torch.cat([*parts, self.inner(parts[-1])], 1))

    def forward_split(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).split((self.c, self.c), 1))
        return self.last(torch.cat([*parts, self.inner(parts[-1])], 1))


class OfTheInput(Halves):
    """Here ``c`` is what it is given, and the layer only happens to be as large."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 6
        self.first = nn.Linear(6, 12)
        self.inner, self.last = nn.Linear(6, 6), nn.Linear(18, 5)

    def forward_split(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.c)


class OtherArguments(Halves):
    """It takes something else than forward does."""

    def forward_split(self, h: Tensor, scale: float) -> Tensor:  # type: ignore[override]
        return h.reshape(-1, self.c) * scale


@pytest.mark.parametrize("around", [lambda module: module, lambda module: nn.Sequential(nn.Linear(6, 6), module)])
def test_another_forward_is_heard_on_what_forward_is_given(around: Callable[[nn.Module], nn.Module]) -> None:
    model = around(Halves()).eval()
    graph = sc.trace(model, X)
    width = next(width for width in graph.free if width.size == 8 and width.name.endswith("c"))
    small = sc.apply(model, graph.plan({width.name: range(5)}))
    block = small if isinstance(small, Halves) else small[1]
    assert block.c == 5
    h = X if isinstance(small, Halves) else small[0](X)
    torch.testing.assert_close(block.forward_split(h), block(h))


@pytest.mark.parametrize("kind", [OfTheInput, OtherArguments])
def test_one_that_says_nothing_of_a_width_leaves_what_may_be_it_whole(kind: type[Halves]) -> None:
    frozen = {width.frozen for width in sc.trace(kind(), X).widths if width.size == kind().c}
    assert any("forward_split()" in str(reason) for reason in frozen)
