"""What a candidate is worth: the user's score of the network as it would be, batch norm measured again.

    subnet(model, plan) ──► batch norm over the same batches ──► score_func(model)

Invariant: each score is made from the same batches and begins with the same random numbers, so that it does not depend on
which candidates were scored before.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from secateur.core.plan import Plan
from secateur.errors import InputError
from secateur.torch.narrowing.subnet import subnet
from secateur.torch.running.batch_norm import batch_norms, reestimate_batch_norm
from secateur.torch.running.data import Data
from secateur.torch.running.randomness import _seed_all, seeded
from secateur.torch.running.reuse import Replay

_LARGEST_BLOCK = 2**25 - 2**14  # with the allocator's own bytes just below 32 MiB


MOST_BYTES = 2**30  # of calibration batches that stay on the device; more are read from the loader each time


class Scorer:
    """Scores plans of one model. Its state is the batches for batch norm, read once, and what candidates share."""

    def __init__(
        self,
        model: nn.Module,
        data: Data | None,
        score_func: Callable[..., Any],
        seed: int,
        *,
        samples: int | None = None,
        reuse: bool = True,
    ) -> None:
        self._model, self._score_func, self._seed, self._samples = model, score_func, seed, samples
        self._data = data if batch_norms(model) else None
        self._batches: Iterable[Any] | None = None
        self._phase: Callable[[str], AbstractContextManager[None]] = (
            Replay.beside(model).phase if reuse else nullcontext
        )
        keep_freed_memory()
        if data is None and batch_norms(model):
            warnings.warn(
                "no data: candidates are scored with the batch-norm statistics of the whole network. Give a data_loader",
                stacklevel=4,
            )

    def __call__(self, plan: Plan, what: str) -> float:
        """The score of a plan, without gradients. Raises InputError where ``score_func`` gives no finite number."""
        with seeded(self._seed), subnet(self._model, plan) as model, torch.no_grad():
            self._measure_batch_norm(model)
            _seed_all(self._seed)
            model.eval()
            with self._phase("score"):
                return _number(self._score_func(model), what)

    def _measure_batch_norm(self, model: nn.Module) -> None:
        if self._data is None:
            return
        if self._batches is None:
            self._batches = _kept(self._data, self._model, self._samples)
        with self._phase("batch norm"):
            reestimate_batch_norm(model, self._batches, num_batches=self._data.num_batches, collect_func=_itself)


class _Read:
    """What the model takes of each batch, read from the loader each time; no more batches than hold so many samples."""

    def __init__(self, data: Data, model: nn.Module, samples: int | None) -> None:
        self._data, self._model, self._samples = data, model, samples

    def __iter__(self) -> Iterator[Any]:
        seen = 0
        for batch in self._data.batches(self._model):
            given = self._data.collect(batch)
            yield given
            seen += _num_samples(given)
            if self._samples is not None and seen >= self._samples:
                return


def _kept(data: Data, model: nn.Module, samples: int | None) -> Iterable[Any]:
    """The batches in a list if that is small enough."""
    found: list[Any] = []
    size = 0
    for given in _Read(data, model, samples):
        size += sum(t.nbytes for t in tree_leaves(given) if isinstance(t, torch.Tensor))
        if size > MOST_BYTES:
            return _Read(data, model, samples)
        found.append(given)
    return found


def keep_freed_memory() -> None:
    """Have the C library keep what one forward pass frees for the next, which halves the time of convolutions on CPU.

    glibc returns freed memory to the system beyond twice the size of the largest block that it mapped and freed so far,
    32 MiB at most. Nothing is written into this block.
    """
    torch.empty(_LARGEST_BLOCK, dtype=torch.uint8)


def _num_samples(given: Any) -> int:
    """The length of the first tensor."""
    return next((len(t) for t in tree_leaves(given) if isinstance(t, torch.Tensor) and t.dim()), 1)


def _number(score: Any, what: str) -> float:
    try:
        number = float(score)
    except (TypeError, ValueError):
        raise InputError(f"score_func gives a number, not {type(score).__name__}") from None
    if not math.isfinite(number):
        raise InputError(f"score_func gives {number} for {what}: a candidate's score must be a finite number")
    return number


def _itself(given: Any) -> Any:
    return given
