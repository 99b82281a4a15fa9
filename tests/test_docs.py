"""Every Python block in README and docs runs, as it stands; every link and every file that they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.zoo.shim import declare_torchvision_operators

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(match.group(1), id=f"{page.name}-{number}")
    for page in PAGES
    for number, match in enumerate(re.finditer(r"```python\n(.*?)```", page.read_text("utf-8"), re.S))
]


@pytest.mark.parametrize("code", BLOCKS)
def test_a_code_block_in_the_documents_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare_torchvision_operators()
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "documentation", "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


INSIDE = [ROOT / "docs" / "architecture.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))]


@pytest.mark.parametrize("page", INSIDE, ids=lambda page: page.name)
def test_a_file_that_is_named_is_there(page: Path) -> None:
    named = re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)`", page.read_text("utf-8"))
    homes = (ROOT / "src" / "secateur", ROOT)
    assert [path for path in named if not any((home / path).exists() for home in homes)] == []


def test_the_map_knows_every_room() -> None:
    text = INSIDE[0].read_text("utf-8")
    rooms = {
        path.parent.relative_to(ROOT / "src" / "secateur") for path in (ROOT / "src" / "secateur").rglob("__init__.py")
    }
    unnamed = [
        str(room) for room in rooms if str(room) not in (".", "torch", "core", "search") and f"`{room}/" not in text
    ]
    assert [room for room in unnamed if not room.startswith("torch/pruners/")] == []


def test_the_glossary_is_short() -> None:
    assert len((ROOT / "docs" / "glossary.md").read_text("utf-8").splitlines()) <= 40
