"""The files to copy keep the promises of their kits, as they stand."""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path

import pytest

from secateur.testing import Check

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@cache
def checks(path: Path) -> dict[str, Check]:
    return {f"{i} {check}": check for i, check in enumerate(runpy.run_path(str(path))["CHECKS"])}


@pytest.mark.parametrize(
    ("path", "name"), [pytest.param(path, name, id=f"{path.stem} {name}") for path in EXAMPLES for name in checks(path)]
)
def test_an_example_keeps_its_promises(path: Path, name: str) -> None:
    checks(path)[name]()
