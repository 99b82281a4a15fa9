"""What a candidate shares with the whole network is computed once.

    whole       conv1 ── bn1 ── relu ── conv2 ── …        each call's inputs and output are recorded
    candidate   conv1 ── bn1 ── relu ── conv2' ── …       the same function of the same numbers: the recorded output

Candidates that narrow one width are the whole network up to there. Only pure functions of tensors are replayed; the code
of the model, its hooks and its randomness run as ever.

Invariant: a result is replayed only where function, options, weights and the numbers of every input are those recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _len_torch_dispatch_stack

from secateur.torch.running.calls import Args, Function, Kwargs, Result
from secateur.torch.running.memory import free_beside

MOST_BYTES = 2**32  # of recorded results, and never more than a quarter of the free memory


_PURE: frozenset[Function] = frozenset(
    {
        *(torch.conv1d, torch.conv2d, torch.conv3d),
        *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
        *(F.linear, torch.matmul, torch.Tensor.matmul, torch.bmm, torch.Tensor.bmm),
        *(F.batch_norm, F.layer_norm, F.group_norm, F.rms_norm),
        *(F.relu, torch.relu, F.relu6, F.hardtanh, F.leaky_relu, F.gelu, F.silu, F.hardswish, F.hardsigmoid),
        *(torch.sigmoid, torch.Tensor.sigmoid, F.sigmoid),
        *(torch.add, torch.Tensor.add, torch.mul, torch.Tensor.mul),
        *(torch.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d),
    }
)


@dataclass(frozen=True, slots=True)
class _Before:
    """A tensor as it was: ``version`` tells whether it was written into since, ``numbers`` are what it had."""

    tensor: torch.Tensor
    numbers: torch.Tensor  # detached: assigning to the tensor's .data does not reach it
    version: int
    pointer: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Before:
        return cls(tensor, tensor.detach(), tensor._version, tensor.data_ptr())

    @property
    def unchanged(self) -> bool:
        return self.numbers._version == self.version

    def equals(self, tensor: torch.Tensor) -> bool:
        """Whether these are the same numbers laid out in the same way."""
        if tensor is self.tensor and tensor.data_ptr() == self.pointer:
            return tensor._version == self.version
        mine = self.numbers
        return (
            tensor.shape == mine.shape
            and tensor.dtype is mine.dtype
            and tensor.device == mine.device
            and _is_plain(tensor)
            and tensor.stride() == mine.stride()
            and self.unchanged
            and (tensor.data_ptr() == self.pointer or torch.equal(tensor, mine))
        )


@dataclass(frozen=True, slots=True)
class _RecordedCall:
    """One call: tensors among its arguments as `_Before`, and the running statistics that it leaves behind."""

    function: Function
    given: tuple[Any, ...]
    output: _Before
    statistics: tuple[torch.Tensor, ...]

    @property
    def is_intact(self) -> bool:
        return self.output.unchanged and all(not isinstance(e, _Before) or e.unchanged for e in self.given)

    def matches(self, function: Function, given: Sequence[Any]) -> bool:
        if function is not self.function or len(given) != len(self.given) or not self.output.unchanged:
            return False
        for then, now in zip(self.given, given, strict=True):
            if type(then) is _Before:
                if not isinstance(now, torch.Tensor) or not then.equals(now):
                    return False
            elif type(now) is not type(then) or now != then:
                return False
        return True


class Replay(TorchFunctionMode):
    """Results by their place in an evaluation. The first pass through a phase records, later ones replay."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        super().__init__()
        self.hits = 0
        self._room = most_bytes
        self._calls: dict[tuple[str, int], _RecordedCall] = {}
        self._storages: set[int] = set()  # of recorded outputs, which are kept alive by their records
        self._begun: set[str] = set()
        self._phase, self._place, self._records = "", 0, False

    @classmethod
    def beside(cls, model: nn.Module) -> Replay:
        """One that leaves room on the model's device."""
        return cls(min(MOST_BYTES, free_beside(model) // 4))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A part of every evaluation that makes about the same calls each time."""
        self._phase, self._place, self._records = name, 0, name not in self._begun
        self._begun.add(name)
        with self:
            yield
        if self._records:
            self._calls = {place: call for place, call in self._calls.items() if call.is_intact}
            self._storages = {call.output.tensor.untyped_storage().data_ptr() for call in self._calls.values()}

    def __torch_function__(
        self, func: Function, types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Result:
        kwargs = kwargs or {}
        if func not in _PURE or not args or _is_watched():
            return func(*args, **kwargs)
        if not torch.is_inference_mode_enabled():
            return self._one(func, args, kwargs)
        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # inference tensors do not tell whether they were written into
            return self._one(func, args, kwargs)

    def _one(self, function: Function, args: Args, kwargs: Kwargs) -> Result:
        place = (self._phase, self._place)
        self._place += 1
        call = self._calls.get(place)
        if call is None and not self._records:
            return function(*args, **kwargs)
        written = _statistics(function, args, kwargs)
        given = (*args, *kwargs, *kwargs.values(), _autocast(args[0]))
        if call is not None and call.matches(function, given):
            self.hits += 1
            for now, after in zip(written, call.statistics, strict=True):
                now.copy_(after)
            return call.output.tensor
        seen = self._seen(given) if self._records and self._room > 0 and _is_pure(args, kwargs) else None
        output = function(*args, **kwargs)
        if seen is not None and type(output) is torch.Tensor:
            self._calls[place] = _RecordedCall(function, seen, _Before.of(output), tuple(t.clone() for t in written))
            self._storages.add(output.untyped_storage().data_ptr())
            self._room -= output.nbytes
        return output

    def _seen(self, given: Sequence[Any]) -> tuple[Any, ...]:
        """Weights and recorded results by reference, anything else as a copy: who owns it may write into it unseen."""

        def one(entry: Any) -> Any:
            if not isinstance(entry, torch.Tensor):
                return entry
            if isinstance(entry, nn.Parameter) or entry.untyped_storage().data_ptr() in self._storages:
                return _Before.of(entry)
            self._room -= entry.nbytes
            return _Before.of(entry.clone(memory_format=torch.preserve_format))

        return tuple(map(one, given))


def _is_watched() -> bool:
    """Whether gradients, a trace or a counter need the call itself."""
    return torch.is_grad_enabled() or torch._C._get_tracing_state() is not None or _len_torch_dispatch_stack() > 0


def _is_pure(args: Args, kwargs: Kwargs) -> bool:
    """Whether a call writes nowhere, and its tensors are nothing but numbers."""
    if kwargs.get("inplace") or kwargs.get("out") is not None:
        return False
    return all(_is_plain(entry) for entry in (*args, *kwargs.values()) if isinstance(entry, torch.Tensor))


def _is_plain(tensor: torch.Tensor) -> bool:
    if isinstance(tensor, nn.Parameter):
        return type(tensor) is nn.Parameter and not tensor.is_inference()
    return (
        type(tensor) is torch.Tensor
        and tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # type: ignore[attr-defined]
    )


def _statistics(function: Function, args: Args, kwargs: Kwargs) -> tuple[torch.Tensor, ...]:
    """The running statistics that a call writes."""
    if function is not F.batch_norm or not kwargs.get("training"):
        return ()
    return tuple(t for t in args[1:3] if t is not None)


def _autocast(entry: Any) -> torch.dtype | None:
    device = entry.device.type if isinstance(entry, torch.Tensor) else "cpu"
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
