"""Which rule belongs to which operator.

    rule("mm", "aten::mm", torch.ops.mylib.fused)    names in aten, qualified names, or operators

Invariant: one operator has one rule; a second registration is refused and names both owners.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate

import torch
from torch import Tensor
from torch._ops import OpOverload

from secateur.errors import InputError
from secateur.torch.rules.protocol import Trace

Rule = Callable[Concatenate[Trace, ...], None]  # trace, output, arguments of the operator

RULES: dict[object, Rule] = {}
FUNCTION_RULES: dict[object, Rule] = {}
_SAMPLES: dict[str, list[Callable[[], Sample]]] = {}
_FOUND: dict[object, Rule | None] = {}


@dataclass(frozen=True, slots=True, init=False)
class Sample:
    """A call that exercises a rule: a function of tensors, and their shapes (or the tensors themselves)."""

    function: Callable[..., object]
    tensors: tuple[Tensor | tuple[int, ...], ...]

    def __init__(self, function: Callable[..., object], *tensors: Tensor | tuple[int, ...]) -> None:
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "tensors", tensors)


def rule(*operators: object) -> Callable[[Rule], Rule]:
    """Register a rule for operators, given as aten names, qualified names, ``torch.ops`` objects, or a tag they share."""

    def register(function: Rule) -> Rule:
        for name in operators:
            operator = _resolve(name)
            if operator is None:
                continue
            if operator in RULES and RULES[operator] is not function:
                owner = RULES[operator]
                raise InputError(
                    f"{operator} has a rule already: {owner.__module__}.{owner.__name__}; "
                    f"{function.__module__}.{function.__name__} cannot be a second one"
                )
            RULES[operator] = function
        _FOUND.clear()
        return function

    return register


def sample(*names: str) -> Callable[[Callable[[], Sample]], Callable[[], Sample]]:
    """Ship a sample for the conformance test; ``names`` are the operators it exercises."""

    def register(function: Callable[[], Sample]) -> Callable[[], Sample]:
        for name in names:
            _SAMPLES.setdefault(name, []).append(function)
        return function

    return register


def samples() -> dict[str, list[Callable[[], Sample]]]:
    """All samples by operator name."""
    return {name: list(made) for name, made in _SAMPLES.items()}


def find(operator: object) -> Rule | None:
    """The rule for an operator: its own, its packet's, that of its out-of-place twin, or that of one of their tags."""
    try:
        return _FOUND[operator]
    except KeyError:
        pass
    found = RULES.get(operator) or FUNCTION_RULES.get(operator)
    if found is None and isinstance(operator, OpOverload):
        packets, overloads = [operator.overloadpacket], [operator]
        namespace, _, name = operator._schema.name.partition("::")
        twin = getattr(getattr(torch.ops, namespace), name.rstrip("_"), None) if name.endswith("_") else None
        if twin is not None:
            packets.append(twin)
            overloads.append(getattr(twin, operator._overloadname, operator))
        if namespace == "prims" and (model := getattr(torch.ops.aten, name, None)) is not None:
            overloads.extend(getattr(model, each) for each in model.overloads())  # alike, but for what it broadcasts
        found = next((RULES[packet] for packet in packets if packet in RULES), None)
        if found is None:
            found = next((RULES[tag] for overload in overloads for tag in overload.tags if tag in RULES), None)
    _FOUND[operator] = found
    return found


def _resolve(name: object) -> object:
    if not isinstance(name, str):
        return name
    namespace, _, operator = name.rpartition("::")
    return getattr(getattr(torch.ops, namespace or "aten"), operator, None)
