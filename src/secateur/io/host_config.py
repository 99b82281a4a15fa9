"""The host's own ``config.json`` beside an artefact, for models that carry one (Hugging Face).

It describes the original architecture, the one that `restore` needs: sizes that the plans rewrote in the model's
config are written as they were.

Invariant: the model's config object is not touched.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

from torch import nn

from secateur.core.plan import Plan
from secateur.core.text import visible
from secateur.io.atomic import write_file
from secateur.torch.narrowing.host_building import config_of
from secateur.torch.narrowing.host_config import ORIGINAL_CONFIG, UNSAID, Fields, Said, said_by_config
from secateur.torch.narrowing.installing import set_attribute
from secateur.torch.running.restoring import named_tensors

_LARGEST, _MOST = 2**20, 4  # bytes of a configuration, settings that are named
# what no answer in evaluation depends on
_IS_OF_NO_ACCOUNT = re.compile(
    r"^_|version|architectures|dtype|dropout|label|_token_id$|^output_|return_dict|use_cache|problem_type"
)


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
        text = _named(model, original_config(model, plans)).to_json_string()
    except Exception as problem:  # other people's code; the artefact does not need it
        warnings.warn(f"config.json was not written: {visible(problem)[:200]}", stacklevel=3)
        return
    write_file(folder / "config.json", text)


def tell_other_settings(model: nn.Module, folder: Path) -> None:
    """Warn where a model's own configuration says other settings than the one that was saved: shapes do not show them."""
    config, file = getattr(model, "config", None), folder / "config.json"
    if not isinstance(config, HostConfig) or not file.is_file() or file.stat().st_size > _LARGEST:
        return
    try:
        saved, mine = json.loads(file.read_bytes()), json.loads(_named(model, config).to_json_string())
        both = sorted(key for key in saved.keys() & mine.keys() if not _IS_OF_NO_ACCOUNT.search(key))
    except Exception:  # other people's code, a file that somebody wrote: the artefact needs neither
        return
    if odd := [f"{key}={mine[key]!r} and not {saved[key]!r}" for key in both if mine[key] != saved[key]]:
        more = f" and {len(odd) - _MOST} more" if len(odd) > _MOST else ""
        warnings.warn(
            f"the model's configuration says {visible(', '.join(odd[:_MOST]))}{more}, which config.json "
            "of what was saved says: it may answer otherwise. Build it from that configuration",
            stacklevel=3,
        )


def _named(model: nn.Module, config: HostConfig) -> HostConfig:
    """A copy that says which class it is of and in which dtype, where there are fields for that."""
    made: Any = copy.deepcopy(config)
    if hasattr(made, "architectures"):
        made.architectures = [type(model).__name__]
    if hasattr(made, "dtype"):
        made.dtype = next((t.dtype for t in named_tensors(model).values() if t.is_floating_point()), None)
    return made


def original_config(model: nn.Module, plans: Sequence[Plan]) -> HostConfig:
    """The configuration as it was before the first plan; the model's own is not touched."""
    return model.__dict__.get(ORIGINAL_CONFIG) or _original(model.config, plans)  # type: ignore[arg-type]


def described(model: nn.Module, plans: Sequence[Plan]) -> tuple[dict[str, object], Fields]:
    """Notes for a whole model that these plans narrow, and what its own configuration says afterwards."""
    config = config_of(model)
    if config is None:
        return {}, {}
    said = said_by_config(model, plans[0]) if len(plans) == 1 else Said(reason="it was narrowed in several steps")
    if said is None:
        return {}, {}
    return {UNSAID: said.reason, ORIGINAL_CONFIG: config}, said.fields


def _original(config: HostConfig, plans: Sequence[Plan]) -> HostConfig:
    """The config with every size as it was before the first plan."""
    standin = SimpleNamespace(config=copy.deepcopy(config))
    for plan in reversed(plans):
        for edit in reversed(plan.edits):
            if edit.module == "" and edit.path.startswith("config."):
                set_attribute(standin, edit.path, edit.new, edit.old)
    return standin.config
