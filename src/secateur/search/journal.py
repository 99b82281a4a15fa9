"""What a search has found out so far, on disk: one line an evaluation, so that a kill loses none.

    {"format": "secateur journal", "version": 1, "header": {"method": "fastnas", …}, "crc32": …}
    {"key": "conv1.out_channels=8", "values": {"score": 0.93}, "crc32": …}
    {"key": "conv1.out_ch                                                 <- torn by a kill: dropped, with a notice

Invariant: a line is on the disk before `record` returns, and nothing that is there is ever rewritten.
"""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import warnings
import weakref
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from secateur.core.text import visible
from secateur.errors import ArtifactError, InputError

try:
    import fcntl
except ImportError:  # not a POSIX system: one search a journal is then up to the caller
    fcntl = None

Fits = Callable[[str, Mapping[str, Any]], bool]

FILE_NAME = "journal.jsonl"
VERSION = 1
_FORMAT = "secateur journal"
_START = f'{{"format": "{_FORMAT}", '.encode()
_ABSENT = "nothing"


class Journal:
    """Finished evaluations by key, kept in memory and, where there is a path, in a file.

    It has state because it holds the file open, and locked against other processes, until `close` or the end of a
    ``with`` block. Values are read back as JSON has them, whether they come from this run or from an earlier one.
    """

    def __init__(self, file: io.FileIO | None = None, entries: Mapping[str, Any] | None = None) -> None:
        self._file = file
        self._entries: dict[str, Any] = dict(entries or {})

    @classmethod
    def open(
        cls,
        path: str | Path | None,
        header: Mapping[str, object],
        *,
        may_differ: Collection[str] = (),
        fits: Fits = lambda key, values: True,
    ) -> Journal:
        """Go on with the journal at ``path``, or begin one; ``path=None`` keeps everything in memory.

        A folder is as good as a file, see `journal_file`. ``header`` says what the evaluations depend on; all of it but the
        keys in ``may_differ`` must agree for them to be used again. ``fits`` says whether an entry is one that this search
        could have recorded; every line is asked, so that a wrong one is met now and not after hours.

        Raises ArtifactError where the file is damaged, no journal, of another header, or in use by another search, and
        where an entry does not fit.
        """
        wanted = _plain(header, "the header")
        if path is None:
            return cls()
        place = journal_file(path)
        file = _opened(place)
        try:
            entries = _read(file, place, wanted, frozenset(may_differ))
            _check_entries(entries, fits, place)
        except BaseException:
            file.close()
            raise
        journal = cls(file, entries)
        _IN_USE[_identity(place)] = journal
        return journal

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was recorded under a key, or None."""
        return self._entries.get(key)

    def record(self, key: str, values: Mapping[str, object]) -> None:
        """Keep one finished evaluation; it is on the disk when this returns.

        Raises InputError for a key that is there already and for values that JSON does not have (NaN and infinities among
        them), ArtifactError where the file cannot be written.
        """
        if key in self._entries:
            raise InputError(f"the journal has an entry for {key!r} already")
        plain = _plain(values, f"the values of {key!r}")
        if self._file is not None:
            _append(self._file, {"key": key, "values": plain})
        self._entries[key] = plain

    def close(self) -> None:
        """Let go of the file; what was recorded can still be read."""
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# POSIX locks do not hold within one process, and closing any descriptor of the file would drop them.
_IN_USE: weakref.WeakValueDictionary[tuple[int, int], Journal] = weakref.WeakValueDictionary()


def journal_file(path: str | Path) -> Path:
    """The file that a path means: in a folder (one that exists, or a path without a suffix) it is ``journal.jsonl``.

    Raises InputError for what is no path; an empty one would be the current folder.
    """
    if not isinstance(path, str | Path) or path == "":
        raise InputError(f"checkpoint is a file or a folder to keep results in, not {path!r:.60}")
    path = Path(path)
    return path / FILE_NAME if path.is_dir() or not (path.suffix or path.is_file()) else path


def name_of(given: object) -> str:
    """How a journal calls a function, or an object that is called like one; bound arguments are not told."""
    name = getattr(given, "__qualname__", None)
    return name if isinstance(name, str) else type(given).__qualname__


def _identity(place: Path) -> tuple[int, int]:
    status = place.stat()
    return status.st_dev, status.st_ino


def _opened(place: Path) -> io.FileIO:
    """The file, created if need be, and ours alone."""
    held = f"{visible(place)} is in use by another search: wait for it, or give this one another path"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        other = _IN_USE.get(_identity(place)) if place.exists() else None
        if other is not None and other._file is not None and not other._file.closed:
            raise ArtifactError(held)
        made = not place.exists()
        file = io.FileIO(os.open(place, os.O_RDWR | os.O_CREAT, 0o666), "r+")
    except OSError as problem:
        raise ArtifactError(f"the journal {visible(place)} cannot be opened: {problem.strerror}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ArtifactError(f"{visible(place)} is no file but a pipe, a device or the like: choose another path")
    if made:
        _sync_folder(place.parent)
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        raise ArtifactError(held) from None
    except OSError:  # a file system without locks
        pass
    return file


def _read(file: io.FileIO, place: Path, wanted: Mapping[str, object], may_differ: Collection[str]) -> dict[str, Any]:
    """The entries of a journal with this header; an empty file becomes one. The file ends in a whole line afterwards."""
    *lines, last = file.readall().split(b"\n")
    if lines:
        _check_header(_header_of(lines[0], place), wanted, may_differ, place)
    if last:
        lines += _mended(file, last, place, is_header=not lines)
    if not lines:
        _append(file, {"format": _FORMAT, "version": VERSION, "header": wanted})
        return {}
    if len(lines) == 1:  # it may have missed nothing but its end of line
        _check_header(_header_of(lines[0], place), wanted, may_differ, place)
    entries: dict[str, Any] = {}
    for number, line in enumerate(lines[1:], start=2):
        entry = _whole(line)
        if entry is None or not isinstance(entry.get("key"), str) or not isinstance(entry.get("values"), dict):
            raise ArtifactError(f"{visible(place)}, line {number}: damaged. {_WAY_OUT}")
        if entry["key"] in entries:
            raise ArtifactError(f"{visible(place)}, line {number}: {visible(entry['key'])!r} occurs twice. {_WAY_OUT}")
        entries[entry["key"]] = entry["values"]
    return entries


def _check_entries(entries: Mapping[str, Mapping[str, Any]], fits: Fits, place: Path) -> None:
    for number, (key, values) in enumerate(entries.items(), start=2):
        if not fits(key, values):
            raise ArtifactError(
                f"{visible(place)}, line {number}: {visible(key)!r} has values that this search does not record "
                f"({visible(json.dumps(values)[:80])}). {_WAY_OUT}"
            )


_WAY_OUT = "Restore the file from a copy, or delete it to search anew"
_NO_JOURNAL = "{} is no journal of Secateur; it is left alone. Choose another path"


def _mended(file: io.FileIO, last: bytes, place: Path, *, is_header: bool) -> list[bytes]:
    """Finish a last line that only misses its end of line; cut off one that is torn."""
    if is_header and not (last.startswith(_START) or _START.startswith(last)):
        raise ArtifactError(_NO_JOURNAL.format(visible(place)))
    if _whole(last) is not None:
        _written(file, b"\n")
        return [last]
    warnings.warn(f"{visible(place)}: the last line was torn by an interruption and is dropped", stacklevel=4)
    file.truncate(file.seek(-len(last), os.SEEK_END))
    os.fsync(file.fileno())
    return []


def _header_of(line: bytes, place: Path) -> Mapping[str, Any]:
    first = _whole(line)
    if first is None or first.get("format") != _FORMAT or not isinstance(first.get("header"), dict):
        damaged = f"{visible(place)}, line 1: damaged. {_WAY_OUT}"
        raise ArtifactError(damaged if line.startswith(_START) else _NO_JOURNAL.format(visible(place)))
    if first.get("version") != VERSION:
        raise ArtifactError(
            f"{visible(place)} has format version {visible(first.get('version'))}; this Secateur reads {VERSION}. "
            "Go on with the Secateur that wrote it, or choose another path"
        )
    return first["header"]


def _check_header(
    found: Mapping[str, object], wanted: Mapping[str, object], may_differ: Collection[str], place: Path
) -> None:
    keys = [key for key in dict.fromkeys([*found, *wanted]) if key not in may_differ]
    differ = [key for key in keys if key not in found or key not in wanted or found[key] != wanted[key]]
    if differ:
        both = "; ".join(f"{key}: {_shown(found, key)} there, {_shown(wanted, key)} now" for key in differ)
        raise ArtifactError(f"{visible(place)} is the journal of another search ({both}). Choose another path")


def _shown(header: Mapping[str, object], key: str) -> str:
    return visible(json.dumps(header[key])[:200]) if key in header else _ABSENT


def _whole(line: bytes) -> dict[str, Any] | None:
    """The content of a line, or None unless it is all there."""
    try:
        entry = json.loads(line, parse_constant=_refused)
        said = entry.pop("crc32")
        return entry if said == _checksum(entry) else None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def is_number(value: object) -> bool:
    """Whether JSON gave a finite number: no boolean, and none that a float cannot hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _checksum(entry: Mapping[str, object]) -> int:
    return zlib.crc32(json.dumps(entry).encode())


def _append(file: io.FileIO, entry: Mapping[str, object]) -> None:
    _written(file, json.dumps({**entry, "crc32": _checksum(entry)}).encode() + b"\n")


def _written(file: io.FileIO, line: bytes) -> None:
    """Add to the end, all of it or nothing, and wait until it is on the disk."""
    if file.closed:
        raise ArtifactError("the journal is closed: nothing more can be recorded in it")
    end = file.seek(0, os.SEEK_END)
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError as problem:
        file.truncate(end)
        raise ArtifactError(f"the journal cannot be written: {problem.strerror}. What it holds is kept") from None


def _plain(values: Mapping[str, object], what: str) -> dict[str, Any]:
    """What JSON reads back of these values."""
    if not isinstance(values, Mapping):
        raise InputError(f"{what}: a mapping is needed, not {type(values).__name__}")
    try:
        return json.loads(json.dumps(dict(values), allow_nan=False, default=_of_numpy))
    except (TypeError, ValueError, RecursionError) as problem:
        raise InputError(f"{what} cannot be kept in a journal: {problem}") from None


def _of_numpy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
