"""Memory that code keeps to write into says nothing of widths; what modules keep beside each other is one number."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc

_BUFFERS: dict[torch.device, Tensor] = {}


def _buffer(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A piece of the process's one buffer, as Megatron-Core has it."""
    number = 1
    for size in shape:
        number *= size
    if like.device not in _BUFFERS or _BUFFERS[like.device].numel() < number:
        _BUFFERS[like.device] = torch.empty(number, device=like.device)
    return _BUFFERS[like.device][0:number].view(*shape)


@dataclass
class Sizes:
    """What the network is built from; not a configuration of transformers."""

    hidden: int = 16
    heads: int = 4
    groups: int = 2
    width: int = 4
    layers: int = 2


class Core(nn.Module):
    """Attention proper, with numbers of its own."""

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        self.heads, self.groups, self.out = config.heads, config.groups, config.heads * config.width

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.heads // self.groups > 1:
            k, v = (t.repeat_interleave(self.heads // self.groups, dim=2) for t in (k, v))
        b, t, h, d = q.shape
        q, k, v = (x.transpose(1, 2).reshape(b * h, t, d) for x in (q, k, v))
        scores = torch.baddbmm(_buffer((b * h, t, t), q), q, k.transpose(1, 2), beta=0.0)
        y = torch.bmm(scores.softmax(-1), v).view(b, h, t, d)
        return y.transpose(1, 2).reshape(b, t, self.out)


class Layer(nn.Module):
    def __init__(self, config: Sizes, number: int) -> None:
        super().__init__()
        self.number, self.heads, self.groups, self.width = number, config.heads, config.groups, config.width
        self.qkv = nn.Linear(config.hidden, (config.heads + 2 * config.groups) * config.width)
        self.core, self.proj = Core(config), nn.Linear(config.heads * config.width, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        each = self.heads // self.groups
        mixed = self.qkv(x).view(*x.shape[:-1], self.groups, (each + 2) * self.width)
        q, k, v = torch.split(mixed, [each * self.width, self.width, self.width], dim=3)
        return x + self.proj(self.core(q.reshape(*x.shape[:-1], -1, self.width), k, v))


class Network(nn.Module):
    def __init__(self, config: Sizes, scale: float = 1.0) -> None:
        super().__init__()
        self.config, self.scale = config, scale
        self.inp, self.out = nn.Linear(6, config.hidden), nn.Linear(config.hidden, 3)
        self.layers = nn.ModuleList(Layer(config, i + 1) for i in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for layer in self.layers:
            x = layer(x)
        return self.out(x) * self.scale


X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


def _network(**sizes: int) -> Any:
    torch.manual_seed(0)
    return Network(Sizes(**sizes), scale=0.5).eval()


@pytest.mark.parametrize("warm", [False, True])
def test_layers_that_share_a_buffer_keep_heads_of_their_own(warm: bool) -> None:
    _BUFFERS.clear()
    model = _network()
    if warm:
        model(X)
    graph = sc.trace(model, X)
    groups = [width.name for width in graph.free if width.kind == "groups"]
    assert groups == ["layers.0.groups", "layers.1.groups"]
    small = sc.apply(model, graph.plan({"layers.0.groups": [1]}))
    assert small.layers[0].core.heads == small.layers[0].heads == 2
    assert small.layers[1].core.groups == 2


def test_a_matrix_of_random_features_follows_the_heads_that_it_is_read_with() -> None:
    """Its other axis belongs to no parameter, so to no width: it stays as it is."""

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.out, self.heads = nn.Linear(6, 16), nn.Linear(2, 3), 2
            self.register_buffer("P", torch.randn(10, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = self.q(x)
            heads = q.view(len(x), self.heads, q.shape[-1] // self.heads)
            return self.out((heads @ self.P.t() - heads.square().sum(-1, keepdim=True)).exp().sum(-1))

    model, x = Features().eval(), torch.randn(4, 6)
    graph = sc.trace(model, x)
    (width,) = (w for w in graph.free if w.size == 8)
    kept = [0, 2, 3, 7]
    small = sc.apply(model, graph.plan({width.name: kept}))
    rows = torch.tensor([head * 8 + k for head in range(2) for k in kept])
    heads = (x @ model.q.weight[rows].T + model.q.bias[rows]).view(4, 2, 4)
    features = (heads @ model.P[:, kept].T - heads.square().sum(-1, keepdim=True)).exp().sum(-1)
    assert torch.allclose(small(x), model.out(features), rtol=1e-4, atol=1e-4)


def test_what_is_read_from_a_buffer_is_tied_to_it() -> None:
    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 4), nn.Linear(6, 8), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            both = torch.empty(x.shape[0], 12)
            both[:, :4], both[:, 4:] = self.a(x), self.b(x)
            return self.out(F.relu(both))

    model = Filled().eval()
    graph = sc.trace(model, X[0])
    for width in graph.free:
        sc.verify(model, graph.plan({width.name: range(2)}))


def test_a_comparison_of_a_quotient_holds_only_what_it_depends_on() -> None:
    graph = sc.trace(_network(heads=6), X)
    inside = [width for width in graph.free if width.size == 3]
    assert len(inside) == 2
    assert all(width.choices == (2, 3) for width in inside), "one head a group would take the other branch"
    assert all(width.choices == (1, 2) for width in graph.free if width.kind == "groups")


def test_a_dataclass_that_a_model_is_built_from_says_what_is_left() -> None:
    model = _network()
    sc.prune(model, "magnitude", {"params": "50%"}, X, {"only": ["inp.out_features"], "verify": False})
    assert model.config.hidden == model.inp.out_features < 16
    assert model.config.heads == 4
    again = Network(model.config, scale=0.5).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(X), model(X))


def test_a_dataclass_that_only_goes_by_that_name_is_left_alone() -> None:
    class Other(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.config = Sizes(hidden=99)
            self.a, self.b = nn.Linear(6, width), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    model = Other(16).eval()
    small = sc.apply(model, sc.trace(model, X[0]).plan({"a.out_features": range(8)}))
    assert small.config == Sizes(hidden=99)


def test_operators_that_ignore_a_tensor_do_not_read_it() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(torch.ones(5, 8), x, self.w, beta=0) @ self.v

    graph = sc.trace(Biased().eval(), X[0])
    assert [width.size for width in graph.free if len(width.choices) > 1] == [8]
