"""A smaller network for the length of a ``with`` block.

    with subnet(model, plan, data_loader=loader):      # narrowed parameters and attributes are in, batch norm measured
        accuracy = evaluate(model)
                                                       # everything is back, even if the body raised
    with subnet(model, plan, shared=True):
        loss(model(x)).backward()                      # gradients reach the kept slices of the model's own parameters

Invariant: after the block the model is the very same object graph, bit for bit; what the body trained is gone. Caches of
functions (`lru_cache`) that its code reaches are empty; a table that it fills in a file of its own is the body's to clear.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import nn

from secateur.core.given import check_given
from secateur.core.plan import Plan
from secateur.torch.narrowing.fingerprint import check_fingerprint
from secateur.torch.narrowing.host_config import said_of_depth
from secateur.torch.narrowing.installing import install
from secateur.torch.narrowing.shared import shared_slices
from secateur.torch.narrowing.slices import renewed, slices_of
from secateur.torch.running.batch_norm import batch_norms, reestimate_batch_norm
from secateur.torch.running.constants import narrowable_tensors
from secateur.torch.running.data import Collect, first_of
from secateur.torch.running.distributed import unwrapped
from secateur.torch.running.outside import Outside
from secateur.torch.running.restoring import Undo, undo_of
from secateur.torch.running.twin import in_use, twin


def subnet(
    model: nn.Module,
    plan: Plan,
    *,
    shared: bool = False,
    data_loader: Iterable[Any] | None = None,
    num_batches: int = 50,
    collect_func: Collect = first_of,
) -> Subnet:
    """Swap in what a plan keeps, and put everything back on exit.

    With ``data_loader``, batch-norm statistics are first measured again over ``num_batches`` of it (``collect_func`` says
    what of a batch the model takes). ``shared`` lets gradients flow into the model's own parameters, as training many
    networks in one needs it; the slices hold what the parameters held on entry. Raises PlanError where the plan was made
    for another model.
    """
    check_given("subnet", "model", model, nn.Module)
    check_given("subnet", "plan", plan, Plan)
    return Subnet(model, plan, shared, data_loader, num_batches, collect_func)


@dataclass(eq=False)
class Subnet:
    """What `subnet` returns. State: how the model is put back, between entry and exit.

    A class and no generator: Python may stop between a generator's ``yield`` and the block, and nothing would be undone.
    """

    model: nn.Module
    plan: Plan
    shared: bool
    data_loader: Iterable[Any] | None
    num_batches: int
    collect_func: Collect
    _undo: Undo | None = None
    _outside: Outside = field(init=False)

    def __enter__(self) -> nn.Module:
        model, plan = self.model, self.plan
        check_fingerprint(model, plan.fingerprint)
        live = narrowable_tensors(model)
        slices = (shared_slices if self.shared else slices_of)({name: live.get(name) for name in plan.narrowed}, plan)
        undo, self._outside = undo_of(model), Outside(unwrapped(model))
        try:
            tensors, fields = _of_its_own(model, plan, parameters=not self.shared) | slices, said_of_depth(model, plan)
            self._outside.forget()  # what was computed for the whole network
            install(model, tensors, plan.edits, undo=undo, drops=plan.instead, fields=fields)
            if self.data_loader is not None:
                self._measure(self.data_loader)
            self._undo = undo
        except BaseException:
            undo()
            raise
        return model

    def _measure(self, data_loader: Iterable[Any]) -> None:
        """Batch norm on a twin: what the user's hooks and counters see of the model is the body's doing alone."""
        model = unwrapped(self.model)
        copy = twin(model, _trained_alike)
        reestimate_batch_norm(copy, data_loader, num_batches=self.num_batches, collect_func=self.collect_func)
        with torch.no_grad():
            for norm, measured in zip(batch_norms(model), batch_norms(copy), strict=True):
                for name in ("running_mean", "running_var", "num_batches_tracked"):
                    getattr(norm, name).copy_(getattr(measured, name))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._undo is not None
        try:
            self._outside.forget()
        finally:
            self._undo()


def _trained_alike(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """In use, and trained where the model's is: a norm that is frozen is not measured."""
    return in_use(name, tensor).requires_grad_(tensor.requires_grad)


def _of_its_own(model: nn.Module, plan: Plan, *, parameters: bool) -> dict[str, torch.Tensor]:
    """Copies of the tensors that stay whole: a forward pass writes into buffers, and a step of an optimizer into parameters."""
    tables = (model.named_buffers, model.named_parameters) if parameters else (model.named_buffers,)
    whole = {n: t for table in tables for n, t in table(remove_duplicate=False) if not plan.narrows(n)}
    copies = {id(tensor): renewed(tensor, tensor.detach().clone()) for tensor in whole.values()}
    return {name: copies[id(tensor)] for name, tensor in whole.items()}
