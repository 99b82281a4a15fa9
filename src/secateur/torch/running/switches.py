"""What a run shares with the rest of the process, and how it is left as it was.

    with apart():          no mode of the caller's looks on, nothing asks for gradients, nothing is an inference tensor;
        model(x)           random states and switches that the model's own code moves are put back

Nothing here is needed for a trace to be right: modes are a thread's own, random operators draw from our generators, PyTorch's
functions stay as they are. It is for code in a model that calls ``random.random()`` or ``torch.set_default_dtype(…)``.

Invariant: one such run at a time in a process; after the outermost one every state is what it was before.
"""

from __future__ import annotations

import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import BaseTorchFunctionMode
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _disable_current_modes

from secateur.torch.running.interrupts import Interrupts

ALONE = threading.RLock()  # the one lock for whatever belongs to the process
os.register_at_fork(before=ALONE.acquire, after_in_parent=ALONE.release, after_in_child=ALONE.release)


@dataclass(frozen=True, slots=True)
class Switch:
    """A state of the process: how it is read, set, and compared."""

    read: Callable[[], Any]
    set: Callable[[Any], Any]
    equal: Callable[[Any, Any], bool] = lambda a, b: bool(a == b)


def _same_numpy_state(a: Any, b: Any) -> bool:
    return a[0] == b[0] and a[2:] == b[2:] and bool(np.array_equal(a[1], b[1]))


SWITCHES = (
    Switch(torch.get_rng_state, torch.set_rng_state, torch.equal),
    Switch(random.getstate, random.setstate),
    Switch(np.random.get_state, np.random.set_state, _same_numpy_state),
    Switch(torch.get_default_dtype, torch.set_default_dtype),
    Switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    Switch(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda state: torch.use_deterministic_algorithms(state[0], warn_only=state[1]),
    ),
    Switch(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
    Switch(torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled),
    Switch(torch._C._get_cudnn_benchmark, torch._C._set_cudnn_benchmark),
    Switch(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
)


@contextmanager
def apart() -> Iterator[None]:
    """Run a model's code beside a process that goes on with its own work. Nothing but that code is interrupted."""
    with Interrupts() as interrupts, ExitStack() as stack:
        stack.enter_context(process_kept())
        stack.enter_context(modes_aside())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        with interrupts.welcome():
            yield


_depth = 0


@contextmanager
def process_kept() -> Iterator[None]:
    """States of the process are put back where the block moved them, by the outermost block."""
    global _depth
    with ALONE:
        before = [] if _depth else [(switch, switch.read()) for switch in _present()]
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
            for switch, state in before:
                if not switch.equal(switch.read(), state):
                    switch.set(state)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is looked for meanwhile: thousands of small objects are made at a go, and few are let go of.

    Not for what lasts, since what other threads let go of waits too; and only where `Interrupts` keep Ctrl-C back.
    """
    before = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if before:
            gc.enable()


def _present() -> tuple[Switch, ...]:
    if not torch.cuda.is_initialized():
        return SWITCHES
    return (*SWITCHES, Switch(torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all, _all_equal))


def _all_equal(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@contextmanager
def modes_aside() -> Iterator[None]:
    """This thread's function and dispatch modes neither see what runs in the block nor are disturbed by it.

    ``with torch.device(…)`` stays: it looks at nothing, and code may need it to find its device.
    """
    modes = [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())][::-1]
    devices = [mode for mode in modes if isinstance(mode, DeviceContext)]
    try:
        for mode in devices:
            torch._C._push_on_torch_function_stack(mode)
        with _disable_current_modes():
            yield
    finally:
        for _ in range(torch._C._len_torch_function_stack()):  # an interrupt may leave one of ours, or lose one
            torch._C._pop_torch_function_stack()
        for mode in modes:
            torch._C._push_on_torch_function_stack(mode)


@contextmanager
def _off(is_on: Callable[[], bool], turn: Callable[[bool], None]) -> Iterator[None]:
    with ALONE:
        before = is_on()
        turn(False)
        try:
            yield
        finally:
            turn(before)


def onednn_off() -> AbstractContextManager[None]:
    """oneDNN's recurrent kernels are one opaque operator; without them a layer is made of operators with rules."""
    return _off(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled)


def cudnn_off() -> AbstractContextManager[None]:
    """PyTorch's own kernels in place of cuDNN's."""
    return _off(torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled)


class Watched(BaseTorchFunctionMode):
    """Does nothing. While any mode is active, ``nn.MultiheadAttention`` does not take its fused path."""
