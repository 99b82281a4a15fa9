"""`apply`: the one step that changes a model, all at once or not at all.

    narrowed tensors (nothing changed yet) ──► verify ──► swap everything in        any fault: the model is as it was

Invariant: the result holds new, smaller parameters under the same names; dtype, device, requires_grad and ties are kept.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn

from secateur.core.given import check_given
from secateur.core.plan import Plan
from secateur.core.verification import Verification
from secateur.errors import ApplyError, InputError, SecateurError, VerificationError
from secateur.torch.narrowing.fingerprint import check_fingerprint
from secateur.torch.narrowing.history import history_with
from secateur.torch.narrowing.host_building import config_of, is_described
from secateur.torch.narrowing.host_config import (
    ORIGINAL_CONFIG,
    UNSAID,
    Fields,
    said_by_config,
    said_of_depth,
)
from secateur.torch.narrowing.in_place import fits_beside, stream
from secateur.torch.narrowing.installing import install
from secateur.torch.narrowing.slices import renewed, slices_of
from secateur.torch.running.constants import narrowable_tensors
from secateur.torch.running.distributed import unwrapped
from secateur.torch.running.restoring import named_tensors
from secateur.torch.running.twin import StandIn, counterpart
from secateur.torch.trace import trace
from secateur.torch.verify import verify as compare

OnMismatch = Literal["raise", "freeze"]
DIFFERED = "narrowing it was seen to change what the network computes"
_UNVERIFIED = Verification.none_made("switched off")
_PLANS, _VERIFICATION = "_secateur_plans", "_secateur_verification"


def plans_of(model: nn.Module) -> tuple[Plan, ...]:
    """The plans that were applied to make this model, oldest first."""
    check_given("plans_of", "model", model, nn.Module)
    return model.__dict__.get(_PLANS, ())


def verification_of(model: nn.Module) -> Verification | None:
    """What the last `apply` compared, or None if it compared nothing."""
    return model.__dict__.get(_VERIFICATION)


@torch.inference_mode(False)  # what is made in it could never be trained
def apply(
    model: nn.Module,
    plan: Plan,
    *,
    in_place: bool = False,
    verify: bool = True,
    dummy_input: Any = None,
    on_mismatch: OnMismatch = "raise",
) -> nn.Module:
    """Narrow a model by a plan, and prove the result.

    Returns a new model (the given one with ``in_place``). ``verify`` compares narrowed with masked on the example the plan
    was traced on, or on ``dummy_input`` (needed for a plan read from a file). ``on_mismatch="freeze"`` leaves the widths
    whole that make the two differ, and goes on; `verification_of` the result names them. Of a DistributedDataParallel a copy
    of the network inside is narrowed: wrap what comes back.

    Raises PlanError where the plan was made for another model, VerificationError where the two disagree, ApplyError where
    anything else went wrong; the given model is then bit for bit what it was.
    """
    check_given("apply", "model", model, nn.Module)
    check_given("apply", "plan", plan, Plan)
    check_given("apply", "verify", verify, bool)
    check_given("apply", "in_place", in_place, bool)
    if in_place and unwrapped(model) is not model:
        raise InputError(
            "a DistributedDataParallel holds on to the parameters that it was given: narrowed in place, they would not be "
            "synchronised. Apply the plan without in_place, or to model.module, and wrap the result again."
        )
    model = unwrapped(model)
    check_fingerprint(model, plan.fingerprint)
    plan, outcome = _proved(model, plan, dummy_input, on_mismatch) if verify else (plan, _UNVERIFIED)
    if in_place:
        _narrow(model, plan, {}, outcome)
        return model
    notes = _notes(model, plan, outcome)
    with _named_faults():
        described = _described(model, plan, notes)
        target = counterpart(model, _narrowed_or_copied(model, plan))
        notes |= history_with(model, plan, target)
        install(target, {}, plan.edits, there=plan.narrowed, notes=notes, fields=described, drops=plan.instead)
        return target


def apply_fitted(model: nn.Module, plan: Plan, weights: Mapping[str, torch.Tensor], *, verify: bool = True) -> None:
    """Narrow the given model; tensors that ``weights`` names, as it then calls them and at their narrowed sizes, hold those
    numbers afterwards.

    One step as `apply` is: the model is never narrowed without the weights that were fitted to it. Raises what `apply` does.
    """
    check_fingerprint(model, plan.fingerprint)
    before = {plan.renamed.back(name): tensor for name, tensor in weights.items()}
    _narrow(model, plan, before, check(model, plan) if verify else _UNVERIFIED)


def apply_undescribed(model: nn.Module, plan: Plan) -> None:
    """Narrow a working copy: nothing is verified, and what its own configuration says is left as it is."""
    check_fingerprint(model, plan.fingerprint)
    _narrow(model, plan, {}, _UNVERIFIED, describe=False)


def _narrow(
    model: nn.Module, plan: Plan, weights: Mapping[str, torch.Tensor], outcome: Verification, *, describe: bool = True
) -> None:
    notes = _notes(model, plan, outcome)
    with _named_faults():
        notes |= history_with(model, plan, model)
        fields = _described(model, plan, notes) if describe else said_of_depth(model, plan)
        put_in = partial(install, edits=plan.edits, notes=notes, fields=fields, drops=plan.instead)

        def finished() -> bool:
            """The notes are the last thing that is put in."""
            return model.__dict__.get(_PLANS) is notes[_PLANS]

        if weights:
            _put_fitted(model, plan, weights, put_in, finished)
        elif fits_beside(model, plan):
            put_in(model, _slices(model, plan))
        else:
            stream(model, plan, lambda held: put_in(model, {}, there=plan.narrowed, instead=held), finished)


def _described(model: nn.Module, plan: Plan, notes: dict[str, object]) -> Fields:
    """What the model's own configuration says from now on; warns in one sentence where it cannot say what is left."""
    said = said_by_config(model, plan) if plan.narrowed or plan.drops else None
    if said is None:
        return {}
    notes[UNSAID] = said.reason
    if said.reason is None:
        notes[ORIGINAL_CONFIG] = model.__dict__.get(ORIGINAL_CONFIG, config_of(model))
        return said.fields
    loads = "fills up with blocks of random weights" if plan.drops else "rejects"
    consequence = (
        f"its own save_pretrained would write a checkpoint that from_pretrained {loads}; secateur.hf.save_pretrained and "
        "from_pretrained keep it"
        if is_described(model)
        else "what is built from it has other shapes; secateur.save and secateur.restore keep them"
    )
    warnings.warn(
        f"the configuration of {type(model).__name__} cannot say what is left ({said.reason}): {consequence}",
        stacklevel=5,
    )
    depth = said_of_depth(model, plan)
    if depth:
        notes[ORIGINAL_CONFIG] = model.__dict__.get(ORIGINAL_CONFIG, config_of(model))
    return depth


