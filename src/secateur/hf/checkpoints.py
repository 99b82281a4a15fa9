"""Saving and loading narrowed models of Hugging Face's transformers.

    a configuration can say it   ──►  config.json, model.safetensors     stock from_pretrained loads it, without Secateur
    none can                     ──►  the same files and plan.json       `from_pretrained` here builds, narrows, loads

No code is written and none is loaded from a checkpoint: classes are those of the installed transformers.

Invariant: what is loaded gives, bit for bit, what was saved; a folder that would load as something else is never written.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from secateur.core.text import visible
from secateur.errors import ArtifactError, InputError
from secateur.io.artifact import restore, save
from secateur.io.atomic import PLAN, write_file
from secateur.torch.narrowing.host_building import config_of
from secateur.torch.narrowing.host_config import UNSAID

_CONFIG = "config.json"
_GENERATION = "generation_config.json"
_BY_HAND = "with modules put in by hand is built as it was and given to secateur.restore(model, folder)"


def save_pretrained(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model to a folder: as an ordinary checkpoint where a configuration can say what is left of it.

    Otherwise (each layer with widths of its own, kept rotary pairs) as an artefact of ours, with a warning that says why.
    Raises InputError for a model that is none of transformers, ArtifactError where the folder cannot be written.
    """
    writes = getattr(model, "save_pretrained", None)
    if config_of(model) is None or not callable(writes):
        raise InputError(f"{type(model).__name__} is no model of transformers; use secateur.save and secateur.restore")
    folder = Path(path)
    if (folder / PLAN).exists() and model.__dict__.get(UNSAID) is None:
        raise ArtifactError(f"{visible(folder)} holds an artefact with a plan; choose an empty or a new folder")
    reason = model.__dict__.get(UNSAID)
    if reason is None:
        writes(folder)
        return
    generation: Any = getattr(model, "generation_config", None)
    text = None if generation is None else generation.to_json_string()  # may refuse: asked before anything is written
    save(model, folder)
    if text is not None:
        try:
            write_file(folder / _GENERATION, text)
        except OSError as problem:
            raise ArtifactError(f"could not save to {visible(folder)}: {visible(problem)}. Save again") from problem
    warnings.warn(
        f"saved with a plan of ours, as no configuration can say it ({reason}). secateur.hf.from_pretrained loads it where the "
        f"whole network is what its class builds from its configuration; one {_BY_HAND}",
        stacklevel=2,
    )


def from_pretrained(path: str | os.PathLike[str], model_class: type[nn.Module] | None = None) -> nn.Module:
    """Load what `save_pretrained` wrote, in evaluation mode; an ordinary checkpoint, too.

    ``model_class`` is what to build where the configuration does not name a class of transformers. Raises ArtifactError for
    a folder that is neither.
    """
    folder = Path(path)
    kind = model_class or _class_named(folder)
    if not (folder / PLAN).exists():
        return kind.from_pretrained(folder)  # type: ignore[attr-defined]
    config = kind.config_class.from_pretrained(folder)  # type: ignore[attr-defined]
    model: Any = kind(config)
    dtype = getattr(config, "dtype", None)
    model = model.to(dtype) if isinstance(dtype, torch.dtype) else model
    try:
        restore(model, folder)
    except ArtifactError as problem:
        raise ArtifactError(
            f"{problem} {kind.__name__} was built from the folder's configuration; a network {_BY_HAND}"
        ) from problem
    if (folder / _GENERATION).exists():
        model.generation_config = type(model.generation_config).from_pretrained(folder)
    return model.eval()


def _class_named(folder: Path) -> Any:
    """The class that a checkpoint's configuration names. Raises ArtifactError where transformers has none of that name."""
    try:
        names = json.loads((folder / _CONFIG).read_text("utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError) as problem:
        raise ArtifactError(
            f"{visible(folder)} is no checkpoint: {_CONFIG} cannot be read ({visible(problem)})"
        ) from problem
    found = next((kind for name in names if isinstance(kind := getattr(_transformers(), str(name), None), type)), None)
    if found is None or not issubclass(found, nn.Module):
        named = visible(", ".join(map(str, names)) or "that its configuration names")
        raise ArtifactError(f"{visible(folder)}: transformers has no class {named}; pass model_class")
    return found


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as problem:
        raise InputError("transformers is not installed: pip install 'secateur[hf]'") from problem
    return transformers
