"""Writing a folder so that a kill, a full disk or a crash leaves the old artefact or the new one, whole.

    1  .secateur-3f…/            both new files, written and synced where no reader looks
    2  model.9c41….safetensors   the new weights, moved beside the old ones under a name made of their hash
    3  plan.json                 moved over the old one: from this instant the folder holds the new artefact
    4  model.safetensors         the new weights, moved over the old ones

A reader takes ``model.<hash>.safetensors`` if the hash that ``plan.json`` names is there, else ``model.safetensors``.

Invariant: at every instant ``plan.json`` and the weights it names by hash are both complete, or were never there.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from secateur.core.text import visible
from secateur.errors import ArtifactError
from secateur.io.plan_file import OURS

try:
    import fcntl
except ImportError:  # not a POSIX system: one writer at a time is then up to the caller
    fcntl = None

PLAN, WEIGHTS = "plan.json", "model.safetensors"
_STAGING = re.compile(r"\.secateur-[0-9a-f]{16}")
_MOVING = re.compile(r"model\.[0-9a-f]{64}\.safetensors")


def weights_path(folder: Path, sha256: str) -> Path:
    """Where the weights with this hash are: still under their own name if a save was interrupted after its commit."""
    moving = folder / f"model.{sha256}.safetensors"
    return moving if moving.exists() else folder / WEIGHTS


def replace_artifact(
    folder: Path, write_weights: Callable[[Path], None], write_plan: Callable[[Path, str], None]
) -> None:
    """Write both files and make them the folder's artefact, at once.

    ``write_weights(path)`` writes the weights, ``write_plan(path, sha256)`` the plan. Raises ArtifactError if the
    folder holds anything else, or another process is saving into it.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            check_ours(folder)
            with _staging(folder) as staging:
                weights, plan = staging / WEIGHTS, staging / PLAN
                write_weights(weights)
                sha256 = hash_of(weights)
                write_plan(plan, sha256)
                weights.chmod(plan.stat().st_mode & 0o777)  # safetensors makes its files private
                _sync(weights)
                _sync(plan)
                _publish(folder, weights, plan, sha256)
            _sweep(folder)
    finally:
        if made:
            with suppress(OSError):  # not empty: the artefact is there
                folder.rmdir()


def try_folder(folder: Path) -> None:
    """Raise ArtifactError unless an artefact could be written there, now rather than when there is one."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_ours(folder)
        with _staging(folder):
            pass
    except OSError as problem:
        raise ArtifactError(
            f"{visible(folder)} cannot be written: {visible(problem.strerror)}. Choose another folder"
        ) from None
    finally:
        if made:
            with suppress(OSError):
                folder.rmdir()


def check_ours(folder: Path) -> None:
    """Raise ArtifactError unless the folder is empty or holds an artefact of ours."""
    if not folder.is_dir():
        raise ArtifactError(f"{visible(folder)} is a file; an artefact is a folder. Choose another path")
    plan = folder / PLAN
    if plan.is_file():
        with plan.open("rb") as file:
            if OURS.match(file.read(200)):
                return
    strangers = [e.name for e in folder.iterdir() if not _STAGING.fullmatch(e.name) and not _MOVING.fullmatch(e.name)]
    if strangers:
        raise ArtifactError(
            f"{visible(folder)} holds {visible(strangers[0])!r} and no artefact of Secateur; "
            "it is left alone. Choose an empty or a new folder"
        )


Glance = tuple[tuple[int, int, int] | None, ...]


def glance(folder: Path) -> Glance:
    """Which files a folder holds, as the system numbers them: while that stays the same, so does the artefact."""

    def numbers(path: Path) -> tuple[int, int, int] | None:
        try:
            seen = path.stat()
        except OSError:
            return None
        return seen.st_ino, seen.st_size, seen.st_mtime_ns

    with suppress(OSError):
        moving = sorted(entry for entry in folder.iterdir() if _MOVING.fullmatch(entry.name))
        return tuple(map(numbers, (folder / PLAN, folder / WEIGHTS, *moving)))
    return ()


def hash_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, text: str) -> None:
    """A small file beside an artefact, replaced at once."""
    temporary = path.with_name(f".secateur-{secrets.token_hex(8)}")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _publish(folder: Path, weights: Path, plan: Path, sha256: str) -> None:
    moving = folder / f"model.{sha256}.safetensors"
    os.replace(weights, moving)
    _sync(folder)
    os.replace(plan, folder / PLAN)  # the commit
    _sync(folder)
    os.replace(moving, folder / WEIGHTS)
    _sync(folder)


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    staging = folder / f".secateur-{secrets.token_hex(8)}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer a folder; the kernel lets go of the lock when its process dies."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ArtifactError(f"another process is saving into {visible(folder)}; try again when it is done") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what interrupted saves left behind; nothing names it any more."""
    for entry in folder.iterdir():
        if _STAGING.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif _STAGING.fullmatch(entry.name) or _MOVING.fullmatch(entry.name):
            with suppress(OSError):
                entry.unlink()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
