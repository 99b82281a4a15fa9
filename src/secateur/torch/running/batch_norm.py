"""Batch-norm statistics measured again, because a narrower network sees other activations.

    reset running mean and variance ──► forward a few batches, only batch norm in training mode ──► cumulative average

Where there are several processes, each sees its own batches and all end with the average over all of them.

Invariant: nothing but the running statistics changes: training flags, momenta and all parameters are as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, TypeGuard

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from secateur.errors import InputError
from secateur.torch.running.data import Collect, Data, NotFinite, call, first_of, to_device
from secateur.torch.running.distributed import Group, active, reduce_sum, unwrapped
from secateur.torch.running.randomness import unmoved
from secateur.torch.running.restoring import left_as_found
from secateur.torch.running.walking import modules_of, parameters_of


class RunningNorm(Protocol):
    """A norm that keeps running statistics, and what is done with them here."""

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float | None

    def reset_running_stats(self) -> None:
        """Begin anew."""
        ...

    def train(self) -> object:
        """Measure from here on."""
        ...


def batch_norms(model: nn.Module) -> list[RunningNorm]:
    """The modules of a model that keep running statistics, but those that are frozen while the rest of it trains."""
    trains = any(p.requires_grad for p in parameters_of(model))
    return [m for m in modules_of(model) if not (trains and _is_frozen(m)) and _keeps_statistics(m)]


def _is_frozen(norm: nn.Module) -> bool:
    parameters = list(parameters_of(norm))
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _keeps_statistics(module: nn.Module) -> TypeGuard[RunningNorm]:
    return isinstance(module, _NormBase) and module.running_mean is not None


def reestimate_batch_norm(
    model: nn.Module,
    data_loader: Iterable[object] | Data,
    *,
    num_batches: int = 50,
    collect_func: Collect = first_of,
) -> int:
    """Measure the running statistics of every batch norm again; the number of batches used.

    Inputs are moved to the device of the model's first parameter. A `Data` says itself what of a batch the model takes, and
    how many there are. Under DDP the statistics are those of the batches of all ranks (of the data's group), the same on
    each, and the number counts them all. Raises InputError where no rank has a batch, or where what is measured is not
    finite: the statistics are as they were then.
    """
    model = unwrapped(model)
    norms = batch_norms(model)
    if not norms:
        return 0
    device = next((p.device for p in parameters_of(model)), torch.device("cpu"))
    used, group = 0, None
    if isinstance(data_loader, Data):
        num_batches, collect_func, group = data_loader.num_batches, data_loader.collect, data_loader.group
        data_loader = data_loader.loader
    with left_as_found(model), _measuring(model, norms), torch.no_grad(), unmoved(data_loader):
        for batch in islice(iter(data_loader), num_batches):
            _measure(model, to_device(collect_func(batch), device))
            used += 1
        total = _over_ranks(norms, used, group)
        if not total:
            raise InputError("the data loader gave no batch: batch-norm statistics cannot be measured")
        _check_finite(norms)
    return total


def _check_finite(norms: list[RunningNorm]) -> None:
    """One number that is none in one batch would be in all answers from then on."""
    if not all(bool(statistic.isfinite().all()) for m in norms for statistic in (m.running_mean, m.running_var)):
        raise NotFinite(
            "batch norm was given values that are no finite numbers, by the data or by a layer that overflows on them"
        )


def _over_ranks(norms: list[RunningNorm], used: int, group: Group) -> int:
    """Average the statistics over all ranks, each weighted by its batches; how many batches that were."""
    if not active(group):
        return used
    count = torch.tensor([used], dtype=torch.float64)
    reduce_sum([count], group)
    total = int(count)
    for m in norms:
        for statistic in (m.running_mean, m.running_var):
            weighted = statistic.double() * used
            reduce_sum([weighted], group)
            statistic.copy_(weighted / max(total, 1))
        m.num_batches_tracked.fill_(total)
    return total


def _measure(model: nn.Module, given: object) -> None:
    try:
        call(model, given)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "batch norm cannot be measured on batches with one value a channel: use larger batches, or no data"
        ) from error


@contextmanager
def _measuring(model: nn.Module, norms: list[RunningNorm]) -> Iterator[None]:
    momenta = [(m, m.momentum) for m in norms]
    before = [(m, m.running_mean.clone(), m.running_var.clone(), m.num_batches_tracked) for m in norms]
    model.eval()
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
        m.train()
    try:
        yield
    except BaseException:
        for m, mean, var, count in before:
            m.running_mean.copy_(mean)
            m.running_var.copy_(var)
            m.num_batches_tracked = count
        raise
    finally:
        for m, momentum in momenta:
            m.momentum = momentum
