"""What a model gives back to take again, and which dimensions of it are the call's: its batch and its length.

    input_ids (B, T) ──► past_key_values.layers[0].keys (B, G, T, D)        bytes: 4 · @batch · G · @length · D

Which tensors are caches is told by their places in the output (`running.interface`). The length is a dimension that the code is
seen to take from the second one of token ids; a batch of one is found by its place, the first.

Invariant: each cache is on the account of the module that wrote it last, so that a dropped block takes its own along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from secateur.core.cached import BATCH, KV_CACHE, LENGTH
from secateur.core.cost import Cost, Monomial, Polynomial
from secateur.core.layout import Along, Axis, Whole
from secateur.core.settle import axis_of
from secateur.core.space import Space
from secateur.torch.running.interface import in_caches
from secateur.torch.tracing.scratch import CostTerm
from secateur.torch.tracing.tracer import Tracer


@dataclass(slots=True)
class Caches:
    """The caches of a run; state, because the inputs are seen before they are."""

    terms: list[CostTerm] = field(default_factory=list)
    batch: Space | None = None
    lengths: list[Space] = field(default_factory=list)

    def take(self, tensor: torch.Tensor, spaces: Sequence[Space]) -> None:
        """An input of the model: the first tensor has the batch, those of whole numbers have the length."""
        if self.batch is None and spaces:
            self.batch = spaces[0]
        if len(spaces) > 1 and not tensor.is_floating_point() and spaces[1].size > 1:
            self.lengths.append(spaces[1])

    def give(self, output: object, tracer: Tracer) -> None:
        """What the model returned."""
        writer = {n: record.module for record in tracer.records if not record.view for n in record.writes}
        for tensor in in_caches(output):
            if tensor.dim() > 1:  # not a counter of positions
                known = tracer.value(tensor)
                self.terms.append((tensor.element_size(), tuple(known.spaces), writer.get(known.number, "")))

    def costs(self, names: Mapping[int, str]) -> dict[str, Cost]:
        """Their bytes, over widths and the sizes of the call; nothing where there is no cache."""
        return {KV_CACHE: Polynomial.of(self._monomials(names))} if self.terms else {}

    def _monomials(self, names: Mapping[int, str]) -> Iterator[Monomial]:
        memo: dict[int, Axis] = {}
        if self.lengths and self.batch is not None:
            memo |= {id(space.root()): Along(LENGTH, space.size) for space in self.lengths}
            memo |= {id(self.batch.root()): Along(BATCH, self.batch.size)}
        for number, spaces, module in self.terms:
            axes = [axis_of(space, names, memo) for space in spaces]
            if axes[0] == Whole(1) and memo and self.batch is not None and self.batch.size == 1:
                axes[0] = Along(BATCH, 1)
            yield number, tuple(axes), module
