"""An optimizer that goes on after pruning, with the momentum it had.

    optimizer ── old weight [64, 3, 3, 3], exp_avg [64, 3, 3, 3], step 900
              ──► new weight [40, 3, 3, 3], exp_avg rows of the kept 40,  step 900

`apply` makes new Parameters; an optimizer that holds the old ones would train tensors nobody uses. State shaped like the
parameter is cut by the very plans that cut the parameter; a number stays; a factor of it (Adafactor's rows and columns) is
cut along the axes it has. What cannot be cut is dropped for that parameter, with a warning.

Invariant: the optimizer object, its groups and their options stay, so that schedulers and scalers that hold it go on working.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from secateur.core.layout import Layout, Whole, size_of
from secateur.core.plan import Plan
from secateur.errors import InputError, PlanError
from secateur.torch.narrowing.history import History, Narrowing, history_of
from secateur.torch.narrowing.slices import narrow_tensor
from secateur.torch.prune import PruneResult
from secateur.torch.running.distributed import unwrapped
from secateur.torch.running.walking import named_parameters

Cut = tuple[Plan, str]  # a plan, and the name of the parameter in it
Successor = tuple[nn.Parameter | None, list[Cut]]  # what a parameter became (None: it is gone), and the cuts on the way


class _Lost(Exception):
    """A piece of state whose axes cannot be told."""


def remap_optimizer(optimizer: torch.optim.Optimizer, result: PruneResult | nn.Module) -> torch.optim.Optimizer:
    """Let an optimizer of the whole network train the narrowed one, in place; the same optimizer.

    ``result`` is what `prune` returned or the narrowed model; any number of prunings may lie between the optimizer and it.
    Parameters that are gone leave their group; those of other modules stay. Gradients are cut like the parameters.

    Raises InputError where the optimizer and the model have nothing to do with each other, or the optimizer keeps
    parameters that cannot be exchanged (LBFGS). Warns, naming it, where the state of a parameter had to be dropped.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError("LBFGS keeps its parameters and history in one flat vector: make a new one after pruning")
    if not hasattr(optimizer, "param_groups"):
        raise InputError(f"remap_optimizer: optimizer is a torch.optim.Optimizer, not {optimizer!r:.60}")
    model, history = _model_of(result)
    live = dict(named_parameters(model))
    current = {id(p) for p in live.values()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    names = [step.names() for step in history]
    successors = {id(p): _successor(p, history, names, live) for p in held if id(p) not in current}
    if held and not any(id(p) in current or successors[id(p)] is not None for p in held):
        raise InputError(
            "none of the optimizer's parameters is, or became, a parameter of this model. Give the optimizer that trained "
            "this model, in the process that pruned it; for a model read from a file make a new one"
        )
    moved = {old: successor for old, successor in successors.items() if successor is not None}
    states = {id(p): _narrowed_state(optimizer.state.get(p, {}), p, moved[id(p)]) for p in held if id(p) in moved}
    for group in optimizer.param_groups:
        _regroup(group, moved)
    for old in held:
        if id(old) in moved:
            _hand_over(optimizer, old, moved[id(old)], states[id(old)])
    return optimizer


def _model_of(result: PruneResult | nn.Module) -> tuple[nn.Module, History]:
    if isinstance(result, nn.Module):
        model = unwrapped(result)
        return model, history_of(model)
    history = getattr(result, "history", None)
    model = history.model if isinstance(history, History) else None
    if model is None:
        raise InputError(
            f"remap_optimizer takes what prune returned, or the narrowed model, not {type(result).__name__} "
            "(of a model that is gone, or not known); pass the narrowed model"
        )
    return model, history_of(model)


def _successor(
    parameter: nn.Parameter, history: History, names: list[dict[int, str]], live: dict[str, nn.Parameter]
) -> Successor | None:
    """What became of a parameter; None if it never was in this model."""
    for start in range(len(names) - 1, -1, -1):
        name = names[start].get(id(parameter))
        if name is not None:
            return _followed(name, history.narrowings[start:], live)
    return None


def _followed(name: str, steps: Iterable[Narrowing], live: dict[str, nn.Parameter]) -> Successor:
    """What a parameter of this name became, through blocks that went and numbers that moved up."""
    cuts: list[Cut] = []
    for step in steps:
        cuts.append((step.plan, name))
        renamed = step.plan.renamed(name)
        if renamed is None:
            return None, cuts
        name = renamed
    return live.get(name), cuts


def _narrowed_state(state: dict[str, object], old: nn.Parameter, to: Successor) -> dict[str, object]:
    """The state of a parameter, cut; empty, which lets the optimizer begin anew, where a part of it cannot be cut."""
    new, cuts = to
    if new is None:
        return {}
    made: dict[str, object] = {}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            made[key] = value
            continue
        try:
            made[key] = narrowed_like(value, tuple(old.shape), cuts)
        except (_Lost, PlanError):
            warnings.warn(
                f"optimizer state {key!r} of {cuts[-1][1]} has shape {tuple(value.shape)} beside a parameter of shape "
                f"{tuple(old.shape)}: it is not clear which rows are kept, so the state of this parameter begins anew",
                stacklevel=3,
            )
            return {}
    return made


def narrowed_like(value: torch.Tensor, shape: tuple[int, ...], cuts: Iterable[Cut]) -> torch.Tensor:
    """What is kept of a tensor that goes with a parameter of this shape, after the parameter was cut by these plans."""
    if value.dim() == 0:
        return value
    axes = _axes(tuple(value.shape), shape)
    for plan, name in cuts:
        if not plan.narrows(name):
            continue
        layout = plan.layouts[name]
        ways = {_made_of(layout, way, value) for way in axes}
        if len(ways) != 1:
            raise _Lost
        value = narrow_tensor(value, ways.pop(), plan.arrays)
    return value


def _made_of(layout: Layout, axes: tuple[int | None, ...], value: torch.Tensor) -> Layout:
    """What the axes of a tensor are made of, when they are these axes of the parameter (None: a single entry)."""
    made = tuple(Whole(1) if axis is None else layout[axis] for axis in axes)
    if tuple(size_of(axis, {}) for axis in made) != tuple(value.shape):
        raise _Lost
    return made


def _axes(state_shape: tuple[int, ...], shape: tuple[int, ...]) -> list[tuple[int | None, ...]]:
    """Every way to read a state's axes as axes of its parameter: all of them, some summed to one entry, or one left out."""
    if len(state_shape) == len(shape) and all(
        size in (1, whole) for size, whole in zip(state_shape, shape, strict=True)
    ):
        return [tuple(i if size == shape[i] else None for i, size in enumerate(state_shape))]
    left_out = [i for i in range(len(shape)) if (*shape[:i], *shape[i + 1 :]) == state_shape]
    return [tuple(j for j in range(len(shape)) if j != i) for i in left_out]


def _regroup(group: dict[str, Any], moved: dict[int, Successor]) -> None:
    """Exchange the parameters of a group in its own list; those that are gone leave, with their names."""
    old = list(group["params"])
    after = [moved[id(p)][0] if id(p) in moved else p for p in old]
    if "param_names" in group:
        group["param_names"][:] = [n for n, p in zip(group["param_names"], after, strict=True) if p is not None]
    group["params"][:] = [p for p in after if p is not None]


def _hand_over(optimizer: torch.optim.Optimizer, old: nn.Parameter, to: Successor, state: dict[str, object]) -> None:
    """Give the new parameter the state and the gradient of the old one."""
    new, cuts = to
    optimizer.state.pop(old, None)
    if new is None:
        return
    if state:
        optimizer.state[new] = state
    if old.grad is not None and new.grad is None and not old.grad.is_sparse:
        new.grad = narrowed_like(old.grad, tuple(old.shape), cuts)
