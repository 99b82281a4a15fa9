"""The branch of padded batches, which an example without padding does not take.

    attention_mask    none, or all ones    ──► all positions attend: one way to compute attention
                      a row with a zero    ──► another way, in which other attributes of the code are sizes

Who prunes a language model pads afterwards, so a model that takes an ``attention_mask`` is heard with one as well.

Invariant: a model that does not run with the mask made up here adds what was heard until then, and nothing else changes.
"""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import replace

import torch

from secateur.torch.running.example import Example
from secateur.torch.tracing.observe import Observation, listen_again

_MASK, _IDS = "attention_mask", "input_ids"


def listen_padded(seen: Observation) -> None:
    """Run each example that has no padding once more, its last row one token shorter, and train on it where training differed."""
    trained = {id(run.example) for run in seen.runs if run.training}  # in a way of its own
    for run in list(seen.runs):
        takes_mask = not run.training and _MASK in inspect.signature(run.example.code).parameters
        padded = _padded(run.example) if takes_mask else None
        if padded is None:
            continue
        with contextlib.suppress(Exception):
            listen_again(seen, padded, training=False)
            if id(run.example) in trained:
                listen_again(seen, padded, training=True)


def _padded(example: Example) -> Example | None:
    """The example with the last token of its last row masked; None where something is masked already, or nothing can be."""
    given = example.by_name()
    mask, ids = given.get(_MASK), given.get(_IDS)
    if mask is None and isinstance(ids, torch.Tensor) and not ids.is_floating_point():
        mask = torch.ones_like(ids)
    if (
        not isinstance(mask, torch.Tensor)
        or mask.dim() != 2
        or mask.is_meta
        or mask.shape[-1] < 2
        or not bool(mask.all())
    ):
        return None
    mask = mask.clone()
    mask[-1, -1] = 0
    if _MASK in example.kwargs or given.get(_MASK) is None:
        return replace(example, kwargs={**example.kwargs, _MASK: mask}, also=())
    return replace(example, args=tuple(mask if value is given[_MASK] else value for value in example.args), also=())
