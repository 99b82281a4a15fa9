"""The folder of a run: what each stage gave, each whole or not there, so that a kill loses one stage at most.

    run/work/prune-3f9a…/        outcome.json and what belongs to it; the name is a digest of all that the stage depends on
    run/work/.part-…/            a stage under way: renamed when everything in it is on the disk, else swept away
    run/work/search-3f9a…/       the journal of a search, which goes on where it was killed
    run/work/events.jsonl        what happened when

Invariant: a folder without a dot is complete; nothing in it is changed again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from secateur.core.json import Json
from secateur.core.json.strict import read_json
from secateur.core.record import Event
from secateur.core.text import visible
from secateur.errors import ArtifactError, InputError

try:
    import fcntl
except ImportError:  # not a POSIX system: one run a folder is then up to the caller
    fcntl = None

OUTCOME, EVENTS, _LOCK, _PART = "outcome.json", "events.jsonl", ".lock", ".part-"

Outcome = Mapping[str, object]


class Work:
    """The outcomes in a folder. State, because it holds the folder's lock until it is closed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._lock = (root / _LOCK).open("w")
        except OSError as problem:
            raise InputError(
                f"{visible(root)} cannot be written: {visible(problem.strerror)}: give another --out"
            ) from None
        try:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ArtifactError(
                f"{visible(root)} is in use by another run: wait for it, or give another --out"
            ) from None
        for rest in root.glob(f"{_PART}*"):
            shutil.rmtree(rest, ignore_errors=True)

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def folder(self, name: str) -> Path:
        """Where the outcome of a stage is, or will be."""
        return self.root / name

    def outcome(self, name: str) -> Outcome | None:
        """What a stage gave, or None where it is not done."""
        return outcome_in(self.root / name)

    def make(self, name: str, do: Callable[[Path], Mapping[str, Json]]) -> Outcome:
        """Do a stage in a folder of its own and move it into place when all of it is on the disk."""
        part = Path(tempfile.mkdtemp(prefix=_PART, dir=self.root))
        try:
            found = do(part)
            (part / OUTCOME).write_text(json.dumps(found, allow_nan=False), encoding="utf-8")
            sync(part)
            part.rename(self.root / name)
            _sync_one(self.root)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return outcome_in(self.root / name) or {}

    def tell(self, stage: str, what: str, *, seconds: float | None = None, detail: str = "") -> None:
        """Keep what happened; it is on the disk when this returns."""
        event = Event(at=now(), stage=stage, what=what, seconds=seconds, detail=detail)
        with (self.root / EVENTS).open("a", encoding="utf-8") as file:
            if file.tell() and not (self.root / EVENTS).read_bytes().endswith(b"\n"):
                file.write("\n")  # the last line was torn by a kill
            file.write(event.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def events(self) -> tuple[Event, ...]:
        """All that happened, in order; a line that a kill tore is left out."""
        return events_in(self.root)


def outcome_in(folder: Path) -> Outcome | None:
    """The outcome in a folder, or None where there is none. Raises ArtifactError for one that is damaged."""
    try:
        text = (folder / OUTCOME).read_bytes()
    except FileNotFoundError:
        return None
    found = read_json(text, f"{folder.name}/{OUTCOME}", ArtifactError)
    if not isinstance(found, dict):
        raise ArtifactError(f"{visible(folder)} is damaged: remove it, and the stage is done again")
    return found


def events_in(root: Path) -> tuple[Event, ...]:
    """The events of a work folder."""
    try:
        lines = (root / EVENTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    found = []
    for line in lines:
        try:
            found.append(Event.model_validate_json(line))
        except ValueError:
            continue
    return tuple(found)


def now() -> str:
    """This instant, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def sync(folder: Path) -> None:
    """Have all that is in a folder on the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(source: Path, target: Path) -> None:
    """Copy a file or folder to where people look for it, at once; a copy that is there already is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=_PART, dir=target.parent))
    try:
        copy = part / target.name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
        if target.is_dir() and source.is_dir():
            target.rename(part / "before")
        os.replace(copy, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
