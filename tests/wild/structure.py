"""How modules and tensors are kept: containers, names, cycles, things that come and go, unusual parameters."""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild

ROWS = lambda: (floats(4, 6),)
IMAGE = lambda: (floats(2, 3, 8, 8),)


@wild(ROWS)
class DictOfModules(nn.Module):
    """Modules in a plain dict, registered besides; keys that are classes and tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[Any, nn.Module] = {("in", 0): nn.Linear(6, 12), nn.ReLU: nn.ReLU(), 7: nn.Linear(12, 3)}
        for i, part in enumerate(self.parts.values()):
            self.add_module(f"part {i}", part)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = part(x)
        return x


@wild(ROWS)
class OddNames(nn.Module):
    """Names with spaces, unicode, dashes; a parameter called `kept`; modules called `weight` and `0`."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("größe 1", nn.Linear(6, 12))
        self.add_module("weight", nn.Linear(12, 12))
        self.add_module("a-b", nn.ModuleDict({"0": nn.Linear(12, 3), "forward_": nn.Identity()}))
        self.kept = nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(getattr(self, "größe 1")(x)) * self.kept
        return getattr(self, "a-b")["0"](torch.relu(self.weight(h)))


@wild(ROWS)
class Nested(nn.Module):
    """Lists in dicts in lists of modules, and parameters likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = nn.ModuleList(
            [nn.ModuleDict({"a": nn.ModuleList([nn.Linear(6, 12)]), "b": nn.Sequential(nn.Linear(12, 12))})]
        )
        self.scales = nn.ParameterDict({"x": nn.Parameter(torch.rand(12)), "y": nn.Parameter(torch.rand(12))})
        self.out = nn.ParameterList([torch.randn(3, 12), torch.randn(3)])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.tree[0]["a"][0](x)) * self.scales["x"]  # type: ignore[index]
        return F.linear(torch.relu(self.tree[0]["b"](h)) + self.scales["y"], self.out[0], self.out[1])  # type: ignore[index]


@wild(ROWS)
class Scalars(nn.Module):
    """Parameters without dimensions, of one element, empty ones, None; buffers of each."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12, bias=False), nn.Linear(12, 3)
        self.temperature, self.one, self.nothing = (
            nn.Parameter(torch.tensor(2.0)),
            nn.Parameter(torch.rand(1)),
            nn.Parameter(torch.empty(0)),
        )
        self.register_parameter("absent", None)
        self.register_buffer("gone", None)
        self.register_buffer("flag", torch.tensor(True))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x) / self.temperature + self.one + self.nothing.sum()
        return self.fc2(torch.relu(h) if self.flag and self.absent is None else h)


@wild(ROWS)
class ManyAxes(nn.Module):
    """A weight of five dimensions, contracted along several by einsum and tensordot."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.core, self.out = nn.Linear(6, 12), nn.Parameter(torch.randn(3, 4, 2, 5, 3) / 4), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x).view(-1, 3, 4)
        return self.out(torch.tensordot(h, self.core, dims=([1, 2], [0, 1])).flatten(1))


@wild(ROWS)
class TensorTrain(nn.Module):
    """A weight as a train of cores, with ranks between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = (
            nn.Parameter(torch.randn(2, 4, 5) / 2),
            nn.Parameter(torch.randn(5, 3, 3) / 3),
            nn.Linear(12, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.einsum("bij,ikr,rjl->bkl", x.view(-1, 2, 3), self.a, self.b)
        return self.out(torch.relu(h.flatten(1)))


@wild(ROWS)
class CycleOfModules(nn.Module):
    """Parts that know each other through the module tree itself."""

    class Part(nn.Module):
        """Has a partner outside the registry."""

        def __init__(self, a: int, b: int) -> None:
            super().__init__()
            self.fc = nn.Linear(a, b)

        def join(self, other: nn.Module) -> None:
            """A reference that is not a child."""
            object.__setattr__(self, "other", other)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.fc(x)) * self.other.fc.weight.norm()  # type: ignore[attr-defined]

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = self.Part(6, 12), self.Part(12, 12), nn.Linear(12, 3)
        self.a.join(self.b)
        self.b.join(self.a)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x)))


@wild(ROWS)
class ComesAndGoes(nn.Module):
    """Attributes deleted and made in forward, modules replaced by others of the same class."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.state = nn.Linear(6, 12), nn.Linear(12, 3), OrderedDict(a=1)

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = torch.relu(self.fc1(x))
        self.state.move_to_end("a")
        self.state["b"] = self.state.pop("b", 0) + 1
        h = self.hidden
        del self.hidden
        return self.fc2(h)


@wild(ROWS)
class GeneratorForward(nn.Module):
    """A generator yields layers' outputs; the caller sends values into it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """One layer at a time."""
        for layer in (self.fc1, self.fc2):
            x = torch.relu(layer(x))
            yield x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(sum(self.steps(x)))


