"""Names of what a run leaves, as they become files.

    "progressive macs 40%"  ->  measurements/04-progressive-macs-40-.json
    {do: export, name: small}  ->  small/, small.safetensors, small.onnx

Invariant: no two things of a run have one name in its folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

OWN = frozenset({"work", "measurements", "report"})  # what a run puts into its folder itself
_FORMS = ("", ".onnx", ".safetensors")

Name = Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]{1,80}$")]


def slug(name: str) -> str:
    """A name as a file can have it."""
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.")
    return kept[:80] or "unnamed"


def check_exports(names: Iterable[tuple[int, str]]) -> None:
    """Raise ValueError for an export, given by its stage's number, that would be written over something else of the run."""
    taken: dict[str, int] = {}
    for number, name in names:
        files = [f"{slug(name)}{form}".lower() for form in _FORMS]  # there are disks that know no capitals
        if not any(map(str.isalnum, name)):
            raise ValueError(f"stage {number} (export): name: {name!r} is no name: write one of letters and digits")
        if files[0].startswith("report.") or not OWN.isdisjoint(files):
            raise ValueError(
                f"stage {number} (export): name: {name!r} is what the run itself writes: write another than "
                f"{', '.join(sorted(OWN))}"
            )
        other = next((taken[file] for file in files if file in taken), None)
        if other is not None:
            raise ValueError(
                f"stages {other} and {number} (export): both write {slug(name)}: write another name for one of them"
            )
        taken.update(dict.fromkeys(files, number))
