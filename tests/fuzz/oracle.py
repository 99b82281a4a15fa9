"""Is the engine right about this network? A judge that shares nothing with the library's own verification.

    trace ──► random kept sets ──► apply ──► narrowed        whole, with what was removed set to zero (`tagged`)
                                                │                         │
                                                └── outputs and gradients the same, on the example, on other numbers,
                                                    on a larger batch, and in training mode where that is deterministic

What the plan foretold must be counted in the narrowed network, which must train; the model, and all that hangs on it, must
be what it was. The library's verification is judged too: an error that it missed and a false alarm are both wrong answers.

Invariant: a wrong answer is never a refusal: only errors of Secateur's own tree count as one.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import secateur as sc
from secateur.errors import Coincidence, SecateurError, VerificationError
from secateur.testing import random_plan
from tests.interruptions.state import State

from .deep import names_now, skip
from .making import Network
from .outputs import tensors
from .tagged import Positions, gathered, kept_positions, named, zero_removed

OUTPUTS, GRADIENTS = 1e-8, 1e-6  # of the largest number compared, in double precision
ROUNDINGS, COARSE = (
    8,
    1e-3,
)  # times what the last place of the weights changes; from where on that says nothing any more
Inputs = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``wrong`` and ``refused`` are None or a sentence; ``free`` counts the widths that could be narrowed."""

    wrong: str | None = None
    refused: str | None = None
    free: int = 0
    exact: int = 0
    frozen: tuple[str, ...] = ()


def judge(build: Callable[[], Network], seed: int = 0, *, depth: bool = False) -> Verdict:
    """Narrow a network at random and say whether the engine was right. ``build`` makes the same network each time.

    With ``depth``, blocks may go whole, too.
    """
    network = build()
    inputs = by_convention(network.inputs)
    before = State.of({"model": network.model, "inputs": network.inputs})
    try:
        graph = sc.trace(network.model, inputs, depth=depth)
        plan = random_plan(graph, seed)
        alarm = _verified(network.model, plan, graph)
        small, counted = (sc.apply(network.model, plan, verify=False) for _ in range(2))
    except SecateurError as error:
        wrong = _changed(before, network)
        return Verdict(wrong=wrong, refused=None if wrong else f"{type(error).__name__}: {error}")
    fault = _changed(before, network) or _Trial(build, plan, graph).fault(small)
    if alarm is not None:
        fault = f"caught: {fault}" if fault else f"false alarm: {alarm}"
    return Verdict(
        wrong=fault or _costs(counted, inputs, graph, plan) or _changed(before, network),
        free=len(graph.free),
        exact=sum(graph[name].exact for name in plan.kept),
        frozen=tuple(w.frozen for w in graph.widths if w.frozen),
    )


def by_convention(inputs: Inputs) -> Inputs:
    """The generator passes everything by position; a dict in last place then needs the escape."""
    return (*inputs, {}) if inputs and isinstance(inputs[-1], dict) else inputs


def _verified(model: nn.Module, plan: sc.Plan, graph: sc.Graph) -> str | None:
    """What the library's own verification says against a plan."""
    try:
        sc.verify(model, plan, graph)
    except VerificationError as error:
        return str(error)
    return None


def _changed(before: State, network: Network) -> str | None:
    changes = before.changes(State.of({"model": network.model, "inputs": network.inputs}))
    return f"changed: {'; '.join(sorted(changes)[:2])}" if changes else None


