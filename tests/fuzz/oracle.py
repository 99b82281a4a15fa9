"""Is the engine right about this network?

    trace ──► random kept sets for every free width ──► apply, verified ──► costs of a second trace ──► one training step

The judge is `verify` (narrowed against masked, in double precision) and the costs, which must agree to the integer.

Invariant: a wrong answer is never a refusal: only errors of Secateur's own tree count as one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.errors import SecateurError, VerificationError
from secateur.testing import random_plan
from secateur.torch.apply import apply, verification_of
from secateur.torch.running.example import Example, output_tensors
from secateur.torch.trace import trace

from .making import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``wrong`` and ``refused`` are None or a sentence; ``free`` counts the widths that could be narrowed."""

    wrong: str | None = None
    refused: str | None = None
    free: int = 0
    exact: int = 0
    frozen: tuple[str, ...] = ()


def judge(network: Network, seed: int = 0) -> Verdict:
    """Narrow a network at random and say whether the engine was right."""
    model, inputs = network.model, _by_convention(network.inputs)
    before = copy.deepcopy(model.state_dict())
    try:
        graph = trace(model, inputs)
        plan = random_plan(graph, seed)
        small = apply(model, plan)
    except VerificationError as error:
        return Verdict(wrong=str(error))
    except SecateurError as error:
        return Verdict(refused=f"{type(error).__name__}: {error}")
    wrong = (
        _costs(small, inputs, graph, plan)
        or _changed(model, before)
        or (None if _one_left(plan) else _training_step(model, small, inputs))
    )
    verification = verification_of(small)
    assert verification is not None
    return Verdict(
        wrong=wrong,
        free=len(graph.free),
        exact=len(verification.compared),
        frozen=tuple(w.frozen for w in graph.widths if w.frozen),
    )


def _by_convention(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The generator passes everything by position; a dict in last place then needs the escape."""
    return (*inputs, {}) if inputs and isinstance(inputs[-1], dict) else inputs


def _costs(small: torch.nn.Module, inputs: tuple[Any, ...], graph: Graph, plan: Plan) -> str | None:
    again = trace(small, inputs, check=False)
    for name in () if _one_left(plan) else graph.costs:
        foretold, counted = graph.cost(name, plan.sizes), again.cost(name)
        if foretold != counted:
            return f"{name}: the plan says {foretold}, the narrowed model counts {counted}"
    held = sum(p.numel() for p in small.parameters())
    return None if held == graph.cost("params", plan.sizes) else f"the narrowed model holds {held} parameters"


def _one_left(plan: Plan) -> bool:
    """Sizes of one take other paths: einsum multiplies, reshape need not copy, norms over one value do not train."""
    return any(plan.sizes[name] == 1 for name in plan.kept)


def _changed(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> str | None:
    after = model.state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    return None if same else "the original model was changed"


def _training_step(model: torch.nn.Module, small: torch.nn.Module, inputs: tuple[Any, ...]) -> str | None:
    try:
        _step(small, inputs)
    except Exception as error:
        try:
            _step(copy.deepcopy(model), inputs)
        except Exception:
            return None  # the network itself cannot train on this input
        return f"the narrowed model does not train: {type(error).__name__}: {error}"
    return None


def _step(model: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
    model.train()
    example = Example.of(model, inputs)
    outputs = [t for t in output_tensors(model(*example.args, **example.kwargs)) if t.requires_grad]
    sum((t.sum() for t in outputs), torch.zeros(())).backward()
