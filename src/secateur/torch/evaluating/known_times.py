"""Times that were taken before, on this device, with these versions: what a fit needs twice is measured once.

    <user's cache>/secateur/times/<digest of device, threads, versions, target, network and example>.jsonl
    {"counts": "9f3c…", "ratio": 0.53}      one line for each time that one network was timed, as a share of the whole

Only what a model of time is fitted to is looked up; what is said of a result was measured in that call. `SECATEUR_CACHE_DIR`
names another folder, and nothing at all (an empty one) turns it off.

Invariant: a folder that cannot be read or written, and a line that is no share, are as if they were not there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import platformdirs
import torch
from torch.utils._pytree import tree_leaves

from secateur.core.plan import Plan
from secateur.torch.running.example import Example
from secateur.torch.running.restoring import named_tensors
from secateur.version import __version__, installed_version

FOLDER_VARIABLE = "SECATEUR_CACHE_DIR"
_MOST_BYTES = 1 << 24
_LARGEST = 1e3  # times the whole network's time: what is slower was written by nobody here


class Clock(Protocol):
    """What times networks: `Stopwatch`."""

    target: str
    whole_ms: float

    def __call__(self, plan: Plan) -> float:
        """Milliseconds of a plan's network."""
        ...


class KnownTimes:
    """A clock that looks up what was timed before; state, because each time on record is given out once.

    (So a network that is timed twice, to tell noise from signal, has two times the next time as well.)
    """

    def __init__(self, clock: Clock, path: Path | None) -> None:
        self.target, self.whole_ms = clock.target, clock.whole_ms
        self._clock, self._path = clock, path
        self._known: dict[str, list[float]] = {}
        for counts, ratio in _read(path) if path is not None else ():
            self._known.setdefault(counts, []).append(ratio)

    def __call__(self, plan: Plan) -> float:
        """Milliseconds of a plan's network, as it was timed before or is timed now."""
        counts = _digest(dict(plan.sizes))
        known = self._known.get(counts)
        if known:
            return self.whole_ms * known.pop(0)
        measured = self._clock(plan)
        if self._path is not None:
            _write(self._path, counts, measured / self.whole_ms)
        return measured


def times_path(fingerprint: str, example: Example, target: str) -> Path | None:
    """Where the times of one network on one example are kept, on this device; None where nothing is to be kept."""
    folder = cache_folder()
    return None if folder is None else folder / "times" / f"{_digest(_key(fingerprint, example, target))}.jsonl"


def cache_folder() -> Path | None:
    """The folder for what may be lost at any time; None where it is turned off."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    return platformdirs.user_cache_path("secateur", appauthor=False)


def _key(fingerprint: str, example: Example, target: str) -> Mapping[str, object]:
    tensors = list(named_tensors(example.model).values())
    devices = {tensor.device for tensor in tensors} or {torch.device("cpu")}
    return {
        "network": fingerprint,
        "numbers": sorted({f"{tensor.dtype} {tensor.is_contiguous()}" for tensor in tensors}),
        "example": [_brief(leaf) for leaf in tree_leaves((example.args, dict(example.kwargs)))],
        "target": target,
        "devices": sorted(map(_device, devices)),
        "threads": torch.get_num_threads(),
        "switches": [
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
            torch.backends.mkldnn.enabled,
        ],
        "versions": {
            "secateur": __version__,
            "torch": torch.__version__,
            "onnxruntime": installed_version("onnxruntime"),
        },
    }


def _brief(leaf: object) -> str:
    return f"{tuple(leaf.shape)} {leaf.dtype}" if isinstance(leaf, torch.Tensor) else type(leaf).__name__


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {_processor()} of {os.cpu_count()}, {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    with suppress(OSError):  # where there is one, it says more than Python does
        named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        if named:
            return named[0].partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _digest(described: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: Path) -> Iterator[tuple[str, float]]:
    text = ""
    with suppress(OSError, UnicodeDecodeError):
        found = path.stat()
        if stat.S_ISREG(found.st_mode) and found.st_size <= _MOST_BYTES:
            text = path.read_text()
    for line in text.splitlines():
        entry: object = None
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
        match entry:
            case {"counts": str(counts), "ratio": float(ratio)} if math.isfinite(ratio) and 0 < ratio < _LARGEST:
                yield counts, ratio
            case _:
                continue


def _write(path: Path, counts: str, ratio: float) -> None:
    line = json.dumps({"counts": counts, "ratio": ratio}) + "\n"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            return
        with path.open("a") as file:  # one short write: another process's lines stand before or behind it
            file.write(line)