class _Trial:
    """One plan: the narrowed network against the zeroed one, which is narrowed itself where a width is not exact."""

    def __init__(self, build: Callable[[], Network], plan: sc.Plan, graph: sc.Graph) -> None:
        self.build, self.plan, self.graph = build, plan, graph
        self.inputs = build().inputs
        self.numbered = build().model
        self.now = names_now(build().model, plan) if plan.drops else {}

    def fault(self, small: nn.Module) -> str | None:
        """What is wrong with the narrowed network, or None."""
        found = self._reference()
        if found is None:  # the code cannot run with the inexact widths alone narrowed: compare the exact ones alone
            try:
                self.plan = self.graph.plan({n: a for n, a in self.plan.arrays.items() if self.graph[n].exact})
            except Coincidence:
                return None if _runs(small, self.inputs) else "the narrowed network does not run"
            small = sc.apply(self.build().model, self.plan, verify=False)
            found = self._reference()
            assert found is not None
        return self._compared(small.double(), *found)

    def _reference(self) -> tuple[nn.Module, Positions | None, Positions] | None:
        """The network with inexact widths narrowed and exact ones zeroed; where its numbers, and the kept ones, stood."""
        inexact = {n: a for n, a in self.plan.arrays.items() if not self.graph[n].exact}
        model, here = self.build().model, None
        if inexact:
            try:
                base = self.graph.plan(inexact)
            except Coincidence:
                return None
            if not _runs(sc.apply(model, base, verify=False), self.inputs):
                return None
            model, here = sc.apply(model, base, verify=False), kept_positions(self.numbered, base)
        kept = kept_positions(self.numbered, self.plan)
        if self.now:
            kept = {name: kept[now] for name, now in self.now.items()}
            skip(model, self.plan)
        zero_removed(model, here, kept)
        return model.double(), here, kept

    def _compared(self, small: nn.Module, reference: nn.Module, here: Positions | None, kept: Positions) -> str | None:
        model = self.build().model.double()
        for what, inputs, training in _questions(self.inputs):
            asked = _doubled(inputs)
            answer = _answers(model, asked, training)
            if answer is None or not answer.deterministic:
                continue  # the whole network does not take this either, or draws numbers of its own
            a, b = _answers(reference, asked, training), _answers(small, asked, training, self.now)
            if b is None:
                return f"on {what}: the narrowed network does not run"
            if a is None or not (said := _difference(a, b, here, kept)):
                continue
            outputs, gradients = _rounding(reference, asked, training, a)
            if outputs > COARSE or _difference(a, b, here, kept, max(OUTPUTS, outputs), max(GRADIENTS, gradients)):
                return f"on {what}: {said}"
        return None


@dataclass(frozen=True, slots=True)
class _Answer:
    outputs: list[Tensor]
    gradients: dict[str, Tensor]
    deterministic: bool


def _answers(model: nn.Module, inputs: Inputs, training: bool, now: Mapping[str, str] | None = None) -> _Answer | None:
    """Outputs, and what a backward pass through all of them gives; None where the network does not run.

    ``now``: what tensors are called in this model, by the names that they go by here.
    """
    model.train(training)
    with _same_numbers() as drawn:
        try:
            outputs = [t for t in tensors(model(*inputs)) if t.is_floating_point() or t.is_complex()]
            for parameter in model.parameters():
                parameter.grad = None
            loss = _loss(outputs)
            if loss.requires_grad:
                with _Asked():
                    loss.backward()
        except Exception:
            return None
    held = named(model)
    gradients = {name: t for name in now or held if (t := held[now[name] if now else name].grad) is not None}
    return _Answer([t.detach() for t in outputs], gradients, not drawn())


class _Asked(TorchDispatchMode):
    """Keeps two kernels of PyTorch 2.13 from what they do wrong.

    Group norm is asked for the gradient of its input: a channels-last one that wants none kills the process. What batch norm
    is given back lies in memory as its input does: else the gradients of a batch of one are other numbers.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_group_norm_backward.default:
            args = (*args[:-1], [True, *args[-1][1:]])
        if func is torch.ops.aten.native_batch_norm_backward.default and args[0] is not None:
            args = (torch.empty_like(args[1]).copy_(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


def _loss(outputs: list[Tensor]) -> Tensor:
    """A number that depends on every output in its own way."""
    total = torch.zeros((), dtype=torch.float64)
    for out in outputs:
        flat = torch.view_as_real(out).reshape(-1) if out.is_complex() else out.reshape(-1)
        weights = torch.linspace(0.5, 1.5, flat.numel(), dtype=torch.float64)
        total = total + (flat.double() * weights).sum()
    return total


@contextlib.contextmanager
def _same_numbers() -> Iterator[Callable[[], bool]]:
    """Random numbers that begin alike each time; what is yielded says, afterwards, whether any was drawn."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = torch.get_rng_state()
        moved: list[bool] = []
        yield lambda: bool(moved)
        if not torch.equal(start, torch.get_rng_state()) or random.getstate() != python:
            moved.append(True)
    random.setstate(python)
    np.random.set_state(legacy)


