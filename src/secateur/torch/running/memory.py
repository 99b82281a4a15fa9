"""How much memory there is to work in.

Invariant: asked for each time, since others use it too.
"""

from __future__ import annotations

import psutil
import torch
from torch import nn

from secateur.torch.running.walking import parameters_of


def free_bytes(device: torch.device) -> int:
    """The memory of a device that nobody uses: of a GPU its own, else the host's."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def held_bytes(tensor: torch.Tensor) -> int:
    """What a tensor's numbers take; of a sparse one, those that it holds and where they stand."""
    return sum(part.numel() * part.element_size() for part in held(tensor))


def held(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that a sparse one is made of, which have all of PyTorch's operators; of another itself."""
    if tensor.layout is torch.strided:
        return [tensor]
    return [tensor._values(), tensor._indices()] if tensor.layout is torch.sparse_coo else _compressed(tensor)


def _compressed(tensor: torch.Tensor) -> list[torch.Tensor]:
    by_row = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    places = (tensor.crow_indices(), tensor.col_indices()) if by_row else (tensor.ccol_indices(), tensor.row_indices())
    return [tensor.values(), *places]


def free_beside(model: nn.Module) -> int:
    """The free memory where a model's first parameter is."""
    return free_bytes(next((p.device for p in parameters_of(model)), torch.device("cpu")))
