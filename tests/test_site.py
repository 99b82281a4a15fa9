"""The documents build as a site without a broken link, hold every public name, and load nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_public import public

ROOT = Path(__file__).parent.parent


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    environment = {"PATH": "", "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", made)
    assert done.returncode == 0, done.stderr
    return made


def test_the_reference_holds_every_public_name(site: Path) -> None:
    text = "".join(page.read_text("utf-8") for page in (site / "reference").glob("*.html"))
    anchors = set(re.findall(r'id="(secateur\.[\w.]+)"', text))
    inner = {name.partition(".")[0] for name, _ in public() if "." in name}
    assert [name for name, _ in public() if f"secateur.{name}" not in anchors and name not in inner] == []


def test_the_reference_explains_what_it_lists(site: Path) -> None:
    text = (site / "reference" / "verbs.html").read_text("utf-8")
    assert "Narrow a model in place until it meets the constraints" in text


def test_every_page_can_be_reached(site: Path) -> None:
    """A decision that is written and not entered in mkdocs.yml would fail the build; so would a page of the guide."""
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    pages = {page.with_name("index.html") if page.name == "README.html" else page for page in pages}
    start = (site / "index.html").read_text("utf-8")
    assert [str(page) for page in sorted(pages) if f'href="{page.as_posix()}"' not in start] == []


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="((?:https?:)?//[^"]+)"')
    assert [found for page in site.rglob("*.html") for found in loaded.findall(page.read_text("utf-8"))] == []


@pytest.mark.parametrize("link", ["[there](nowhere.md)", "[there](glossary.md#no-such-heading)"])
def test_a_broken_link_is_an_error(link: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "glossary.md", tmp_path / "docs")
    (tmp_path / "docs" / "index.md").write_text(f"# A page\n\n{link}\n", "utf-8")
    rules = (ROOT / "mkdocs.yml").read_text("utf-8")
    validation = rules[rules.index("validation:") : rules.index("nav:\n")]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: A site\nstrict: true\n{validation}", "utf-8")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert link.partition("(")[2].rstrip(")").partition("#")[0] in done.stderr


def test_examples_in_docstrings_are_shown_as_code(site: Path) -> None:
    text = (site / "reference" / "rules.html").read_text("utf-8")
    assert "&gt;&gt;&gt; " in text
    assert not re.search(r"<blockquote>\s*<blockquote>\s*<blockquote>", text)