def _rounding(model: nn.Module, inputs: Inputs, training: bool, answer: _Answer) -> tuple[float, float]:
    """What an ill-conditioned network makes of the last place of its weights, in outputs and gradients, with room."""
    outputs, gradients = [0.0], [0.0]
    for seed in range(3):
        other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in other.parameters():
                signs = (torch.randint(2, parameter.shape, generator=generator) * 2 - 1).double()
                parameter.mul_(1 + torch.finfo(torch.float64).eps * signs)
        found = _answers(other, inputs, training)
        if found is not None:
            outputs.append(_share(dict(enumerate(answer.outputs)), dict(enumerate(found.outputs))))
            gradients.append(_share(answer.gradients, found.gradients))
    return ROUNDINGS * max(outputs), ROUNDINGS * max(gradients)


def _share(wanted: Mapping[Any, Tensor], given: Mapping[Any, Tensor]) -> float:
    scale = max((_largest(t) for t in wanted.values()), default=0.0)
    return max((_gap(t, given[name]) / max(scale, 1e-6) for name, t in wanted.items() if name in given), default=0.0)


def _difference(
    a: _Answer,
    b: _Answer,
    here: Positions | None,
    kept: Positions,
    outputs: float = OUTPUTS,
    gradients: float = GRADIENTS,
) -> str | None:
    """How the narrowed network's answer ``b`` differs from the zeroed one's."""
    if len(a.outputs) != len(b.outputs) or not a.outputs:
        return f"{len(b.outputs)} outputs instead of {len(a.outputs)}"
    scale = max((_largest(t) for t in a.outputs), default=0.0)
    for place, (x, y) in enumerate(zip(a.outputs, b.outputs, strict=True)):
        if x.shape != y.shape:
            return f"output {place} has shape {tuple(y.shape)} instead of {tuple(x.shape)}"
        if (gap := _gap(x, y)) > outputs * max(scale, 1e-6):
            return f"output {place} differs by {gap / max(scale, 1e-6):.1e} of the largest"
    wanted = {
        name: t if name not in kept else gathered(t, here and here[name], kept[name]) for name, t in a.gradients.items()
    }
    scale = max((_largest(t) for t in wanted.values()), default=0.0)
    for name, gradient in wanted.items():
        other = b.gradients.get(name)
        if other is None:
            return f"{name} has no gradient"
        if other.shape != gradient.shape:
            return f"the gradient of {name} has shape {tuple(other.shape)} instead of {tuple(gradient.shape)}"
        if (gap := _gap(gradient, other)) > gradients * max(scale, 1e-6):
            return f"the gradient of {name} differs by {gap / max(scale, 1e-6):.1e} of the largest"
    return None


def _largest(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _gap(wanted: Tensor, given: Tensor) -> float:
    """The largest difference where the wanted number is one; a number where none is due counts as none."""
    known = wanted.isfinite()
    gap = (wanted - given)[known].abs()
    return float(gap.nan_to_num(nan=float("inf")).max()) if gap.numel() else 0.0


def _questions(inputs: Inputs) -> Iterator[tuple[str, Inputs, bool]]:
    """The example, other numbers, a larger batch, and once in training mode."""
    generator = torch.Generator().manual_seed(1)

    def other(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator).to(tensor)
        return tensor.flip(-1).roll(1, -1)

    others = _mapped(inputs, other)
    yield "the example", inputs, False
    yield "other numbers", others, False
    yield "a larger batch", _mapped(inputs, lambda tensor: torch.cat([tensor, other(tensor)])), False
    yield "other numbers in training mode", others, True


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(item, function) for key, item in value.items()}
    return tuple(_mapped(item, function) for item in value) if isinstance(value, tuple) else value


def _doubled(inputs: Inputs) -> Inputs:
    return _mapped(inputs, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor.clone())


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    with torch.no_grad(), _same_numbers():
        try:
            model.eval()(*_mapped(inputs, torch.clone))
        except Exception:
            return False
    return True


def _costs(small: nn.Module, inputs: Inputs, graph: sc.Graph, plan: sc.Plan) -> str | None:
    """What the plan foretold, counted in the narrowed network."""
    held = sum(p.numel() for p in small.parameters())
    if held != graph.cost("params", plan.sizes):
        return f"costs: the narrowed network holds {held} parameters"
    if any(plan.sizes[name] == 1 for name in plan.kept) or any("values" in note for note in graph.notes):
        return None  # sizes of one take other paths (einsum multiplies, reshape need not copy), and so may other values
    again = sc.trace(small, inputs, check=False)
    for name in graph.costs:
        foretold, counted = graph.cost(name, plan.sizes), again.cost(name)
        if foretold != counted and not (plan.drops and name.startswith("peak") and foretold > counted):
            return f"costs: {name} is foretold as {foretold}, the narrowed network counts {counted}"
    return None
