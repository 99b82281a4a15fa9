"""Save a narrowed model to a folder, and restore it onto its original architecture.

    save(small, "small/")                       model.safetensors, plan.json, and config.json where the host has one
    model = restore(resnet50(), "small/")       no trace, no pickle: the plan says which shapes and attributes change

Everything is checked before anything is changed: the architecture by its fingerprint, every index, every attribute's
old value, every tensor's name, dtype and shape, the weights by their hash.

Invariant: `restore` returns bit for bit what `save` was given, or raises and leaves the fresh model as it was.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.core.compose import as_one, name_after, name_before
from secateur.core.given import check_given
from secateur.core.json.strict import MAX_BYTES
from secateur.core.plan import Plan
from secateur.core.text import visible
from secateur.errors import ArtifactError, InputError, PlanError
from secateur.io.atomic import PLAN, WEIGHTS, glance, hash_of, replace_artifact, weights_path
from secateur.io.fitting import check_fits, check_saveable
from secateur.io.host_config import described, tell_other_settings, write_host_config
from secateur.io.plan_file import Manifest, Stored, manifest_from_json, manifest_to_json
from secateur.io.state import TRANSIENT, collect, narrowed_names, stored_names
from secateur.torch.apply import plans_of
from secateur.torch.narrowing.installing import install
from secateur.torch.narrowing.slices import renewed
from secateur.torch.running.constants import narrowable_tensors
from secateur.torch.running.restoring import named_tensors
from secateur.version import __version__

_MOST_READS = 100  # while somebody else saves into the folder

# How safetensors spells the numbers that a tensor may be stored in; a model that was cast is as good.
_FLOATS = ("F", "BF")
_KINDS: Mapping[torch.dtype, tuple[str, ...]] = defaultdict(
    lambda: _FLOATS,
    {torch.bool: ("BOOL",)}
    | dict.fromkeys((torch.complex32, torch.complex64, torch.complex128), ("C",))
    | dict.fromkeys((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64), ("I", "U")),
)

_Model = TypeVar("_Model", bound=nn.Module)


def save(model: nn.Module, path: str | os.PathLike[str], plan: Plan | tuple[Plan, ...] | None = None) -> None:
    """Write a narrowed model to a folder; a kill at any instant leaves the old artefact or the new one, whole.

    ``plan`` is what the model was narrowed by, in order; a model that `apply` or `prune` returned knows it. Raises
    InputError without a plan, ArtifactError where the plan does not describe the model, or the folder is not ours.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"save: path is a folder to write to, not a {type(path).__name__}")
    plans = _plans(model, plan)
    folder = Path(path)
    check_saveable(model, plans)
    state = collect(model, plans)

    def write_weights(file: Path) -> None:
        save_file(dict(state.tensors), file, metadata={"format": "pt"})

    def write_plan(file: Path, sha256: str) -> None:
        tensors = _header(file.with_name(WEIGHTS))
        manifest = Manifest(
            plans=plans, sha256=sha256, tensors=tensors, aliases=dict(state.aliases), versions=_versions()
        )
        text = manifest_to_json(manifest)
        manifest_from_json(text)  # what could not be read back is not written
        file.write_text(text, encoding="utf-8", newline="\n")

    if Path(folder).is_file():
        raise ArtifactError(f"{visible(folder)} is a file, and an artefact is a folder: save under another name")
    try:
        replace_artifact(folder, write_weights, write_plan)
        write_host_config(model, plans, folder)
    except (OSError, SafetensorError) as problem:
        raise ArtifactError(
            f"could not save to {visible(folder)}: {visible(problem)}. What was there before is whole; save again"
        ) from problem


