"""Sequences of several lengths, packed: the rows of all of them one after another, without the padding.

    [B, T, H], lengths ──pack──► [sum of lengths, H], how many sequences are as long as each step

An LSTM over packed rows is made of slices and products, which have rules of their own; so is unpacking.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from secateur.core.space import constant, freeze
from secateur.torch.rules.protocol import Trace
from secateur.torch.rules.registry import Sample, rule, sample


@rule("_pack_padded_sequence")
def pack(trace: Trace, out: Sequence[Tensor], x: Tensor, lengths: Tensor, batch_first: bool) -> None:
    """Which rows are taken is told by numbers; what a row is made of goes through."""
    rows, counts = out
    trace.data_dependent = True
    reason = f"rows of it are packed by their numbers in {trace.where}"
    for space in (*trace.spaces(x)[:2], *trace.spaces(lengths)):
        freeze(space, reason)
    trace.put(rows, [constant(rows.shape[0], "packed rows"), *trace.spaces(x)[2:]], [False, *trace.zero(x)[2:]])
    trace.keep_whole(counts)


@sample("_pack_padded_sequence")
def _pack() -> Sample:
    def function(x: Tensor, w: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor([2, 3]), batch_first=True, enforce_sorted=False)
        packed = packed._replace(data=packed.data.relu())
        return pad_packed_sequence(packed, batch_first=True)[0] @ w

    return Sample(function, (2, 3, 4), (4, 5))
