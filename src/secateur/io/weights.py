"""The weights of a network that was not narrowed, in a file, and back.

    save_weights(model, Path("weights.safetensors"))        load_weights(build(), Path("weights.safetensors"))

Invariant: what is loaded equals what was saved, bit for bit, or an error says what does not fit and nothing was changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.core.text import few, visible
from secateur.errors import ArtifactError
from secateur.io.state import collect, stored_names

_ALIASES = "secateur.aliases"


def save_weights(model: nn.Module, file: Path) -> None:
    """Write all tensors; names that share one are stored once."""
    state = collect(model, ())
    save_file(dict(state.tensors), file, metadata={"format": "pt", _ALIASES: json.dumps(dict(state.aliases))})


def load_weights(model: nn.Module, file: Path) -> None:
    """Put the tensors of a safetensors file, or of a state dict that torch saved, into a model in place."""
    try:
        found = _read(file)
    except Exception as problem:  # torch's reader raises whatever it stumbles over in a file that is none
        what = "it is empty" if isinstance(problem, EOFError) else visible(problem)[:200]
        raise ArtifactError(
            f"{visible(file)} cannot be read as weights: {what}. Give a .safetensors file, or a state dict that torch.save wrote"
        ) from None
    wanted = stored_names(model, ())
    required = {name for name, (stored, _) in wanted.items() if stored == name}
    missing, strange = sorted(required - set(found)), sorted(set(found) - {stored for stored, _ in wanted.values()})
    if missing or strange:
        what = f"lacks {few(map(visible, missing))}" if missing else f"holds {few(map(visible, strange))} beside them"
        raise ArtifactError(f"{visible(file)} does not hold the weights of this {type(model).__name__}: it {what}")
    pairs = [(live, found[stored], stored) for stored, live in wanted.values() if stored in found]
    for live, given, name in pairs:
        if live.shape != given.shape:
            shapes = f"{tuple(given.shape)} in the file, {tuple(live.shape)} in the model"
            raise ArtifactError(f"{visible(file)}: {visible(name)} is {shapes}")
    with torch.no_grad():
        for live, given, _ in pairs:
            live.copy_(given)


def _read(file: Path) -> Mapping[str, Tensor]:
    if file.suffix != ".safetensors":
        found = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
            raise ValueError("it is no state dict")
        return found
    with safe_open(file, framework="pt") as tensors:
        aliases = json.loads((tensors.metadata() or {}).get(_ALIASES, "{}"))
        held = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a dict
    return held | {second: held[first] for second, first in aliases.items()}
