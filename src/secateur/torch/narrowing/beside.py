"""The network that a plan gives, beside the model it was made for.

    model ──beside(model, plan)──► narrowed slices, whole parameters shared, buffers copied      the model: as it is, and in use

Searches score candidates so: nothing of the model's is swapped, and nothing needs to be put back.

Invariant: what a run of the candidate writes, into buffers or attributes, cannot be seen from the model.
"""

from __future__ import annotations

import torch
from torch import nn

from secateur.core.plan import Plan
from secateur.torch.narrowing.fingerprint import check_fingerprint
from secateur.torch.narrowing.host_config import said_of_depth
from secateur.torch.narrowing.installing import install
from secateur.torch.narrowing.slices import renewed, slices_of
from secateur.torch.running.constants import narrowable_tensors
from secateur.torch.running.twin import twin
from secateur.torch.running.written import is_written


def beside(model: nn.Module, plan: Plan) -> nn.Module:
    """A second, narrowed network. Parameters that stay whole are the model's own objects, so that no memory goes to them.

    Raises PlanError where the plan was made for another model, InputError where the model cannot be copied.
    """
    check_fingerprint(model, plan.fingerprint)
    live = narrowable_tensors(model)
    slices = slices_of({name: live.get(name) for name in plan.narrowed}, plan)

    def stand_in(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name in slices:
            return slices[name]
        if is_written(tensor):
            return renewed(tensor, tensor.detach().clone())
        return tensor if isinstance(tensor, nn.Parameter) else tensor.detach().clone()

    made = twin(model, stand_in)
    fields = said_of_depth(model, plan)
    install(made, {}, plan.edits, there=plan.narrowed, drops=plan.instead, fields=fields)
    return made
