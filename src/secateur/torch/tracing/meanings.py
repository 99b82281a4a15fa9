"""Tensors of whole numbers that speak of a dimension: which of its units were chosen, and how often each.

    topk(router, k) ──► ids ──► sort, float ──► histc ──► cumsum ──► _grouped_mm(x, experts, offsets)
                        positions along the experts       counts of the experts, and offsets, which add them up

A position means the same unit in a narrower network, where it is another number; that is no matter to whoever only looks up,
scatters or counts by it, puts several together, or asks which are the same.

Invariant: what takes positions or offsets for numbers (arithmetic, a comparison, the model's output) freezes the dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from secateur.core.space import freeze
from secateur.torch.rules.protocol import Says
from secateur.torch.tracing.records import Value

_CARRY = frozenset({"clone", "_to_copy", "sort", "_unsafe_view"})  # what they give says what they were given
_CARRY_COUNTS = frozenset({"clone", "_to_copy"})
_TAKE = frozenset({"index", "index_select", "gather"})  # some of what they are given
_OF_SEVERAL = frozenset({"cat", "stack", "eq", "ne"})  # where all are positions along one dimension
_BY_POSITION = frozenset({*_TAKE, "scatter", "scatter_add", "scatter_reduce", "histc"})  # their rules ask for positions


def check_numbers(name: str, inputs: Sequence[Value], where: str, *, view: bool) -> None:
    """Freeze what an operator reads positions along as if they were numbers."""
    said = [known for known in inputs if known.says is not None]
    if not (view or name in _CARRY or name.rstrip("_") in _BY_POSITION or _is_of_alike(name, inputs)):
        freeze_along(said, f"positions along it are read as numbers in {where}", ("positions",))
    if not (view or name in _CARRY_COUNTS or name == "_grouped_mm"):
        freeze_along(said, f"how many come before each of it is read as a number in {where}", ("offsets",))


def _is_of_alike(name: str, values: Sequence[Value]) -> bool:
    """Whether an operator takes several tensors, all of them positions along one dimension; not one and a number of the code."""
    if name not in _OF_SEVERAL or len(values) < 2:
        return False
    said = [value.says for value in values]
    along = {None if says is None or says[0] != "positions" else says[1].root() for says in said}
    return len(along) == 1 and None not in along


def freeze_along(values: Iterable[Value], reason: str, what: Sequence[Says] = ("positions", "offsets")) -> None:
    """Freeze the dimensions of which these tensors say one of these."""
    for known in values:
        if known.says is not None and known.says[0] in what:
            freeze(known.says[1], reason)


def carry(name: str, inputs: Sequence[Value], outputs: Sequence[tuple[torch.Tensor, Value]], *, view: bool) -> None:
    """What an operator's first input says, its output says too, where it gives the same numbers or some of them."""
    says = inputs[0].says if inputs else None
    if says is None:
        return
    kept = view or name in (_CARRY | _TAKE if says[0] == "positions" else _CARRY_COUNTS)
    kept = kept or _is_of_alike(name, inputs)
    for tensor, known in outputs if view else outputs[:1]:
        if kept and tensor.dtype is not torch.bool:
            known.says = says
        elif kept and says[0] == "positions" and name not in _OF_SEVERAL:
            freeze(says[1], "positions along it are read as numbers")
