"""Integers that remember where they came from.

    self.num_heads * self.head_dim   ->   Sized(768, ("*", attribute num_heads, attribute head_dim))

While tracing, the integers a module holds and the sizes read from tensors are `Sized`: an ``int`` that carries its
expression through ``+ - * // %``. Where such an integer arrives as a size, the tracer records an equation.

Invariant: a Sized compares, hashes, prints and pickles as the plain integer it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import nn

from secateur.core.equations import Attribute
from secateur.core.sized import Listener, Sized, SizedNumber
from secateur.core.space import Space
from secateur.torch.narrowing.bookkeeping import copy_lengths
from secateur.torch.running.settings import fields_of, is_plain_row, is_table, row_like, with_fields
from secateur.torch.running.walking import modules_of, named_modules

_Dimensions = Mapping[tuple[str, int], Space]  # of parameters, by name and axis
TORCH_SIZES = frozenset(
    [
        "groups",
        "num_groups",
        "normalized_shape",
        "embed_dim",
        "nhead",
        "num_heads",
        "head_dim",
        "d_model",
        "kdim",
        "vdim",
        "hidden_size",
        "unflattened_size",
    ]
)


# what a torch.nn module says of itself -> the tensor and the axis that it is the size of
_OWN_SIZES: tuple[tuple[Any, dict[str, tuple[str, int]]], ...] = (
    (nn.Linear, {"out_features": ("weight", 0), "in_features": ("weight", 1)}),
    (nn.modules.conv._ConvTransposeNd, {"in_channels": ("weight", 0), "out_channels": ("weight", 1)}),
    (nn.modules.conv._ConvNd, {"out_channels": ("weight", 0), "in_channels": ("weight", 1)}),
    (nn.modules.batchnorm._NormBase, {"num_features": ("weight", 0)}),
    (nn.GroupNorm, {"num_channels": ("weight", 0)}),
    ((nn.Embedding, nn.EmbeddingBag), {"num_embeddings": ("weight", 0), "embedding_dim": ("weight", 1)}),
    (nn.Bilinear, {"out_features": ("weight", 0), "in1_features": ("weight", 1), "in2_features": ("weight", 2)}),
    (nn.RNNBase, {"input_size": ("weight_ih_l0", 1)}),
    (nn.RNNCellBase, {"input_size": ("weight_ih", 1), "hidden_size": ("weight_hh", 1)}),
)


_SIZE = re.compile(r"^\w*(features|channels|planes|units|_dim|hidden_size)$")
_DEPTH = 3  # of containers inside each other
_MOST = 100  # entries: what has more is a vocabulary
_DATA = frozenset({bool, int, float, str, type(None)})
_BUILT_IN = frozenset({"builtins", "collections", "types", "functools", "enum"})


CONFIG_NAMES = frozenset({"config", "cfg", "args", "hparams", "opt", "options"})


CONFIG_SUFFIXES = ("Config", "Args", "Namespace", "Params")


def sized_attributes(model: nn.Module, listener: Listener) -> dict[Attribute, int]:
    """Replace the integers that the modules of a twin hold by Sized ones; their values."""
    values: dict[Attribute, int] = {}

    def wrap(value: object, module: str, path: str, depth: int) -> Any:
        if (type(value) is int or isinstance(value, np.integer)) and value > 1:
            attribute = Attribute(module, path)
            values[attribute] = int(value)
            return (Sized if type(value) is int else SizedNumber)(int(value), attribute, listener)
        if isinstance(value, (tuple, list)) and is_plain_row(value) and _few_integers(value):
            made = [wrap(v, module, f"{path}[{i}]", depth) for i, v in enumerate(value)]
            return value if _are(made, value) else row_like(value, made)
        if depth < _DEPTH and is_table(value) and _is_data(value):
            inside = {k: wrap(v, module, f'{path}["{k}"]', depth + 1) for k, v in value.items()}
            return value if _are(inside.values(), value.values()) else type(value)(inside)
        if depth < _DEPTH and _is_config(path.rpartition(".")[2], value):
            fields = fields_of(value)
            inside = {k: wrap(v, module, f"{path}.{k}", depth + 1) for k, v in fields.items()}
            return value if _are(inside.values(), fields.values()) else with_fields(value, inside)
        return value

    for name, module in named_modules(model):
        builtin = type(module).__module__.startswith("torch.nn.modules")
        own = _own_sizes(module)
        for key, value in (_of_class(type(module)) | vars(module)).items():
            if builtin and key not in TORCH_SIZES and key not in own:
                continue
            if key.startswith("_") and key[1:2] != "" and type(value) is not int:
                continue
            wrapped = wrap(value, name, key, 0)
            if wrapped is not value:
                module.__dict__[key] = wrapped
        copy_lengths(module)
    return values


def own_sizes(modules: Mapping[str, nn.Module]) -> Iterator[tuple[Attribute, str, int]]:
    """What modules of torch.nn say of themselves: the attribute, and the tensor and axis that it is the size of."""
    for name, module in modules.items():
        for key, (tensor, axis) in _own_sizes(module).items():
            yield Attribute(name, key), f"{name}.{tensor}" if name else tensor, axis


def depthwise(modules: Mapping[str, nn.Module]) -> Iterator[tuple[Attribute, str, int]]:
    """The groups of convolutions with one for each channel: code that takes the weight alone never says so."""
    for name, module in modules.items():
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.in_channels == module.out_channels:
            yield Attribute(name, "groups"), f"{name}.weight" if name else "weight", 0


def named_sizes(
    modules: Mapping[str, nn.Module], sizes: Mapping[Attribute, int], spaces: Mapping[str, Sequence[Space]]
) -> Iterator[tuple[Attribute, Space]]:
    """Integers of single layers that go by the name of a size, and the one dimension of that size among the layer's parameters.
    Where there are several, another layer of the class tells which is meant, if it has but one. (A module with layers in it may
    speak of theirs, or of what it is given.)"""
    several: list[tuple[Attribute, _Dimensions]] = []
    known: dict[tuple[type, str], set[tuple[str, int]]] = {}
    for attribute, size in sizes.items():
        module = modules[attribute.module]
        if type(module).__module__.startswith("torch.nn.modules") or not _SIZE.search(attribute.path):
            continue  # what PyTorch's own say of themselves is brought in line with their tensors
        if any(part is not module and part._parameters for part in modules_of(module)):
            continue
        prefix = f"{attribute.module}." if attribute.module else ""
        own = {key: spaces[prefix + key] for key in module._parameters if prefix + key in spaces}
        found = {
            (key, axis): s.root() for key, row in own.items() for axis, s in enumerate(row) if s.root().size == size
        }
        if len(set(map(id, found.values()))) > 1:
            several.append((attribute, found))
        elif found:
            known.setdefault((type(module), attribute.path), set()).update(found)
            yield attribute, next(iter(found.values()))
    for attribute, found in several:
        meant = known.get((type(modules[attribute.module]), attribute.path), set())
        held = [space for place, space in found.items() if place in meant]
        if held and all(space is held[0] for space in held):
            yield attribute, held[0]


def _own_sizes(module: nn.Module) -> dict[str, tuple[str, int]]:
    if getattr(module, "groups", 1) != 1:
        return {}
    return next((sizes for kind, sizes in _OWN_SIZES if isinstance(module, kind)), {})


def _are(made: Iterable[object], given: Iterable[object]) -> bool:
    """Whether nothing became another: what holds no size stays the object that hooks and other modules hold as well."""
    return all(one is other for one, other in zip(made, given, strict=True))


def _few_integers(values: Sequence[object]) -> bool:
    return 0 < len(values) <= 8 and all(type(v) is int for v in values)


def _is_config(name: str, value: object) -> bool:
    if isinstance(value, (nn.Module, type)) or callable(value):
        return False
    if hasattr(value, "__dict__") and (
        name in CONFIG_NAMES or type(value).__name__.endswith(CONFIG_SUFFIXES) or is_dataclass(value)
    ):
        return True
    fields = {} if type(value).__module__ in _BUILT_IN else fields_of(value)
    return 0 < len(fields) <= _MOST and all(map(_is_data, fields.values()))


def _is_data(value: object) -> bool:
    """Whether a value is made of numbers and words alone: what holds more may be a state that modules share."""
    if is_table(value):
        return len(value) <= _MOST and all(map(_is_data, value.values()))
    if isinstance(value, (tuple, list)):
        return len(value) <= _MOST and all(map(_is_data, value))
    return type(value) in _DATA or isinstance(value, np.generic)


@cache
def _of_class(kind: type) -> dict[str, int]:
    """The integers that a class, or a base that is not PyTorch's, says for all its modules."""
    bases = [base for base in reversed(kind.__mro__) if not base.__module__.startswith(("torch.", "builtins"))]
    found = {key: value for base in bases for key, value in vars(base).items()}
    return {key: value for key, value in found.items() if type(value) is int and key.strip("_") != "version"}
