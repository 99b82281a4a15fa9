"""What a process uses while something runs: CPU, memory, and a GPU where there is one.

    with sampled(device) as samples: run()
    samples.resources()                        a `Resources`, one sample every 50 ms

Invariant: sampling stops with the block, also after an error, and never fails it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Protocol, cast

import psutil
import torch

from secateur.core.measurement import Resources

INTERVAL_S = 0.05


class _Gpu(Protocol):
    def __call__(self) -> tuple[float, int]:
        """Utilisation in per cent and bytes in use, now."""
        ...


class Samples:
    """Samples so far; state, because a thread adds to them."""

    def __init__(self, device: torch.device) -> None:
        self._process = psutil.Process()
        self._gpu = _gpu(device)
        self._rows: list[tuple[float, float, int, float, int]] = []
        self._process.cpu_percent()  # the first call only starts the clock

    def take(self) -> None:
        """Add a sample."""
        percent, used = self._gpu() if self._gpu is not None else (0.0, 0)
        now, memory = time.perf_counter(), int(self._process.memory_info().rss)
        self._rows.append((now, self._process.cpu_percent(), memory, percent, used))

    def resources(self) -> Resources:
        """What was seen, times counted from the first sample."""
        if not self._rows:
            return Resources()
        start = self._rows[0][0]
        times, cpu, memory, gpu, gpu_memory = zip(*self._rows, strict=True)
        seen = Resources(seconds=tuple(t - start for t in times), cpu_percent=cpu, memory_bytes=memory)
        if self._gpu is None:
            return seen
        return seen.model_copy(update={"gpu_percent": gpu, "gpu_memory_bytes": gpu_memory})


@contextlib.contextmanager
def sampled(device: torch.device) -> Iterator[Samples]:
    """Take samples in a thread of its own until the block ends; at least one before and one after."""
    samples, done = Samples(device), threading.Event()

    def go_on() -> None:
        while not done.wait(INTERVAL_S):
            samples.take()

    samples.take()
    thread = threading.Thread(target=go_on, name="secateur-resources", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
        samples.take()


def _gpu(device: torch.device) -> _Gpu | None:
    """How to ask the GPU: NVIDIA's library where it is installed (package nvidia-ml-py), else nobody."""
    if device.type != "cuda":
        return None
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(device.index or torch.cuda.current_device())
    except Exception:  # no library or no driver: the report then says nothing of a GPU
        return None

    def ask() -> tuple[float, int]:
        return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu), int(nvml.nvmlDeviceGetMemoryInfo(handle).used)

    return cast(_Gpu, ask)
