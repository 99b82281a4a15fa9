"""What tells one network, one data set, one function from another: in journals, so that no result is taken for another's.

    digest_of_weights(model)   digest_of_data(data, seed)   described(loader)

Invariant: equal things give equal digests in every process.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sized
from dataclasses import fields, is_dataclass
from functools import partial

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

from secateur.core.json import Json
from secateur.search.journal import name_of
from secateur.torch.running.data import Data
from secateur.torch.running.memory import held
from secateur.torch.running.randomness import seeded, unmoved
from secateur.torch.running.restoring import named_tensors


def described(given: object) -> Json:
    """What can be said of an argument in JSON so that another data set is told from this one.

    Tensors by their values, loaders by data set and batch size, functions by name, anything else by its type.
    """
    match given:
        case None | bool() | int() | str():
            return given
        case float():
            return given if math.isfinite(given) else str(given)
        case torch.Tensor():
            return {"shape": list(given.shape), "sha256": hashlib.sha256(_all_bytes(given)).hexdigest()}
        case TensorDataset():
            return [described(tensor) for tensor in given.tensors]
        case partial():
            return [described(part) for part in (given.func, given.args, given.keywords)]
        case DataLoader():
            return {"dataset": _dataset(given.dataset), "batch_size": given.batch_size}
        case list() | tuple():
            return [described(entry) for entry in given]
        case Mapping():
            return {str(key): described(entry) for key, entry in given.items()}
    if is_dataclass(given) and not isinstance(given, type):
        return {field.name: described(getattr(given, field.name)) for field in fields(given)}
    return name_of(given)


def _dataset(dataset: object) -> Json:
    said = described(dataset)
    size = len(dataset) if isinstance(dataset, Sized) else None
    return {"type": said, "size": size} if isinstance(said, str) else said


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _all_bytes(tensor: torch.Tensor) -> bytes | memoryview:
    parts = held(tensor)
    return _bytes(tensor) if len(parts) == 1 else b"".join(map(_bytes, parts))


def digest_of_weights(model: nn.Module) -> str:
    """A hash over the values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in named_tensors(model).items():
        digest.update(name.encode())
        add_tensor(digest, tensor)
    return digest.hexdigest()


def digest_of_data(data: Data | None, seed: int) -> str | None:
    """A hash over the first batch, or None where there is no data."""
    if data is None:
        return None
    digest = hashlib.sha256()
    with seeded(seed), unmoved(data.loader):
        first = next(iter(data.loader), None)
    for leaf in tree_leaves(first):
        add_tensor(digest, leaf) if isinstance(leaf, torch.Tensor) else digest.update(repr(leaf).encode())
    return digest.hexdigest()


def add_tensor(digest: hashlib._Hash, tensor: torch.Tensor) -> None:
    """A tensor's type, shape and values, into a hash."""
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(_all_bytes(tensor))
