"""Checkpoint folders of Hugging Face, as models of a command or a scenario.

    config.json names LlamaForCausalLM      ──►  that class of the installed transformers, with all that the folder holds
    a task is given                         ──►  the class of that task, with what it can use of it
    plan.json lies beside it                ──►  what `secateur.save` or `secateur.hf.save_pretrained` left there

Invariant: nothing is downloaded and no code of a folder is run; where no task is given, no weight is lost and none made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.text import visible
from secateur.errors import InputError
from secateur.hf.checkpoints import class_called, from_pretrained
from secateur.io.atomic import PLAN

_NO_CODE = {"local_files_only": True, "trust_remote_code": False}
_CHOOSES = 'choose a class with --options \'{"task": "language-model"}\' (in a scenario: options)'


def from_folder(folder: Path, kind: Any, settings: Mapping[str, object]) -> nn.Module:
    """The model of a folder, with its weights. ``kind`` is the class that was asked for; None for the one that it names.

    Raises InputError where the folder names no class of transformers, or its weights are not those of the class.
    """
    import transformers

    with torch.device("cpu"):  # weights are what a folder is read for
        if (folder / PLAN).exists():
            return _narrowed(folder, kind, settings)
        config = transformers.AutoConfig.from_pretrained(folder, **_NO_CODE)
        wanted = {**without_cache(config, settings), **_NO_CODE, "output_loading_info": True}
        model, found = (kind or _named(folder, config)).from_pretrained(folder, **wanted)
        if kind is None:
            _refuse_other_weights(folder, model, found)
        return model


def without_cache(config: Any, settings: Mapping[str, object]) -> Mapping[str, object]:
    """Settings under which a model gives answers only, as it is exported and timed, unless more is asked for."""
    return {"use_cache": False, **settings} if hasattr(config, "use_cache") else settings


def _named(folder: Path, config: Any) -> Any:
    """The class that a configuration names; the one without a head where it names none."""
    import transformers

    names = config.architectures or []
    found = class_called(names) if names else transformers.AutoModel
    if found is None:
        named = visible(", ".join(map(str, names)))
        raise InputError(f"{visible(folder)} is a {named}, and transformers has no class of that name; {_CHOOSES}")
    return found


def _refuse_other_weights(folder: Path, model: nn.Module, found: Mapping[str, Any]) -> None:
    """What a class says it can do without is not among those that were found to be missing or too many."""
    for what, key in (("has no", "missing_keys"), ("holds, beside it,", "unexpected_keys")):
        if names := sorted(found[key]):
            few = visible(", ".join(names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise InputError(f"{visible(folder)} is no whole {type(model).__name__}: it {what} {few}; {_CHOOSES}")


def _narrowed(folder: Path, kind: Any, settings: Mapping[str, object]) -> nn.Module:
    if kind is not None or settings.keys() - {"use_cache"}:
        raise InputError(
            f"{visible(folder)} holds a network that was narrowed: it is built as saved, and takes no options but use_cache"
        )
    model: Any = from_pretrained(folder)
    for name, value in without_cache(model.config, settings).items():
        setattr(model.config, name, value)
    return model
