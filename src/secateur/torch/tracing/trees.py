"""The tensors among the arguments and results of operators, and among what modules give each other.

Invariant: nothing here holds on to a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from secateur.torch.running.calls import Kwargs, Operator


def without_out(func: Operator, kwargs: Kwargs) -> tuple[Kwargs, list[torch.Tensor]]:
    """Keyword arguments without those that the operator writes its result to, and these tensors."""
    if "out" not in kwargs:
        return kwargs, []
    return {k: v for k, v in kwargs.items() if k != "out"}, [t for t in flat(kwargs["out"]) if t.numel()]


def flat(tree: Any) -> list[Any]:
    """The leaves of nested tuples, lists and dicts; operators know no other containers."""
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (tuple, list)):
        return [tree]
    found: list[Any] = []
    for item in tree:  # a call for each container, not for each leaf: this is asked several times an operator
        if isinstance(item, (tuple, list, dict)):
            found += flat(item)
        else:
            found.append(item)
    return found


def held_in(value: object) -> Iterator[torch.Tensor]:
    """The tensors in a tree, and in the attributes of the objects in it. (No closure: its cycle would outlive them.)"""
    for leaf in flat(value):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__") and not callable(leaf):
            yield from (t for t in flat(vars(leaf)) if isinstance(t, torch.Tensor))
