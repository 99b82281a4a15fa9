"""The one run of a trace: the model, its example, and everything the operators said.

    observe(example) -> Observation      spaces of every named tensor, the records, equations, costs, outputs

Runs on tensors without data; where the model's code needs values (it branches on them), on the real ones.

Invariant: what runs is a twin (`stage`); model, arguments and process stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import secateur.torch.rules  # noqa: F401  importing them registers them
from secateur.core.space import ONE, Space, constant, freeze
from secateur.errors import InputError, SecateurError, TraceError
from secateur.torch.running.example import Example
from secateur.torch.running.outputs import output_tensors
from secateur.torch.running.restoring import abstract_like, named_tensors
from secateur.torch.tracing.attributes import sized_attributes
from secateur.torch.tracing.stage import Staging, perform
from secateur.torch.tracing.tracer import Record, Tracer

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

    Raises InputError for a model that nobody can narrow, and TraceError, with the model's own error as its cause, where it
    cannot be run on this example.
    """
    if isinstance(example.model, torch.jit.ScriptModule):
        raise InputError(
            f"the model is TorchScript ({type(example.model).__name__}), whose weights and code are compiled together and "
            "cannot be narrowed. Pass the model it was scripted or traced from, and script the result."
        )
    try:
        return _observe(example, interface, abstract=True)
    except SecateurError:
        raise
    except Exception as abstract_error:
        if any(t.is_meta for t in named_tensors(example.model).values()):
            raise TraceError(_sentence(example, abstract_error)) from abstract_error
        try:
            seen = _observe(example, interface, abstract=False)
        except SecateurError:
            raise
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
    inputs: list[Space] = []
    names = _names_by_tensor(model)

    def stand_in(name: str, tensor: torch.Tensor) -> torch.Tensor:
        known = trained.spaces[name] if trained else [Space(n) if n != 1 else constant(1, ONE) for n in tensor.shape]
        spaces.update(dict.fromkeys(names[id(tensor)], known))
        made = abstract_like(tensor) if abstract else real_like(tensor)
        return tracer.introduce(made, known, [tensor.is_floating_point()] * len(known))

    def taken(tensor: torch.Tensor) -> torch.Tensor:
        known = [constant(n, INPUT if n != 1 else ONE) for n in tensor.shape]
        inputs.extend(known)
        made = abstract_like(tensor.detach()) if abstract else tensor.detach().clone()
        return tracer.introduce(made, known, [False] * len(known))

    def prepare(twin: nn.Module) -> None:
        tracer.facts.attributes.update(sized_attributes(twin, tracer))
        spaces.update(_scripted(twin, tracer))

    def look(output: Any) -> list[list[Space]]:
        returned = output_tensors(output)
        tracer.read(returned)
        return [list(tracer.spaces(t)) for t in returned]

    staging = Staging(stand_in=stand_in, taken=taken, prepare=prepare, training=trained is not None)
    outputs = perform(example, tracer, staging, look)
    for layout in outputs if interface else []:
        for space in layout:
            freeze(space, OUTPUT)
    return Observation(example, tracer, spaces, outputs, inputs)


def _scripted(twin: nn.Module, tracer: Tracer) -> dict[str, list[Space]]:
    """The tensors of TorchScript modules, which run as they are, are constants."""
    found: dict[str, list[Space]] = {}
    for prefix, module in twin.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            reason = f"{prefix} is TorchScript, whose tensors cannot be replaced"
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                known = tracer.value(tensor, reason)
                found[f"{prefix}.{name}"] = known.spaces
    return found


def _names_by_tensor(model: nn.Module) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, tensor in named_tensors(model).items():
        names.setdefault(id(tensor), []).append(name)
    return names


def real_like(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that code may write into."""
    made = tensor.detach().clone()
    return nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made
