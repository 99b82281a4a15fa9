"""The host's own ``config.json`` beside an artefact, for models that carry one (Hugging Face).

It describes the original architecture, the one that `restore` needs: sizes that the plans rewrote in the model's
config are written as they were.

Invariant: the model's config object is not touched.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core.plan import Plan
from secateur.core.text import visible
from secateur.io.atomic import write_file
from secateur.torch.narrowing.installing import set_attribute


def write_host_config(model: nn.Module, plans: Sequence[Plan], folder: Path) -> None:
    """Write ``config.json`` where the model has a config that knows how; warns where it fails to."""
    if not hasattr(getattr(model, "config", None), "to_json_string"):
        return
    try:
        text = _original(model, plans).to_json_string()
    except Exception as problem:  # other people's code; the artefact does not need it
        warnings.warn(f"config.json was not written: {visible(problem)[:200]}", stacklevel=3)
        return
    write_file(folder / "config.json", text)


def _original(model: nn.Module, plans: Sequence[Plan]) -> Any:
    """The config with every size as it was before the first plan."""
    standin = nn.Module()
    standin.__dict__["config"] = copy.deepcopy(model.config)
    for plan in reversed(plans):
        for edit in reversed(plan.edits):
            if edit.module == "" and edit.path.startswith("config."):
                set_attribute(standin, edit.path, edit.new, edit.old)
    return standin.config
