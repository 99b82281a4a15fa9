"""A smaller network for the length of a ``with`` block.

    with subnet(model, plan, data_loader=loader):      # narrowed parameters and attributes are in, batch norm measured
        accuracy = evaluate(model)
                                                       # everything is back, even if the body raised

Evaluation, sensitivity analysis and `apply` are this one mechanism.

Invariant: after the block the model is the very same object graph, bit for bit; what the body trained is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from secateur.core.plan import Plan
from secateur.torch.narrowing.fingerprint import check_fingerprint
from secateur.torch.narrowing.installing import install
from secateur.torch.narrowing.slices import narrowed_tensors
from secateur.torch.running.batch_norm import reestimate_batch_norm
from secateur.torch.running.data import Collect, first_of
from secateur.torch.running.restoring import swap_weights, untouched


@contextmanager
def subnet(
    model: nn.Module,
    plan: Plan,
    *,
    data_loader: Iterable[Any] | None = None,
    num_batches: int = 50,
    collect_func: Collect = first_of,
) -> Iterator[nn.Module]:
    """Swap in what a plan keeps, and put everything back on exit.

    With ``data_loader``, batch-norm statistics are first measured again over ``num_batches`` of it (``collect_func`` says
    what of a batch the model takes). Raises PlanError where the plan was made for another model.
    """
    check_fingerprint(model, plan.fingerprint)
    tensors = narrowed_tensors(model, plan)
    with untouched(model, random_state=False):
        _guard_buffers(model, set(tensors))
        install(model, tensors, plan.edits)
        if data_loader is not None:
            reestimate_batch_norm(model, data_loader, num_batches=num_batches, collect_func=collect_func)
        yield model


def _guard_buffers(model: nn.Module, narrowed: set[str]) -> None:
    """Give the body buffers of its own: a forward pass writes into them."""
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)} - narrowed
    swap_weights(model, lambda name, tensor: tensor.detach().clone() if name in buffers else tensor)
