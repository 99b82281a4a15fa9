"""What a narrowed network is worth: the user's score of it as it would be, batch norm measured again.

    beside(model, plan) ──► batch norm over the same batches ──► score_func(model)

    def score_func(model): return accuracy                             a number (or tensor of one), higher is better

    def score_func(model):                                             or a generator of (share of the data, score so
        for seen, batch in enumerate(loader, 1):                       far): a search may then stop early
            …
            yield seen / len(loader), correct / total

Invariant: each score is made from the same batches and begins with the same random numbers, in evaluation mode and without
gradients: it depends neither on what was scored before nor on the process it is scored in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from secateur.core.plan import Plan
from secateur.search.measured import Evaluation, Running
from secateur.torch.evaluating.reading import ScoreFunc, check_score_func, evaluation_of
from secateur.torch.narrowing.beside import beside
from secateur.torch.running.batch_norm import batch_norms, reestimate_batch_norm
from secateur.torch.running.data import Data
from secateur.torch.running.memory import held_bytes
from secateur.torch.running.randomness import seeded, unmoved
from secateur.torch.running.reuse import Replay

_LARGEST_BLOCK = 2**25 - 2**14  # with the allocator's own bytes just below 32 MiB


MOST_BYTES = 2**30  # of calibration batches that stay on the device; more are read from the loader each time


@dataclass(kw_only=True)
class Evaluator:
    """Scores plans of one model.

    ``samples`` of the data are enough for batch norm (all of it if None); ``reuse`` computes once what candidates share with
    the whole network. Its state is the batches for batch norm, read once, and what is shared.
    """

    model: nn.Module
    score_func: ScoreFunc
    data: Data | None = None
    seed: int = 0
    samples: int | None = None
    reuse: bool = False
    _batches: Iterable[Any] | None = field(default=None, init=False, repr=False)
    _phase: Callable[[str], AbstractContextManager[None]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_score_func(self.score_func)
        self._phase = Replay.beside(self.model).phase if self.reuse else lambda name: nullcontext()
        keep_freed_memory()
        if self.data is None and batch_norms(self.model):
            warnings.warn(
                "no data: candidates are scored with the batch-norm statistics of the whole network. Give a data_loader",
                stacklevel=2,
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What makes another evaluator like this one, in another process."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init}

    def __call__(self, plan: Plan, rivals: Sequence[Running] = ()) -> Evaluation:
        """The score of a plan, on a network beside the model. Raises InputError where ``score_func`` gives no number."""
        narrowed = beside(self.model, plan)
        with torch.no_grad():
            self.calibrate(narrowed)
            narrowed.eval()
            with seeded(self.seed), unmoved(self.score_func), self._phase("score"):
                return evaluation_of(self.score_func(narrowed), rivals)

    def calibrate(self, model: nn.Module) -> None:
        """Measure batch norm again, in this model or one narrowed from it; nothing else changes."""
        if self.data is None or not batch_norms(model):
            return
        with seeded(self.seed):
            if self._batches is None:
                self._batches = _kept(self.data, self.model, self.samples)
            with self._phase("batch norm"):
                reestimate_batch_norm(model, replace(self.data, loader=self._batches, collect=_itself))


class _FromLoader:
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
    for given in _FromLoader(data, model, samples):
        size += sum(held_bytes(t) for t in tree_leaves(given) if isinstance(t, torch.Tensor))
        if size > MOST_BYTES:
            return _FromLoader(data, model, samples)
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


def _itself(given: Any) -> Any:
    return given
