"""What of the whole process a call may not leave changed: switches, random numbers, hooks, modes, patched functions."""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
import warnings

import numpy as np
import torch
import torch.functional
import torch.nn.functional
from torch.nn.modules import module as nn_module

PATCHABLE = {
    "torch": torch,
    "torch.functional": torch.functional,
    "torch.nn.functional": torch.nn.functional,
    "torch._tensor": torch._tensor,
    "torch.Tensor": torch.Tensor,
    "torch.nn.Module": torch.nn.Module,
    "torch.autograd.Function": torch.autograd.Function,
}


def process_state() -> dict[str, object]:
    """By name; equal dicts mean that nothing was left changed."""
    return {**_switches(), **_random_numbers(), **_hooks_and_modes(), **_names()}


def process_changes(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What is not as it was."""
    return [f"process: {name}" for name in before if after.get(name) != before[name]]


def _switches() -> dict[str, object]:
    return {
        "attention fast path": torch.backends.mha.get_fastpath_enabled(),
        "oneDNN": torch._C._get_mkldnn_enabled(),
        "cuDNN": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads of torch": torch.get_num_threads(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "anomaly mode": torch.is_anomaly_enabled(),
        "garbage collection": gc.isenabled(),
        "recursion limit": sys.getrecursionlimit(),
        "threads": threading.active_count(),
        "signal handlers": tuple(signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)),
        "warning filters": tuple(map(repr, warnings.filters)),
    }


def _random_numbers() -> dict[str, object]:
    return {
        "random numbers of torch": bytes(torch.get_rng_state().numpy()),
        "random numbers of Python": random.getstate(),
        "random numbers of NumPy": repr(np.random.get_state(legacy=False)),
    }


def _hooks_and_modes() -> dict[str, object]:
    hooks = {f"hooks: {k}": _contents(v) for k, v in vars(nn_module).items() if k.startswith("_global_")}
    return {
        **hooks,
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function overrides": torch._C._is_torch_function_enabled(),
    }


def _contents(held: object) -> object:
    return {key: id(value) for key, value in held.items()} if isinstance(held, dict) else held


def _names() -> dict[str, object]:
    return {
        f"{where}.{name}": id(value)
        for where, place in PATCHABLE.items()
        for name, value in list(vars(place).items())
        if callable(value) or isinstance(value, classmethod)
    }
