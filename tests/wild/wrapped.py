"""Models inside other machinery: TorchScript, fx, export, compile, data parallelism, functional calls, subclasses."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)


class Body(nn.Module):
    """What is wrapped."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2, self.hidden = nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Linear(12, 3), 12

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.norm(self.fc1(x))))


class Branching(nn.Module):
    """For scripting: control flow on data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.mean() > 0):
            return self.a(x)
        return self.b(x)


def _quietly(make: Any) -> Any:
    def build() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()

    return build


wild(ROWS, name="Scripted")(_quietly(lambda: torch.jit.script(Body().eval())))
wild(ROWS, name="Traced")(_quietly(lambda: torch.jit.trace(Body().eval(), torch.randn(4, 6))))
wild(ROWS, name="FrozenScript")(_quietly(lambda: torch.jit.freeze(torch.jit.script(Body().eval()))))
wild(ROWS, name="ScriptedPart")(
    _quietly(lambda: nn.Sequential(nn.Linear(6, 12), torch.jit.script(Branching()), nn.ReLU(), nn.Linear(12, 3)))
)
wild(ROWS, name="TracedPart")(
    _quietly(
        lambda: nn.Sequential(
            nn.Linear(6, 12), torch.jit.trace(nn.Linear(12, 9), torch.randn(4, 12)), nn.ReLU(), nn.Linear(9, 3)
        )
    )
)
wild(ROWS, name="ScriptedActivation")(
    _quietly(lambda: nn.Sequential(nn.Linear(6, 12), torch.jit.script(nn.GELU()), nn.Linear(12, 3)))
)


@torch.jit.script
def _fused_gelu(x: Tensor, bias: Tensor) -> Tensor:
    y = x + bias
    return y * 0.5 * (1.0 + torch.tanh(0.79788456 * y * (1 + 0.044715 * y * y)))


@wild(ROWS)
class ScriptedFunction(nn.Module):
    """A scripted function between layers, Megatron's fused bias and GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bias, self.fc2 = nn.Linear(6, 12, bias=False), nn.Parameter(torch.randn(12)), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(_fused_gelu(self.fc1(x), self.bias))


wild(ROWS, name="SymbolicTrace")(lambda: torch.fx.symbolic_trace(Body()))
wild(ROWS, name="Exported")(_quietly(lambda: torch.export.export(Body().eval(), (torch.randn(4, 6),)).module()))


def _compiled() -> nn.Module:
    model = torch.compile(Body().eval(), backend="eager")
    model(torch.randn(4, 6))  # dynamo changes namespaces when it first compiles
    return model  # type: ignore[return-value]


wild(ROWS, name="Compiled")(_quietly(_compiled))
wild(ROWS, name="DataParallel")(lambda: nn.DataParallel(Body()))


def _group() -> None:
    if dist.is_initialized():
        return
    path = os.path.join(tempfile.mkdtemp(), "store")
    dist.init_process_group("gloo", store=dist.FileStore(path, 1), rank=0, world_size=1)


def _with_group(make: Any) -> Any:
    def build() -> nn.Module:
        _group()
        return make()

    return build


_GLOO = ["torch.distributed"] if dist.is_available() and dist.is_gloo_available() else ["gloo_is_missing"]
wild(ROWS, name="DistributedDataParallel", needs=_GLOO)(
    _with_group(lambda: nn.parallel.DistributedDataParallel(Body()))
)


def _part_in_ddp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 12), nn.parallel.DistributedDataParallel(nn.Linear(12, 9)), nn.ReLU(), nn.Linear(9, 3)
    )


wild(ROWS, name="PartInDDP", needs=_GLOO)(_with_group(_part_in_ddp))
wild(ROWS, name="SyncBatchNorm", needs=_GLOO)(_with_group(lambda: nn.SyncBatchNorm.convert_sync_batchnorm(Body())))


class Wrapper(nn.Module):
    """Hands everything on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


wild(ROWS, name="WrappedTwice")(lambda: Wrapper(Wrapper(Body())))
wild(ROWS, name="Averaged")(lambda: torch.optim.swa_utils.AveragedModel(Body()))
wild(ROWS, name="EMA")(
    lambda: torch.optim.swa_utils.AveragedModel(Body(), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
)


@wild(ROWS)
class Ensemble(nn.Module):
    """`torch.func.stack_module_state` and `functional_call` under `vmap`."""

    def __init__(self) -> None:
        super().__init__()
        members = [nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)) for _ in range(3)]
        stacked, _ = torch.func.stack_module_state(members)
        self.weights = nn.ParameterDict({k.replace(".", "_"): nn.Parameter(v.detach()) for k, v in stacked.items()})
        self.names = {k.replace(".", "_"): k for k in stacked}
        self.base = [members[0].to("meta")]

    def forward(self, x: Tensor) -> Tensor:
        weights = {self.names[k]: v for k, v in self.weights.items()}
        return torch.vmap(lambda w: torch.func.functional_call(self.base[0], w, (x,)))(weights).mean(0)


class Tagged(Tensor):
    """A tensor subclass that survives operations."""


@wild(ROWS)
class SubclassParameter(nn.Module):
    """A parameter of a tensor subclass, and one with methods of its own."""

    class Special(nn.Parameter):
        """A parameter with a name."""

        kind = "special"

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(12, 6).as_subclass(Tagged))
        self.w2 = self.Special(torch.randn(3, 12))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(x, self.w1).as_subclass(Tensor)), self.w2)


@wild(ROWS)
class FunctionMode(nn.Module):
    """Works inside a `TorchFunctionMode` of its own."""

    class Scale(torch.overrides.TorchFunctionMode):
        """Doubles what `relu` gives."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            return out * 2 if func is torch.relu else out

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        with self.Scale():
            return self.fc2(torch.relu(self.fc1(x)))


def _lazy() -> nn.Module:
    model = nn.Sequential(nn.LazyLinear(12), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))
    model(torch.randn(4, 6))
    return model


wild(ROWS, name="LazyMade")(_lazy)
wild(ROWS, name="LazyUnmade")(lambda: nn.Sequential(nn.LazyLinear(12), nn.ReLU(), nn.LazyLinear(3)))


@wild(ROWS)
class LazyByHand(nn.Module):
    """Makes its first layer on the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1: nn.Module | None = None
        self.fc2 = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.fc1 is None:
            torch.manual_seed(3)
            self.fc1 = nn.Linear(x.shape[1], 12, dtype=x.dtype)
        return self.fc2(torch.relu(self.fc1(x)))


@wild(ROWS)
class GrowsLayers(nn.Module):
    """Appends to its own ModuleList in forward, and takes off again."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 12), nn.Linear(12, 3)])

    def forward(self, x: Tensor) -> Tensor:
        self.layers.insert(1, nn.ReLU())
        for layer in self.layers:
            x = layer(x)
        del self.layers[1]
        return x


@wild(ROWS)
class TorchDispatchInside(nn.Module):
    """Counts its operations with a dispatch mode, and uses a saved-tensor hook."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t), contextlib.ExitStack() as stack:
            stack.enter_context(torch.profiler.record_function("body"))
            return self.fc2(torch.relu(self.fc1(x)))
