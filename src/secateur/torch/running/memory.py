"""How much memory there is to work in.

Invariant: asked for each time, since others use it too.
"""

from __future__ import annotations

import psutil
import torch
from torch import nn


def free_bytes(device: torch.device) -> int:
    """The memory of a device that nobody uses: of a GPU its own, else the host's."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def free_beside(model: nn.Module) -> int:
    """The free memory where a model's first parameter is."""
    return free_bytes(next((p.device for p in model.parameters()), torch.device("cpu")))