def restore(model: _Model, path: str | os.PathLike[str]) -> _Model:
    """Narrow a freshly built model in place to what was saved, and return it; its tensors keep their devices.

    Another process may save into the folder meanwhile: what is restored is then what was there before, or afterwards.
    Raises ArtifactError or PlanError, before anything is changed, if the folder is damaged or of another architecture.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a freshly built torch.nn.Module, got {type(model).__name__}")
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"restore: path is the folder that save wrote, not a {type(path).__name__}")
    manifest, tensors = _read(model, Path(path))
    tell_other_settings(model, Path(path))
    _put_in(model, manifest.plans, tensors)
    return model


def _read(model: nn.Module, folder: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """A plan and the weights that it was written for; again from the beginning where they were replaced meanwhile."""
    for _ in range(_MOST_READS):
        before = glance(folder)
        try:
            found = _read_once(model, folder)
        except (ArtifactError, PlanError):
            if glance(folder) == before:
                raise
        else:
            if glance(folder) == before:
                return found
    raise ArtifactError(f"{visible(folder)} was written to all the time while it was read: wait, and restore again")


def _read_once(model: nn.Module, folder: Path) -> tuple[Manifest, dict[str, Tensor]]:
    manifest = _read_manifest(folder)
    transient = {name.removeprefix(TRANSIENT) for name in manifest.names if name.startswith(TRANSIENT)}
    shapes = check_fits(model, manifest.plans, transient)
    try:
        weights = _checked_weights(folder, manifest)
        return manifest, _load(model, manifest, shapes, weights)
    except (OSError, SafetensorError) as problem:
        raise ArtifactError(f"{visible(folder)}: the weights cannot be read: {visible(problem)}") from problem


def _plans(model: nn.Module, plan: Plan | tuple[Plan, ...] | None) -> tuple[Plan, ...]:
    given = plan if isinstance(plan, tuple | list) or plan is None else (plan,)
    for each in given or ():
        check_given("save", "plan", each, Plan)
    plans = tuple(given) if given is not None else plans_of(model)
    if not plans:
        raise InputError(
            "this model has no plan: it was not narrowed by Secateur, or was copied without its attributes. "
            "Pass the plan: save(model, path, plan)"
        )
    return plans


def _read_manifest(folder: Path) -> Manifest:
    file = folder / PLAN
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise ArtifactError(f"{visible(file)} is no file but a folder, a pipe, a device or the like")
        size = found.st_size
        if size > MAX_BYTES:
            raise ArtifactError(f"{visible(file)} has {size:,} bytes; more than {MAX_BYTES:,} is refused")
        return manifest_from_json(file.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{visible(folder)} is no artefact: there is no {PLAN} in it") from None
    except OSError as problem:
        raise ArtifactError(f"{visible(file)} cannot be read: {visible(problem)}") from problem


def _checked_weights(folder: Path, manifest: Manifest) -> Path:
    file = weights_path(folder, manifest.sha256)
    if not file.is_file():
        raise ArtifactError(f"{visible(folder)} is not complete: {visible(file.name)} is missing")
    if hash_of(file) != manifest.sha256:
        raise ArtifactError(
            f"{visible(file)} is not the file that {PLAN} was written for (it is truncated or was replaced): "
            "copy the folder again, or save it again"
        )
    found = _header(file)
    if found != manifest.tensors:
        odd = sorted({name for name, _ in found.items() ^ manifest.tensors.items()})
        raise ArtifactError(f"{visible(file)}: {visible(odd[0])} is not what {PLAN} lists ({len(odd)} tensors differ)")
    return file


def _header(file: Path) -> dict[str, Stored]:
    """Name, dtype and shape of every tensor in a safetensors file, without reading their data."""
    with safe_open(file, framework="pt") as weights:
        slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 - not a dict
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def _load(model: nn.Module, manifest: Manifest, shapes: dict[str, tuple[int, ...]], weights: Path) -> dict[str, Tensor]:
    """A tensor for every name in the model that the artefact holds; names that share one share the object."""
    wanted = stored_names(model, manifest.plans, fresh=True)
    _check_names({stored for stored, _ in wanted.values()}, manifest)
    _check_tensors(wanted, shapes, manifest)
    there = {n: t for n, t in named_tensors(model).items() if name_after(n, manifest.plans) is not None}
    if rest := [name for name, tensor in there.items() if tensor.is_meta and name not in wanted]:
        raise ArtifactError(
            f"{visible(rest[0])} is not stored and has no values here: build the model off the meta device"
        )
    loaded: dict[str, Tensor] = {}
    with safe_open(weights, framework="pt") as file:
        for stored, live in wanted.values():
            name = manifest.aliases.get(stored, stored)
            if name not in loaded:
                device = torch.device("cpu") if live.is_meta else live.device
                # a copy of its own: the file may be replaced while the model lives
                loaded[name] = file.get_tensor(name).to(device, copy=True)
    return {name: loaded[manifest.aliases.get(stored, stored)] for name, (stored, _) in wanted.items()}


def _check_names(wanted: set[str], manifest: Manifest) -> None:
    if missing := sorted(wanted - manifest.names):
        raise ArtifactError(f"the artefact lacks {visible(missing[0])} ({len(missing)} tensors are missing)")
    # what is no part of a state dict may be made at the first run, and is then made anew
    if strangers := sorted(name for name in manifest.names - wanted if not name.startswith(TRANSIENT)):
        raise ArtifactError(f"the artefact holds {visible(strangers[0])}, which this model has not")


def _check_tensors(
    wanted: dict[str, tuple[str, Tensor]], shapes: dict[str, tuple[int, ...]], manifest: Manifest
) -> None:
    for name, (stored, live) in wanted.items():
        code, found = manifest.tensors[manifest.aliases.get(stored, stored)]
        due = shapes[stored.removeprefix(TRANSIENT)]
        waits = 0 in found and not isinstance(live, nn.Parameter)  # for a first run, to be filled
        if found != due and not waits:
            raise ArtifactError(f"{visible(name)} is stored as {found}; the plan makes it {due}")
        if not code.startswith(_KINDS[live.dtype]):
            raise ArtifactError(
                f"{visible(name)} is stored as {visible(code)}, and is {live.dtype} in this model: other kinds of numbers"
            )


def _put_in(model: nn.Module, plans: tuple[Plan, ...], tensors: dict[str, Tensor]) -> None:
    """The only step that changes the model; should it fail after all, it is undone."""
    live = narrowable_tensors(model)
    made: dict[tuple[int, bool], Tensor] = {}
    ready: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        key = (id(tensor), isinstance(live[name], nn.Parameter))
        ready[name] = made[key] if key in made else made.setdefault(key, renewed(live[name], tensor))
    edits, drops = as_one(plans)
    there = {name_before(name, plans) for name in narrowed_names(plans)}
    notes, fields = described(model, plans)
    notes["_secateur_plans"] = plans
    install(model, ready, edits, there=there, notes=notes, fields=fields, drops=drops)


def _versions() -> dict[str, str]:
    return {"secateur": __version__, "torch": str(torch.__version__)}
