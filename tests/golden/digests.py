"""Values as short text that is equal where they are equal, bit for bit, and tells a reader what differs where they are not.

    12                                a number, as it is
    [0, 3, 4, 7, 8, 11, 1…#5c1e09     a long list: its beginning, and a hash of all of it
    float32[64, 3, 7, 7]#90ab12       a tensor: dtype, shape, and a hash of its bytes

A `Record` is what a case leaves: sections of items, each one line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Section = dict[str, str]
Record = dict[str, Section]

_LONGEST = 60
_SHOWN = 24
_NUM_DIGITS = 16


def brief(value: Any) -> str:
    """A value made of lists, dicts, numbers, texts, arrays and tensors."""
    text = json.dumps(_plain(value), ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_SHOWN]}…#{_hash([text.encode()])}"


def section(values: Mapping[str, Any]) -> Section:
    """One item for each value."""
    return {str(name): brief(value) for name, value in values.items()}


def of_tensor(tensor: Tensor) -> str:
    """Dtype, shape and bytes of a tensor."""
    plain = tensor.detach().cpu().contiguous()
    data = memoryview(plain.reshape(-1).view(torch.uint8).numpy())
    return f"{str(plain.dtype).removeprefix('torch.')}{list(plain.shape)}#{_hash([data])}"


def of_array(array: Any) -> str:
    """Dtype, shape and bytes of a numpy array."""
    plain = np.ascontiguousarray(array)
    return f"{plain.dtype}{list(plain.shape)}#{_hash([plain.tobytes()])}"


def of_state(tensors: Mapping[str, Tensor]) -> Section:
    """Every tensor by name, and the order of the names."""
    return {"(names in order)": brief(list(tensors)), **{name: of_tensor(tensor) for name, tensor in tensors.items()}}


def of_model(model: nn.Module) -> Record:
    """All that narrowing may change in a model: its tensors, which of them are one, and integers that modules hold."""
    return {"state": _tensors_of(model), "attributes": section(dict(_integers(model)))}


def of_whole(record: Record) -> str:
    """One hash over a record, where its items would say too much."""
    return f"#{_hash([json.dumps(record).encode()])}"


def _tensors_of(model: nn.Module) -> Section:
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    stored = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    first: dict[int, str] = {}
    found: Section = {"(names in order)": brief([name for name, _ in named]), "(stored names)": brief(list(stored))}
    for name, tensor in named:
        owner = first.setdefault(id(tensor), name)
        said = f"is {owner}" if owner != name else of_tensor(tensor)
        found[name] = said + ("" if tensor.requires_grad or name not in stored else " no grad")
    return found


def _integers(model: nn.Module) -> Iterable[tuple[str, Any]]:
    """Sizes that modules keep in attributes of their own, and the flag that says whether they train."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        held = {key: value for key, value in vars(module).items() if _is_integral(value) and "secateur" not in key}
        if held:
            yield prefix or "(model)", held


def _is_integral(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(_is_integral, value))
    return isinstance(value, int)


def _plain(value: Any) -> Any:
    match value:
        case Tensor():
            return of_tensor(value)
        case np.ndarray():
            return of_array(value)
        case np.generic():
            return _plain(value.item())
        case None | bool() | int() | str():
            return value
        case float():
            return repr(value)  # exact, and JSON has no NaN
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case set() | frozenset():
            return sorted(map(_plain, value))
        case list() | tuple():
            return list(map(_plain, value))
    raise TypeError(f"no digest for a {type(value).__name__}")


def _hash(pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()[:_NUM_DIGITS]
