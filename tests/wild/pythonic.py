"""Python as it is written: closures, partials, patches, hooks, configurations of every kind, descriptors, proxies."""

from __future__ import annotations

import functools
import itertools
import operator
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, ids, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)
TOKENS = lambda: (floats(2, 5, 12),)


@wild(IMAGE)
class LiteralGroups(nn.Module):
    """`F.group_norm(x, 4)`, `groups=4`, `split(3)`, `x[:, : c // 2]`, `chunk(2)`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3, padding=1, groups=4)
        self.conv3, self.conv4 = nn.Conv2d(12, 8, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(F.group_norm(self.conv1(x), 4))
        a, b, c, d = self.conv2(h).split(3, 1)
        h = self.conv3(torch.cat([a, c, b, d], 1))
        return self.conv4(h[:, : h.shape[1] // 2] * torch.sigmoid(h[:, h.shape[1] // 2 :]))


@wild(ROWS)
class Lambdas(nn.Module):
    """Layers in lambdas and partials, composed by `reduce`; an operator from a table."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.steps: list[Callable[[Tensor], Tensor]] = [
            lambda x: torch.relu(self.fc1(x)),
            functools.partial(self.residual, scale=0.5),
            functools.partial(operator.mul, 2.0),
        ]

    def residual(self, x: Tensor, *, scale: float) -> Tensor:
        """x plus a part of a layer of it."""
        return x + scale * torch.tanh(self.fc2(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(functools.reduce(lambda h, step: step(h), self.steps, x))


def _patched() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.Linear(12, 3))
    first = model[2]

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return x + F.linear(x, self.weight, self.bias) / self.out_features**0.5

    first.forward = types.MethodType(forward, first)
    return model


wild(ROWS, name="MonkeyPatchedForward")(_patched)


def _patched_closure() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.Linear(12, 3))
    layer, before = model[2], model[2].forward
    layer.forward = lambda x: before(x) + before(torch.flip(x, [0]))
    return model


wild(ROWS, name="PatchedByClosure")(_patched_closure)


def _hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].register_forward_hook(lambda module, args, out: out * 1.5)
    model[2].register_forward_pre_hook(lambda module, args: (args[0] + 0.1,))
    model[3].register_forward_hook(lambda module, args, kwargs, out: out - out.mean(), with_kwargs=True)
    model[4].register_full_backward_hook(lambda module, gin, gout: None)
    return model


wild(ROWS, name="HooksThatChange")(_hooked)


def _hook_by_place() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    model[1].register_forward_hook(lambda module, args, out: out * torch.linspace(0, 1, 12).to(out))
    return model


wild(ROWS, name="HookKnowsPlaces")(_hook_by_place)


@wild(ROWS)
class Delegates(nn.Module):
    """A wrapper that hands on unknown attributes, as many libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
        self.inner.scale = 2.0  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


@wild(ROWS)
class Descriptors(nn.Module):
    """Weights through properties, `__getitem__`, `cached_property`, a setter that counts."""

    def __init__(self) -> None:
        super().__init__()
        self._layers = nn.ModuleList([nn.Linear(6, 12), nn.Linear(12, 3)])
        self.reads = 0

    @property
    def first(self) -> nn.Module:
        """A layer; counts who asks."""
        self.reads += 1
        return self._layers[0]

    @functools.cached_property
    def half(self) -> int:
        """Half of the hidden size, remembered."""
        return self._layers[0].out_features // 2

    def __getitem__(self, index: int) -> nn.Module:
        return self._layers[index]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self[1](torch.cat([h[:, self.half :], h[:, : self.half]], 1))


@wild(ROWS)
class Metaprogrammed(nn.Module):
    """Layers by `setattr` and `getattr`, `exec`-made forward, `nn.Module` as a function's attribute."""

    def __init__(self) -> None:
        super().__init__()
        for i, (a, b) in enumerate(((6, 12), (12, 9), (9, 3))):
            setattr(self, f"layer_{i}", nn.Linear(a, b))
        self.n_layers = 3

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.n_layers):
            x = getattr(self, f"layer_{i}")(x)
            x = torch.relu(x) if i < self.n_layers - 1 else x
        return x


@wild(ROWS)
class Inherited(nn.Linear):
    """A model that *is* a Linear, with a body around `super().forward`."""

    def __init__(self) -> None:
        super().__init__(12, 3)
        self.body = nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.relu(self.body(x))) / self.in_features**0.5


