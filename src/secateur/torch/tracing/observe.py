"""The one run of a trace: the model, its example, and everything the operators said.

    observe(example) -> Observation      spaces of every named tensor, the records, equations, costs, outputs

Runs on tensors without data; where the model's code needs values (it branches on them), on the real ones.

Invariant: the model comes back untouched, whatever happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import secateur.torch.rules  # noqa: F401  importing them registers them
from secateur.core.space import ONE, Space, constant, freeze
from secateur.errors import TraceError
from secateur.torch.running.example import Example, output_tensors
from secateur.torch.running.restoring import abstract_like, named_tensors, swap_weights, untouched
from secateur.torch.running.switches import tracing_switches
from secateur.torch.tracing.arguments import Sizes
from secateur.torch.tracing.attributes import sized_attributes
from secateur.torch.tracing.tracer import Record, Tracer, Value

INPUT, OUTPUT = "the model's input", "the model's output"


@dataclass(slots=True)
class Observation:
    """What one run said. ``spaces`` by tensor name; ``outputs`` in order; ``tracer`` holds records and equations."""

    example: Example
    tracer: Tracer
    spaces: dict[str, list[Space]]
    outputs: list[list[Space]]
    inputs: list[Space] = field(default_factory=list)
    fallback: str | None = None
    training_records: list[Record] = field(default_factory=list)


def observe(example: Example, *, interface: bool = True) -> Observation:
    """Run the model once and listen. ``interface``: the model's output dimensions are frozen.

    Raises TraceError, with the model's own error as its cause, where it cannot be run on this example.
    """
    try:
        return _observe(example, interface, abstract=True)
    except Exception as abstract_error:
        if any(t.is_meta for t in named_tensors(example.model).values()):
            raise TraceError(_sentence(example, abstract_error)) from abstract_error
        try:
            seen = _observe(example, interface, abstract=False)
        except Exception as error:
            raise TraceError(_sentence(example, error)) from error
        seen.fallback = " ".join(f"{type(abstract_error).__name__}: {abstract_error}".split())[:140]
        return seen


def _sentence(example: Example, error: Exception) -> str:
    kind = type(example.model).__name__
    return (
        f"{kind} does not run on this dummy_input: {type(error).__name__}: {error}. "
        "Pass what model(...) takes: a tensor, a tuple, or a tuple ending in a dict of keyword arguments."
    )


def listen_in_training(seen: Observation) -> None:
    """Run once more in training mode on the same spaces, for parameters that evaluation does not exercise.

    Best effort: a model that does not train on its example adds nothing.
    """
    try:
        more = _observe(seen.example, False, abstract=seen.tracer.abstract, trained=seen)
    except Exception:
        return
    seen.tracer.facts.equations.extend(more.tracer.facts.equations)
    seen.training_records = more.tracer.records


def _observe(example: Example, interface: bool, *, abstract: bool, trained: Observation | None = None) -> Observation:
    """One run in evaluation mode; with ``trained``, in training mode on the spaces of that run."""
    model = example.model
    tracer = Tracer(abstract=abstract)
    spaces: dict[str, list[Space]] = {}
    with untouched(model), tracing_switches():
        names = _names_by_tensor(model)

        def swap(name: str, tensor: torch.Tensor) -> torch.Tensor:
            made = abstract_like(tensor) if abstract else _alias(tensor)
            known = (
                trained.spaces[name] if trained else [Space(n) if n != 1 else constant(1, ONE) for n in tensor.shape]
            )
            made._secateur = Value(known, [tensor.is_floating_point()] * len(known))  # type: ignore[attr-defined]
            spaces.update(dict.fromkeys(names[id(tensor)], known))
            return made

        swap_weights(model, swap)
        for module in model.modules():
            module.training = trained is not None
        inputs: list[Space] = []
        placed = example if abstract else example.beside_model()
        ready = placed.map(lambda t: _input(t, inputs, abstract))
        with sized_attributes(model, tracer) as attributes, module_names(model, tracer), tracer, Sizes(tracer):
            output = model(*ready.args, **ready.kwargs)
        returned = output_tensors(output)
        tracer.read(returned)
        outputs = [list(tracer.spaces(t)) for t in returned]
        del output, returned, ready
    tracer.facts.attributes.update(attributes)
    tracer.forget()
    for layout in outputs if interface else []:
        for space in layout:
            freeze(space, OUTPUT)
    return Observation(example, tracer, spaces, outputs, inputs)


def _names_by_tensor(model: nn.Module) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, tensor in named_tensors(model).items():
        names.setdefault(id(tensor), []).append(name)
    return names


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same parameter under another object, or a buffer that may be overwritten."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=False)
    return tensor.detach().clone()


def _input(tensor: torch.Tensor, inputs: list[Space], abstract: bool) -> torch.Tensor:
    made = abstract_like(tensor.detach()) if abstract else tensor.detach().clone()
    known = [constant(n, INPUT if n != 1 else ONE) for n in tensor.shape]
    made._secateur = Value(known, [False] * len(known))  # type: ignore[attr-defined]
    inputs.extend(known)
    return made


@contextlib.contextmanager
def module_names(model: nn.Module, tracer: Any) -> Iterator[None]:
    """Keep ``tracer.module`` the dotted name of the module that is running."""
    names = {id(module): name for name, module in model.named_modules()}
    stack: list[str] = []

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(tracer.module)
        tracer.module = names.get(id(module), tracer.module)

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        tracer.module = stack.pop() if stack else ""

    hooks = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
