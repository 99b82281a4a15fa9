"""One step at a time from the command line: plan, apply, prune, fine-tune.

    secateur plan timm:resnet18 -c macs=60% -o plan.json          what would stay
    secateur apply plan.json timm:resnet18 --weights w.pt -o small/
    secateur prune zoo:digits --weights w.safetensors --data digits -c macs=50% -o small/
    secateur finetune small/ zoo:digits --data digits -o tuned/

Invariant: what is written was verified, or the command ends with exit code 4 and writes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import JsonValue, ValidationError
from torch import nn

import secateur as sc
from secateur.cli.inputs import example_for
from secateur.core.json import Json
from secateur.core.plan import Plan
from secateur.core.text import visible
from secateur.errors import ConfigError, InputError
from secateur.io.atomic import try_folder
from secateur.io.weights import load_weights
from secateur.modes import MODES
from secateur.modes.result import PruneResult
from secateur.scenario.models import build
from secateur.scenario.run import context_of
from secateur.scenario.schema import DataSpec, Finetune, Model, Prune, Scenario, wanted
from secateur.scenario.stages import ARTEFACT, Context, mode_of, train_stage
from secateur.scenario.work import publish
from secateur.search.limits import Limits

_LIMITS = tuple(Limits.model_fields)
_Part = TypeVar("_Part", Model, Prune, Finetune)


def network(spec: str, options: Mapping[str, object], weights: str) -> nn.Module:
    """A model with real weights: those of a file, or what its constructor draws from seed 0."""
    torch.manual_seed(0)
    model = build(spec, "cpu", options)
    if weights:
        load_weights(model, Path(weights))
    return model


def plan(model: nn.Module, example: object, bounds: Mapping[str, Json], settings: Mapping[str, Json]) -> Plan:
    """A plan from weights alone."""
    limits = {key: settings[key] for key in settings if key in _LIMITS}
    rest = {key: settings[key] for key in settings if key not in _LIMITS}
    strange = [key for key in rest if key not in ("criterion", "allocation")]
    if strange:
        raise InputError(f"--set: plan knows criterion, allocation, {', '.join(_LIMITS)}, not {visible(strange[0])!r}")
    graph = sc.trace(model, example)
    allocation = str(rest.get("allocation", "global"))
    return sc.plan(graph, str(rest.get("criterion", "l1")), bounds or None, allocation=allocation, limits=limits)


def apply(file: Path, model: nn.Module, example: object, out: Path) -> nn.Module:
    """Apply a plan that was written to a file, verify, and save the artefact."""
    try_folder(out)
    try:
        text = file.read_bytes()
    except OSError as problem:
        raise InputError(f"{visible(file)} cannot be read: {visible(problem)}") from None
    small = sc.apply(model, Plan.from_json(text), dummy_input=example)
    sc.save(small, out)
    return small


def pruned(
    source: Mapping[str, object], stage: Mapping[str, object], data: str, inputs: Sequence[str], out: Path
) -> PruneResult:
    """Prune with any mode and save; with data the mode looks at them. Raises what `secateur.prune` does."""
    spec, wanted = _read(Model, source), _read(Prune, stage)
    try_folder(out)
    if data:
        context = _context(spec, data, wanted)
        model, example = context.network(None), context.splits.example()
        mode = mode_of(context, wanted, model, None)
    else:
        model = network(spec.source, spec.options, spec.weights or "")
        example, mode = example_for(model, spec.source, inputs), MODES[wanted.mode].read(wanted.options)
    small, result = sc.prune(model, mode, wanted.constraints or None, example)
    sc.save(small, out)
    return result


def finetuned(source: Mapping[str, object], stage: Mapping[str, object], data: str, out: Path) -> str:
    """Train a network that Secateur saved, and save it; what there is to say."""
    wanted = _read(Finetune, stage)
    try_folder(out)
    context = _context(_read(Model, source), data, wanted)
    with tempfile.TemporaryDirectory() as folder:
        found = train_stage(context, wanted, None, None, Path(folder))
        publish(Path(folder) / ARTEFACT, out)
    return str(found["said"])


def _context(model: Model, data: str, stage: Prune | Finetune) -> Context:
    """A scenario of one stage, on data written ``digits`` or ``images:folder``."""
    source, _, path = data.partition(":")
    options: dict[str, JsonValue] = {"path": path} if path else {}
    spec = DataSpec(source=source, options=options)
    return context_of(Scenario(name="command line", model=model, data=spec, stages=[stage]), Path.cwd())


def _read(kind: type[_Part], given: Mapping[str, object]) -> _Part:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{' → '.join(map(str, first['loc']))}: {wanted(first)}") from None
