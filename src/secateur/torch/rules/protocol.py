"""What a rule may say, and to whom.

    trace.spaces(x)   trace.zero(x)          what is known of an input
    trace.same(a, b)  trace.contract(s, …)   what the operator means for dimensions
    trace.put(out, …)                        what its output is made of

Invariant: a rule speaks in spaces only; it reads no values and changes no tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from secateur.core.space import Space, freeze

Outputs = Tensor | Sequence[Tensor]  # what an operator gives
Dims = int | Sequence[int] | None
Says = Literal["positions", "counts", "offsets"]  # what whole numbers may say of a dimension
# what else is as large as the input is: what a convolution gives, how many tensors are stacked, how many values are taken
SPATIAL, STACKED, COUNTED = OF_THE_INPUT = ("spatial size", "stacked", "data-dependent")
Indices = Sequence[Tensor | None]  # None: a dimension that is taken whole


class Operator(Protocol):
    """An operator as PyTorch knows it."""

    tags: Sequence[torch.Tag]
    _schema: torch.FunctionSchema

    def __call__(self, *args: object, **kwargs: object) -> Outputs: ...


class Trace(Protocol):
    """A run that is being listened to, at one operator.

    ``name`` is the operator's, without its namespace; ``where`` names it and the module it runs in, for reasons.
    """

    operator: Operator
    name: str
    where: str
    data_dependent: bool  # set it where an output's size depends on values

    def spaces(self, tensor: Tensor) -> list[Space]:
        """The spaces of a tensor's dimensions."""
        ...

    def zero(self, tensor: Tensor) -> list[bool]:
        """Along which dimensions a tensor is zero at removed units."""
        ...

    def put(self, tensor: Tensor, spaces: Sequence[Space], zero: Sequence[bool] | None = None) -> None:
        """What an output is made of, and along which dimensions it is zero at removed units."""
        ...

    def keep_whole(self, tensor: Tensor) -> None:
        """An output of which nothing is said: its dimensions are constants."""
        ...

    def same(self, a: Space, b: Space) -> Space:
        """Two dimensions are one; the surviving space."""
        ...

    def contract(self, space: Space, *, zero: bool) -> None:
        """A sum runs over a dimension; removing its units is exact where a factor is zero at them."""
        ...

    def statistic(self, space: Space) -> None:
        """A statistic runs over a dimension: narrowing it gives another function by design."""
        ...

    def align_memory(self, tensor: torch.Tensor, multiple: int) -> None:
        """A kernel takes only tensors that lie in memory in steps of a number: so must what they are views of."""
        ...

    def align(self, space: Space, multiple: int) -> None:
        """A kernel takes only multiples of a number."""
        ...

    def multiply(self, coefficient: int, *spaces: Space) -> None:
        """So many times the product of these sizes are multiplied and accumulated."""
        ...

    def freeze_all(self, tensors: Iterable[Tensor], reason: str) -> None:
        """Nothing that these tensors are made of may be narrowed."""
        ...

    def starts_after(self, space: Space) -> None:
        """A slice takes what follows this; where it starts must follow its size."""
        ...

    def say(self, tensor: Tensor, what: Says, space: Space) -> None:
        """The whole numbers of an output are positions along a dimension, count its units, or add these counts up."""
        ...

    def said(self, tensor: Tensor, what: Says) -> Space | None:
        """The dimension of which a tensor's numbers say this; None for plain numbers."""
        ...

    def at_least(self, space: Space, count: int) -> None:
        """With fewer units than this the operator does not run."""
        ...

    def freeze_when_read(self, tensor: Tensor, space: Space, reason: str) -> None:
        """A dimension may not be narrowed if anything reads the values of this tensor."""
        ...


def looked_up(trace: Trace, space: Space, ids: Tensor) -> None:
    """A dimension is read by these positions: they are along it, or it keeps its order."""
    along = trace.said(ids, "positions")
    if along is not None and along.root().size == space.root().size:
        trace.same(along, space)
        return
    for each in (space, along):
        if each is not None:
            freeze(each, f"indexed in {trace.where}")


def tensors_of(out: Outputs) -> list[Tensor]:
    """An operator's outputs as a list."""
    return [out] if isinstance(out, Tensor) else list(out)
