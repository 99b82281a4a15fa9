"""Files that the command line writes: tried before long work, so that none is lost for a name.

    tried(path)                       path, where a file could be written
    written(path, "{…}")              the file

Invariant: what cannot be written is told in one sentence.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.core.text import visible
from secateur.errors import InputError


def tried(path: Path) -> Path:
    """The path. Raises InputError where no file can be written under it."""
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise InputError(f"{visible(path)} is a folder: name a file")
    return path


def written(path: Path, text: str) -> None:
    """Write a file. Raises InputError where that cannot be."""
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise InputError(f"{visible(path)} cannot be written: {visible(problem.strerror)}") from None
