"""`apply`: the one step that changes a model, all at once or not at all.

    narrowed tensors (nothing changed yet) ──► verify ──► swap everything in        any fault: the model is as it was

Invariant: the result holds new, smaller parameters under the same names; dtype, device, requires_grad and ties are kept.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from secateur.core.layout import touches
from secateur.core.plan import Plan
from secateur.core.verification import Verification
from secateur.errors import ApplyError, SecateurError
from secateur.torch.narrowing.fingerprint import check_fingerprint
from secateur.torch.narrowing.history import parameters_before, remember, succession_of
from secateur.torch.narrowing.in_place import streamed, worthwhile
from secateur.torch.narrowing.installing import install, rewrite
from secateur.torch.narrowing.slices import narrowed_tensors
from secateur.torch.running.restoring import all_or_nothing, named_tensors
from secateur.torch.trace import trace
from secateur.torch.verify import verify as compare

_PLANS, _VERIFICATION = "_secateur_plans", "_secateur_verification"


def plans_of(model: nn.Module) -> tuple[Plan, ...]:
    """The plans that were applied to make this model, oldest first."""
    return model.__dict__.get(_PLANS, ())


def verification_of(model: nn.Module) -> Verification | None:
    """What the last `apply` compared, or None if it compared nothing."""
    return model.__dict__.get(_VERIFICATION)


def apply(
    model: nn.Module, plan: Plan, *, in_place: bool = False, verify: bool = True, dummy_input: Any = None
) -> nn.Module:
    """Narrow a model by a plan, and prove the result.

    Returns a new model (the given one with ``in_place``). ``verify`` compares narrowed with masked on the example the plan
    was traced on, or on ``dummy_input`` (needed for a plan read from a file).

    Raises PlanError where the plan was made for another model, VerificationError where the two disagree, ApplyError where
    anything else went wrong; the given model is then bit for bit what it was.
    """
    check_fingerprint(model, plan.fingerprint)
    outcome = check(model, plan, dummy_input) if verify else _unverified("switched off")
    bare = replace(plan, graph=None)
    history, before, earlier = (*plans_of(model), bare), parameters_before(model), succession_of(model)
    try:
        if in_place and worthwhile(model, plan):
            target = model
            with streamed(model, plan), all_or_nothing(model):
                rewrite(model, _narrowed_names(plan), plan.edits)
                _remember(model, history, outcome)
                remember(model, earlier, bare, before)
        else:
            tensors = narrowed_tensors(model, plan)
            target = model if in_place else _copy_around(model, tensors)
            with all_or_nothing(target):
                install(target, tensors, plan.edits)
                _remember(target, history, outcome)
                remember(target, earlier, bare, before)
    except SecateurError:
        raise
    except Exception as error:
        raise ApplyError(f"narrowing stopped and was undone: {type(error).__name__}: {error}") from error
    return target


def _remember(model: nn.Module, history: tuple[Plan, ...], outcome: Verification) -> None:
    model.__dict__[_PLANS] = history
    model.__dict__[_VERIFICATION] = outcome


def _narrowed_names(plan: Plan) -> list[str]:
    arrays = plan.arrays()
    return [name for name, layout in plan.layouts.items() if any(touches(axis, arrays) for axis in layout)]


def check(model: nn.Module, plan: Plan, dummy_input: Any = None) -> Verification:
    """Verify a plan on its own example, or on another one."""
    graph = plan.graph
    if dummy_input is not None or graph is None or graph.example is None:
        if dummy_input is None:
            return _unverified("no example: pass dummy_input")
        graph = trace(model, dummy_input)
    if any(t.is_meta for t in named_tensors(model).values()):
        return _unverified("the weights have no data (meta device)")
    if graph.example.model is not model:
        graph = replace(graph, example=replace(graph.example, model=model))
    return compare(model, plan, graph)


def _unverified(reason: str) -> Verification:
    return Verification(
        max_difference=float("nan"), tolerance=0.0, dtype="", compared=(), not_compared=(), seconds=0.0, skipped=reason
    )


def _copy_around(model: nn.Module, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A deep copy that takes the narrowed tensors instead of copying what they replace."""
    live = named_tensors(model)
    memo: dict[int, Any] = {id(live[name]): tensor for name, tensor in tensors.items()}
    for plan in plans_of(model):
        memo[id(plan)] = plan
    return copy.deepcopy(model, memo)
