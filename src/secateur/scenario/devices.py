"""Devices by name.

    device_of("auto")  ->  a GPU where there is one, else the CPU

Invariant: a device that comes back is there.
"""

from __future__ import annotations

import torch

from secateur.core.text import visible
from secateur.errors import ConfigError


def device_of(name: str) -> torch.device:
    """A device by name. Raises ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ConfigError(f"there is no device {visible(name)!r} here: {_there()}") from None
    return device


def _there() -> str:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus:
        return "this PyTorch sees no GPU. Write cpu, or auto, which takes a GPU where there is one"
    return f"there are cpu{''.join(f', cuda:{n}' for n in range(gpus))}. Write one of these, or auto"