@wild(ROWS)
class Recursive(nn.Module):
    """Calls itself with a depth, sharing a block; a nested function with `nonlocal`."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.block, self.out = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, depth: int = 3) -> Tensor:
        if depth == 3:
            x = self.inp(x)
        if depth == 0:
            return self.out(x)
        total = x

        def add(y: Tensor) -> None:
            nonlocal total
            total = total + y

        add(torch.tanh(self.block(x)))
        return self.forward(total, depth - 1)


@wild(ROWS)
class Asynchronous(nn.Module):
    """Branches as coroutines of an event loop, a context variable set inside."""

    SCALE: contextvars.ContextVar[float] = contextvars.ContextVar("scale", default=1.0)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 3)

    async def branch(self, layer: nn.Module, x: Tensor) -> Tensor:
        """One branch."""
        await asyncio.sleep(0)
        return layer(x) * self.SCALE.get()

    def forward(self, x: Tensor) -> Tensor:
        async def both() -> list[Tensor]:
            self.SCALE.set(0.5)
            return await asyncio.gather(self.branch(self.a, x), self.branch(self.b, x))

        loop = asyncio.new_event_loop()
        try:
            return self.out(torch.relu(sum(loop.run_until_complete(both()))))
        finally:
            loop.close()


@wild(ROWS)
class ContextStack(nn.Module):
    """A context manager of its own keeps a stack in an attribute while layers run."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)
        self.stack: list[str] = []

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Remembers a name while it lasts."""
        self.stack.append(name)
        try:
            yield
        finally:
            self.stack.pop()

    def forward(self, x: Tensor) -> Tensor:
        with self.scope("first"):
            h = self.fc1(x) * len(self.stack)
        with self.scope("second"), self.scope("third"):
            return self.fc2(torch.relu(h)) / len(self.stack)


@wild(IMAGE)
class TogglesModes(nn.Module):
    """Puts parts into evaluation mode in forward, `requires_grad_` off and on, and `self.apply`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        was = self.norm.training
        self.norm.eval()
        self.conv1.requires_grad_(self.conv1.weight.requires_grad)
        h = torch.relu(self.norm(self.conv1(x)))
        self.norm.train(was)
        return self.conv2(h)


@wild(ROWS)
class HooksInForward(nn.Module):
    """Registers a hook in forward, reads what it caught, removes it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        caught: list[Tensor] = []
        handle = self.fc1.register_forward_hook(lambda m, a, out: caught.append(out))
        self.fc1(x)
        handle.remove()
        return self.fc2(torch.relu(caught[0]))


@wild(ROWS)
class OverridesCall(nn.Module):
    """`__call__` is overridden, forward is not what runs first."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def __call__(self, x: Tensor) -> Any:
        return super().__call__(x * 0.5) + 1

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


@wild(ROWS)
class SparseWeights(nn.Module):
    """A CSR matrix as buffer, a coalesced COO one made in forward, dense weights around."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(10, 3)
        self.register_buffer("mix", (torch.randn(10, 12) * (torch.rand(10, 12) > 0.6)).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.sparse.mm(self.mix.to(x.dtype), torch.relu(self.fc1(x)).T).T)


@wild(lambda: (floats(2, 3, 8, 8).contiguous(memory_format=torch.channels_last),))
class ChannelsLastFlatten(nn.Module):
    """Channels-last memory, flattened in that order by `permute`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3), nn.Linear(5 * 16, 3)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc(h.permute(0, 2, 3, 1).reshape(len(x), -1))


@wild(IMAGE)
class NormsOfManyKinds(nn.Module):
    """LayerNorm over channels and space, GroupNorm with `min(4, c)` groups, RMSNorm, norms over tokens, none affine."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 1), nn.Linear(12, 4)
        self.layer, self.group = nn.LayerNorm([8, 6, 6]), nn.GroupNorm(min(4, 12), 12)
        self.rms, self.tokens = nn.RMSNorm(12), nn.BatchNorm1d(36, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.layer(self.conv1(x)))
        h = self.rms(self.group(self.conv2(h)).flatten(2).mT)
        return self.fc(self.tokens(h).mean(1))


@wild(IMAGE)
class ScaledByFanIn(nn.Module):
    """Constants computed at construction from sizes, kept as floats and tensors; these must stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.scale, self.register = 8**-0.5, None
        self.register_buffer("factor", torch.tensor(8.0).rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(torch.relu(self.conv1(x)) * self.scale) * self.factor