def _notes(model: nn.Module, plan: Plan, outcome: Verification) -> dict[str, object]:
    """What a narrowed model remembers: all plans that made it, and what was found out about the last."""
    return {_PLANS: (*plans_of(model), replace(plan, graph=None)), _VERIFICATION: outcome}


def _proved(model: nn.Module, plan: Plan, dummy_input: Any, on_mismatch: OnMismatch) -> tuple[Plan, Verification]:
    """The plan, without the widths that make narrowed and masked differ if these may be left whole, and the proof of it."""
    if on_mismatch not in get_args(OnMismatch):
        raise InputError(f'on_mismatch is "raise" or "freeze", not {on_mismatch!r}')
    frozen: dict[str, str] = {}
    while True:
        try:
            return plan, replace(check(model, plan, dummy_input), frozen=frozen)
        except VerificationError as error:
            if on_mismatch == "raise" or not error.widths:
                raise
            if plan.graph is None:
                plan = replace(plan, graph=trace(model, dummy_input, depth=bool(plan.drops)))
            assert plan.graph is not None
            graph = plan.graph.frozen(error.widths, DIFFERED)
            kept = {name: array for name, array in plan.arrays.items() if name not in error.widths}
            plan = graph.plan(kept, plan.provenance)
            frozen |= dict.fromkeys(error.widths, str(error))


@contextmanager
def _named_faults() -> Iterator[None]:
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:
        raise ApplyError(f"narrowing stopped and was undone: {type(error).__name__}: {error}") from error


def _put_fitted(
    model: nn.Module,
    plan: Plan,
    weights: Mapping[str, torch.Tensor],
    put_in: Callable[..., None],
    finished: Callable[[], bool],
) -> None:
    """Install what was fitted in place of slices, and write the rest into the tensors that stay, in one step."""
    slices = _slices(model, plan)
    stays = {id(t): (n, t.detach()) for n, t in named_tensors(model).items() if not plan.narrows(n)}.values()
    with torch.no_grad():
        for name, tensor in slices.items():
            if name in weights:
                tensor.copy_(weights[name])
    numbers = {n: weights[n] for n, tensor in stays if n in weights and not torch.equal(weights[n], tensor)}
    written = [tensor for n, tensor in stays if n in numbers]
    take_back = partial(deque, map(torch.Tensor.copy_, written, [tensor.clone() for tensor in written]), 0)
    try:
        deque(map(torch.Tensor.copy_, written, numbers.values()), 0)
        put_in(model, slices)
    except BaseException:
        if not finished():
            take_back()
        raise


def _slices(model: nn.Module, plan: Plan) -> dict[str, torch.Tensor]:
    live = narrowable_tensors(model)
    return slices_of({name: live.get(name) for name in plan.narrowed}, plan)


def _narrowed_or_copied(model: nn.Module, plan: Plan) -> StandIn:
    slices = _slices(model, plan)
    return lambda name, tensor: slices[name] if name in slices else renewed(tensor, tensor.detach().clone())


def check(model: nn.Module, plan: Plan, dummy_input: Any = None) -> Verification:
    """Verify a plan on its own example, or on another one."""
    graph = plan.graph
    if dummy_input is not None or graph is None or graph.example is None:
        if dummy_input is None:
            return Verification.none_made("no example: pass dummy_input")
        graph = trace(model, dummy_input, depth=bool(plan.drops))
    if any(t.is_meta for t in named_tensors(model).values()):
        return Verification.none_made("the weights have no data (meta device)")
    if graph.example.model is not model:
        graph = replace(graph, example=replace(graph.example, model=model))
    return compare(model, plan, graph)
