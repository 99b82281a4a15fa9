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
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from secateur.core.text import visible
from secateur.errors import ArtifactError, InputError
from secateur.io.artifact import restore, save
from secateur.io.atomic import PLAN, write_file
from secateur.torch.narrowing.host_building import config_of, on_meta
from secateur.torch.narrowing.host_config import UNSAID
from secateur.torch.running.walking import modules_of

_CONFIG = "config.json"
_GENERATION = "generation_config.json"
_BY_HAND = "with modules put in by hand is built as it was and given to secateur.restore(model, folder)"


def save_pretrained(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model to a folder: as an ordinary checkpoint where a configuration can say what is left of it.

    Otherwise (each layer with widths of its own, kept rotary pairs) as an artefact of ours, with a warning that says why.
    Raises InputError for a model that is none of transformers, ArtifactError where the folder cannot be written, or would
    load as something else: with modules put in by hand, or masks.
    """
    writes = getattr(model, "save_pretrained", None)
    if config_of(model) is None or not callable(writes):
        raise InputError(f"{type(model).__name__} is no model of transformers; use secateur.save and secateur.restore")
    folder = Path(path)
    if (folder / PLAN).exists() and model.__dict__.get(UNSAID) is None:
        raise ArtifactError(f"{visible(folder)} holds an artefact with a plan; choose an empty or a new folder")
    reason = model.__dict__.get(UNSAID)
    if reason is None:
        _check_builds(model)
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
    a folder that is neither, or that lacks weights of the class that it names.
    """
    folder = Path(path)
    kind = model_class or _class_named(folder)
    if not (folder / PLAN).exists():
        loaded, report = kind.from_pretrained(folder, output_loading_info=True)  # type: ignore[attr-defined]
        missing = sorted(report["missing_keys"])
        if missing and model_class is None:
            raise ArtifactError(
                f"{visible(folder)} lacks {visible(missing[0])} ({len(missing)} tensors of {kind.__name__} are missing), which "
                "would be random; to have them so, as a new head that is trained next, pass model_class"
            )
        return loaded
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


def _check_builds(model: nn.Module) -> None:
    """Raise ArtifactError where what the model's class builds from its configuration has other tensors than the model."""
    try:
        built = on_meta(model, config_of(model))
    except (
        Exception
    ):  # other people's code: a class that asks for more than its configuration is loaded by its own means
        return
    ours, theirs = ({n: t.shape for n, t in each.state_dict().items()} for each in (model, built))
    odd = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if not odd:
        return
    masked = any(map(is_parametrized, modules_of(model)))
    raise ArtifactError(
        f"what {type(model).__name__} builds from its configuration has {_shown(theirs, odd[0])} where this model has "
        f"{_shown(ours, odd[0])} ({visible(odd[0])}; {len(odd)} tensors differ): the folder would load with random weights. "
        + ("Take masks and other parametrizations off first" if masked else "Merge what was put in by hand first")
        + ", or save its state_dict"
    )


def _shown(shapes: Mapping[str, torch.Size], name: str) -> str:
    return f"a tensor of {tuple(shapes[name])}" if name in shapes else "none"


def _class_named(folder: Path) -> Any:
    """The class that a checkpoint's configuration names. Raises ArtifactError where transformers has none of that name."""
    try:
        names = json.loads((folder / _CONFIG).read_text("utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError) as problem:
        raise ArtifactError(
            f"{visible(folder)} is no checkpoint: {_CONFIG} cannot be read ({visible(problem)})"
        ) from problem
    found = class_called(names)
    if found is None:
        named = visible(", ".join(map(str, names)) or "that its configuration names")
        raise ArtifactError(f"{visible(folder)}: transformers has no class {named}; pass model_class")
    return found


def class_called(names: Iterable[object]) -> Any:
    """The first of these names that is a model class of transformers itself, or None: a name selects, and is not imported."""
    transformers = _transformers()
    kinds = (getattr(transformers, str(name), None) for name in names)
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, transformers.PreTrainedModel)), None)


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as problem:
        raise InputError("transformers is not installed: pip install 'secateur[hf]'") from problem
    return transformers
