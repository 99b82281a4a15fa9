"""What stands in ``plan.json``: the plans in the order they were applied, and what ``model.safetensors`` must hold.

    {"format": "secateur", "format_version": 1, "plans": [{"fingerprint": "…", "kept": {…}, …}],
     "weights": {"sha256": "…", "tensors": {"conv1.weight": ["F32", [32, 3, 7, 7]]}, "aliases": {}}, "versions": {…}}

Invariant: a Manifest that was read is consistent in itself; nothing in it names a file, a class or a module to import.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, PlainValidator, StringConstraints

from secateur.core.json.plan import FORMAT_VERSION, Name, plan_from_data, plan_from_json, plan_to_data, plan_to_json
from secateur.core.json.strict import check_version, fit, read_json, write_json
from secateur.core.plan import Plan
from secateur.core.text import visible
from secateur.errors import ArtifactError

__all__ = ["Manifest", "manifest_from_json", "manifest_to_json", "plan_from_json", "plan_to_json"]

OURS = re.compile(rb'\s*\{\s*"format"\s*:\s*"secateur"')
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)

Stored = tuple[str, tuple[int, ...]]  # dtype as safetensors writes it, shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The plans of a folder and the table of its tensors; ``aliases`` maps a second name to the stored one."""

    plans: tuple[Plan, ...]
    sha256: str
    tensors: dict[str, Stored]
    aliases: dict[str, str]
    versions: dict[str, str]

    @property
    def names(self) -> AbstractSet[str]:
        """All that tensors are stored as, second names included."""
        return self.tensors.keys() | self.aliases.keys()


def _stored(value: object) -> Stored:
    match value:
        case [str() as dtype, list() as shape] if len(dtype) <= 16 and len(shape) <= 64:
            if all(type(n) is int and 0 <= n < 2**63 for n in shape):
                return dtype, tuple(shape)
    raise ValueError("a tensor is listed as [dtype, [size, …]]")


class WeightsDocument(BaseModel):
    """The schema of what is known of ``model.safetensors``."""

    model_config = _STRICT

    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    tensors: dict[Name, Annotated[Stored, PlainValidator(_stored)]]
    aliases: dict[Name, Name]


class ManifestDocument(BaseModel):
    """The schema of ``plan.json``; its plans are checked one by one by `plan_from_data`."""

    model_config = _STRICT

    format: Literal["secateur"]
    format_version: Literal[1]
    plans: list[dict[str, object]]
    weights: WeightsDocument
    versions: dict[Name, Name]


def manifest_to_json(manifest: Manifest) -> str:
    """The text of ``plan.json``."""
    data = {
        "format": "secateur",
        "format_version": FORMAT_VERSION,
        "plans": [plan_to_data(plan) for plan in manifest.plans],
        "weights": {
            "sha256": manifest.sha256,
            "tensors": {name: [dtype, list(shape)] for name, (dtype, shape) in manifest.tensors.items()},
            "aliases": manifest.aliases,
        },
        "versions": manifest.versions,
    }
    return write_json(data, "plan.json", ArtifactError)


def manifest_from_json(text: str | bytes) -> Manifest:
    """What `manifest_to_json` wrote. Raises ArtifactError, or PlanError from inside a plan, naming the place."""
    data = read_json(text, "plan.json", ArtifactError)
    check_version(data, FORMAT_VERSION, "plan.json", ArtifactError)
    document = fit(ManifestDocument, data, "plan.json", ArtifactError)
    plans = tuple(plan_from_data(plan, f"plan.json, plan {i + 1}") for i, plan in enumerate(document.plans))
    if not plans:
        raise ArtifactError("plan.json lists no plan; nothing would be restored")
    tensors, aliases = document.weights.tensors, document.weights.aliases
    for name, stored in aliases.items():
        if stored not in tensors or name in tensors:
            raise ArtifactError(f"plan.json: {visible(name)} cannot be an alias of {visible(stored)}")
    return Manifest(
        plans=plans, sha256=document.weights.sha256, tensors=tensors, aliases=aliases, versions=document.versions
    )