@wild(ROWS)
class SequentialSubclass(nn.Sequential):
    """A Sequential that skips and repeats."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self[1](self[0](x))
        for layer in itertools.islice(self, 1, 3):
            h = h + layer(h)
        return self[-1](h)


@wild(TOKENS)
class KeywordsOnly(nn.Module):
    """Submodules called with keywords, `*args`, `**kwargs`, defaults from attributes."""

    class Layer(nn.Module):
        """Takes keywords."""

        def __init__(self) -> None:
            super().__init__()
            self.fc, self.default = nn.Linear(12, 12), 12

        def forward(self, *, values: Tensor, width: int | None = None, **more: Any) -> Tensor:
            return self.fc(values).reshape(-1, width or self.default) * more.get("scale", 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = self.Layer(), self.Layer(), nn.Linear(12, 4)

    def forward(self, *args: Tensor, **kwargs: Any) -> Tensor:
        return self.head(self.b(values=torch.relu(self.a(values=args[0])), scale=0.5, **kwargs))


class _Swish(torch.autograd.Function):
    """A function with a hand-written derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, beta)
        return x * torch.sigmoid(beta * x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        x, beta = ctx.saved_tensors
        s = torch.sigmoid(beta * x)
        ds = s * (1 - s)
        return g * (s + beta * x * ds), (g * x * x * ds).sum(0)


@wild(ROWS)
class CustomAutograd(nn.Module):
    """An autograd.Function with a parameter along the width."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.beta, self.fc2 = nn.Linear(6, 12), nn.Parameter(torch.rand(12)), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(_Swish.apply(self.fc1(x), self.beta))


@wild(ROWS)
class Checkpointed(nn.Module):
    """Blocks recomputed in the backward pass, both ways of it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.block, self.fc2 = (
            nn.Linear(6, 12),
            nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12)),
            nn.Linear(12, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.utils.checkpoint.checkpoint(self.fc1, x, use_reentrant=False)
        return self.fc2(h + torch.utils.checkpoint.checkpoint(self.block, h, use_reentrant=False))


@wild(ROWS)
class Vectorised(nn.Module):
    """`torch.vmap` over rows, `torch.func.jacrev` of a layer, an ensemble of stacked weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)
        self.w, self.b = nn.Parameter(torch.randn(4, 12, 12) / 3), nn.Parameter(torch.randn(4, 12))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc1(x))
        members = torch.vmap(lambda w, b: torch.tanh(h @ w + b))(self.w, self.b)
        return torch.vmap(self.fc2)(members.mean(0))


@wild(ROWS)
class InferenceInside(nn.Module):
    """A feature extractor under `no_grad`, a head that trains; `requires_grad` toggled in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 12), nn.ReLU()), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.body(x)
        return self.head(h.detach())


@wild(ROWS)
class InferenceModeInside(nn.Module):
    """`torch.inference_mode()` around the body while evaluating."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 12), nn.ReLU()), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode(not self.training):
            return self.head(self.body(x))


@wild(lambda: (ids(9, 2, 5),))
class AutocastInside(nn.Module):
    """bfloat16 by autocast around a block, a float32 norm written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down, self.weight = (
            nn.Embedding(9, 8),
            nn.Linear(8, 20),
            nn.Linear(20, 8),
            nn.Parameter(torch.ones(8)),
        )
        self.head = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.down(F.gelu(self.up(x)))
        x = x + y.to(x.dtype)
        x = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(x.dtype) * self.weight
        return self.head(x)


@wild(IMAGE)
class Registry(nn.Module):
    """Blocks by name from a table, built from a list of tuples kept as an attribute and read in forward."""

    BLOCKS: dict[str, Callable[[int, int], nn.Module]] = {  # noqa: RUF012  as found in the wild
        "conv": lambda a, b: nn.Conv2d(a, b, 3, padding=1),
        "dw": lambda a, b: nn.Conv2d(a, b, 3, padding=1, groups=a),
        "pool": lambda a, b: nn.AvgPool2d(2),
    }

    def __init__(self) -> None:
        super().__init__()
        self.spec = [("conv", 3, 8), ("dw", 8, 8), ("pool", 8, 8), ("conv", 8, 12)]
        self.blocks = nn.ModuleList(self.BLOCKS[kind](a, b) for kind, a, b in self.spec)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        for (kind, a, b), block in zip(self.spec, self.blocks):
            assert x.shape[1] == a
            y = block(x)
            x = F.relu(y) + x if a == b and kind != "pool" else F.relu(y)
        return self.head(x.mean((2, 3)))


@wild(IMAGE)
class ChecksShapes(nn.Module):
    """Assertions on sizes, an error for a wrong channel count, a warning by f-string."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.expected = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), 8

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x))
        if h.shape[1] != self.expected:
            raise ValueError(f"expected {self.expected} channels, got {h.shape[1]}")
        assert tuple(h.shape[1:]) == (8, 6, 6), h.shape
        return self.conv2(h)
