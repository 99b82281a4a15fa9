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
from types import SimpleNamespace
from typing import Protocol, runtime_checkable

from torch import nn

from secateur.core.plan import Plan
from secateur.core.text import visible
from secateur.io.atomic import write_file
from secateur.torch.narrowing.installing import set_attribute


@runtime_checkable
class HostConfig(Protocol):
    """A config that knows how to write itself."""

    def to_json_string(self) -> str:
        """Its fields as JSON text."""
        ...


def write_host_config(model: nn.Module, plans: Sequence[Plan], folder: Path) -> None:
    """Write ``config.json`` where the model has a config that knows how; warns where it fails to."""
    config = getattr(model, "config", None)
    if not isinstance(config, HostConfig):
        return
    try:
        text = _original(config, plans).to_json_string()
    except Exception as problem:  # other people's code; the artefact does not need it
        warnings.warn(f"config.json was not written: {visible(problem)[:200]}", stacklevel=3)
        return
    write_file(folder / "config.json", text)


def _original(config: HostConfig, plans: Sequence[Plan]) -> HostConfig:
    """The config with every size as it was before the first plan."""
    standin = SimpleNamespace(config=copy.deepcopy(config))
    for plan in reversed(plans):
        for edit in reversed(plan.edits):
            if edit.module == "" and edit.path.startswith("config."):
                set_attribute(standin, edit.path, edit.new, edit.old)
    return standin.config
