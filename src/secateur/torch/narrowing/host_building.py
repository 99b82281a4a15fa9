"""A model built once more, from a configuration and without weights.

    type(model)(config)                                      transformers
    type(model)(config, transformer_layer_spec=…, …)         Megatron-Core: what else the constructor asks for, the model holds

A configuration is an object that has ``to_dict()``, or a dataclass, under the name ``config``.

Invariant: the model is only read.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import nn

from secateur.torch.running.walking import modules_of, named_modules

Config = Any  # somebody else's class, with fields as attributes


def config_of(model: nn.Module) -> Config | None:
    """The configuration that a model is built from, or None where it has none of that kind."""
    config = model.__dict__.get("config")
    return config if is_config(config) else None


def is_config(value: object) -> bool:
    """Whether something is a configuration, or part of one."""
    if isinstance(value, (type, nn.Module)) or not hasattr(value, "__dict__"):
        return False
    return callable(getattr(value, "to_dict", None)) or is_dataclass(value)


def is_described(model: nn.Module) -> bool:
    """Whether a configuration is certain to be what its model is built from: dataclasses may be anything."""
    return callable(getattr(config_of(model), "to_dict", None))


def on_meta(model: nn.Module, config: Config) -> nn.Module:
    """Another model of this class, without weights. Raises what the constructor raises."""
    with torch.device("meta"), torch.no_grad(), warnings.catch_warnings():
        # torch's word to those who build the model; here nothing is drawn anyway
        warnings.filterwarnings("ignore", "Initializing zero-element tensors", UserWarning)
        return type(model)(config, **_further_arguments(model))


def fresh(model: nn.Module, config: Config) -> dict[str, nn.Module]:
    """The modules of a model made from a configuration; none where it cannot be made."""
    with contextlib.suppress(Exception):
        return dict(on_meta(model, copy.deepcopy(config)).named_modules())
    return {}


NumbersHeld = Mapping[tuple[int, str], int]


def numbers_held(model: nn.Module) -> NumbersHeld:
    """The integers that modules have as attributes, by the module's id and their name."""
    return {(id(module), key): value for module in modules_of(model) for key, value in _integers(module)}


def put_numbers(
    model: nn.Module, before: Mapping[str, nn.Module], after: Mapping[str, nn.Module], held: NumbersHeld
) -> None:
    """Let modules say of themselves what the constructor would; nothing that somebody else has changed since, nor what was
    rewritten after it was ``held``."""
    usual: dict[tuple[type, str], set[int]] = {}
    for module in before.values():
        for key, value in _integers(module):
            usual.setdefault((type(module), key), set()).add(value)
    for name, module in named_modules(model):
        like = vars(after[name]) if name in after and type(after[name]) is type(module) else {}
        for key, value in list(_integers(module)):
            new = like.get(key, value)
            is_usual = value in usual.get((type(module), key), ()) and held.get((id(module), key)) == value
            if type(new) is int and new != value and is_usual:
                module.__dict__[key] = new


def _integers(module: nn.Module) -> list[tuple[str, int]]:
    return [(key, value) for key, value in vars(module).items() if type(value) is int]


def _further_arguments(model: nn.Module) -> dict[str, object]:
    """What the constructor takes beside the configuration, as far as the model holds it by that name."""
    held = vars(model)
    return {
        name: held[name]
        for name in _parameters(type(model))
        if name in held and not isinstance(held[name], (nn.Module, torch.Tensor))
    }


def _parameters(kind: type) -> list[str]:
    """What a constructor takes by name beside the configuration, with what it hands on as ``**kwargs`` to those it inherits."""
    found: dict[str, None] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        signature = inspect.signature(vars(base)["__init__"])
        parameters = list(signature.parameters.values())[2:]  # without itself and the configuration
        found |= {p.name: None for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(found)
