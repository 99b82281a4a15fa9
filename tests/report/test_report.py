"""The report: it says what was measured, opens without a network, and takes names for text."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from secateur.core.measurement import Measurement
from secateur.core.record import WidthChange
from secateur.errors import InputError
from secateur.report import as_html, as_markdown, write_report
from secateur.report.facts import Facts, apart, change
from secateur.report.figures import figures_of
from secateur.report.writing import escaped, plotly_source
from tests.report.made import AFTER, BEFORE, PRUNING, measurement

pytest.importorskip("plotly")

SECTIONS = (
    "Before and after", "Quality, cost, time, size", "Times", "What was changed", "What was kept whole, and why", "Resources",
    "Confusions", "History", "How to reproduce",
)  # fmt: skip
HOSTILE = "</script><img src=x onerror=alert(1)>|`[x](javascript:1)\x1b[31m\u202e<b>$1$"


def test_the_verdict_says_it_in_a_line() -> None:
    verdict = Facts((BEFORE, AFTER)).verdict
    assert verdict == (
        "−50% MACs; −50% params; accuracy 90.0% → 89.0% (inside what 500 samples can tell); 2.00× as fast at a batch of 1 on "
        "cpu (x); narrowed = masked was verified each time."
    )


def test_the_verdict_admits_what_got_worse_and_what_is_not_known() -> None:
    worse = measurement("worse", value=0.5, times=0.004)
    verdict = Facts((BEFORE, worse)).verdict
    assert "worse than before" in verdict
    assert "2.00× slower" in verdict
    assert "no record of how it was made" in verdict
    unverified = AFTER.model_copy(
        update={
            "origin": AFTER.origin.model_copy(update={"prunings": (PRUNING.model_copy(update={"verified": False}),)})
        }  # type: ignore[union-attr]
    )
    assert "1 prunings were not verified" in Facts((BEFORE, unverified)).verdict
    elsewhere = AFTER.surroundings.model_copy(update={"device": "cuda"})
    assert "not compared" in Facts((BEFORE, AFTER.model_copy(update={"surroundings": elsewhere}))).verdict


def test_times_that_runs_cannot_tell_apart_are_called_so() -> None:
    near = measurement("near", times=0.0021)
    assert "no clear difference in time at a batch of 1 on cpu (x)" in Facts((BEFORE, near)).verdict


def test_a_blank_line_stands_before_each_heading() -> None:
    lines = as_markdown([BEFORE, AFTER], title="t").splitlines()
    assert [line for above, line in itertools.pairwise(lines) if line.startswith("#") and above] == []


def test_one_measurement_is_no_comparison() -> None:
    assert "Give a second measurement" in Facts((BEFORE,)).verdict
    assert "whole" in as_markdown([BEFORE], title="t")
    with pytest.raises(InputError, match="at least one"):
        as_markdown([], title="t")


@pytest.mark.parametrize(
    ("was", "becomes", "told"), [(100, 60, "−40%"), (3, 3, "±0%"), (100, 103.1, "+3.1%"), (0, 5, "new")]
)
def test_changes_are_told_with_their_sign(was: float, becomes: float, told: str) -> None:
    assert change(was, becomes) == told


def test_qualities_that_samples_cannot_tell_apart_are_called_so() -> None:
    one, two, three = (measurement("x", value=v).quality["accuracy"] for v in (0.9, 0.91, 0.97))
    assert "inside" in apart(one, two)
    assert apart(one, three) == "better than before"
    assert apart(three, one) == "worse than before"


def test_every_section_and_figure_is_there_in_both_forms() -> None:
    html, markdown = as_html([BEFORE, AFTER], title="t"), as_markdown([BEFORE, AFTER], title="t")
    for section in SECTIONS:
        assert f">{section}</h2>" in html
        assert f"\n## {section}\n" in markdown
    figures = figures_of(Facts((BEFORE, AFTER)))
    wanted = {
        "pareto", "bubbles", "times", "layer_times", "widths_1", "layers_1", "scores_1", "sensitivity_1", "compensation_1",
        "training", "cpu_percent", "memory_bytes", "confusion_1", "confusion_2",
    }  # fmt: skip
    assert {figure.name for figure in figures} == wanted
    for figure in figures:
        assert html.count(f'id="plot-{figure.name}"') == 1
        assert escaped(figure.title) in markdown
    assert "1 interruption." in html
    assert "1 interruption." in markdown


def test_a_table_stands_behind_each_figure() -> None:
    for figure in figures_of(Facts((BEFORE, AFTER))):
        assert figure.rows
        assert {len(row) for row in figure.rows} == {len(figure.columns)}, figure.name


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def hostile() -> list[Measurement]:
    """Measurements in which everything that can be named is named by an enemy."""
    width = WidthChange(name=HOSTILE, kind=HOSTILE, was=4, becomes=2, scores=(1.0, 2.0, 3.0, 4.0), kept=(2, 3))
    pruning = PRUNING.model_copy(
        update={
            "mode": HOSTILE, "widths": (width,), "frozen": {HOSTILE: HOSTILE}, "notes": (HOSTILE,), "not_compared": (HOSTILE,),
            "verification": HOSTILE, "constraints": {HOSTILE: HOSTILE}, "evidence": {"curves": {HOSTILE: {"1": 0.5}}},
            "layers": tuple(la.model_copy(update={"name": HOSTILE}) for la in PRUNING.layers),
        }
    )  # fmt: skip
    assert AFTER.origin is not None
    origin = AFTER.origin.model_copy(update={"prunings": (pruning,), "scenario": HOSTILE})
    place = AFTER.surroundings.model_copy(update={"device": HOSTILE, "command": (HOSTILE,)})
    return [
        m.model_copy(update={
            "name": HOSTILE, "classes": (HOSTILE, HOSTILE), "origin": origin, "surroundings": place, "layer_ms": {HOSTILE: 1.0},
            "quality": {HOSTILE: m.quality["accuracy"]},
        })
        for m in (BEFORE, AFTER)
    ]  # fmt: skip


def test_a_hostile_name_stays_text_in_html() -> None:
    clean, attacked = _Elements(), _Elements()
    clean.feed(as_html([BEFORE, AFTER], title="t"))
    html = as_html(hostile(), title=HOSTILE)
    attacked.feed(html)
    assert attacked.tags.count("script") == clean.tags.count("script")
    assert "img" not in attacked.tags
    assert "b" not in attacked.tags
    assert [name for name, _ in attacked.attributes if name.startswith("on")] == []
    assert not set(html.replace(plotly_source(), "")) & {"\x1b", "\u202e"}


def test_a_hostile_name_is_text_for_plotly_too() -> None:
    html = as_html(hostile(), title="t")
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.S)
    assert found is not None
    text = json.dumps(json.loads(found[1]), ensure_ascii=False)
    assert "<" not in text.replace("%", "")
    assert "&lt;img" in text


def test_a_hostile_name_stays_text_in_markdown() -> None:
    markdown = as_markdown(hostile(), title=HOSTILE)
    outside = "\n".join(line for line in markdown.splitlines() if not line.startswith("    "))
    assert "<img" not in outside.replace("\\<", "")
    assert re.findall(r"(?<!\\)\]\(", outside) == []
    assert not set(markdown) & {"\x1b", "\u202e"}
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) >= 3 for row in rows)


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    html = as_html([BEFORE, AFTER], title="t")
    assert "default-src 'none'" in html
    page = _Elements()
    page.feed(html)
    assert [(n, v) for n, v in page.attributes if n in ("src", "href") and not (v or "").startswith("#")] == []
    assert "link" not in page.tags


def test_files_are_written_beside_each_other(tmp_path: Path) -> None:
    files = write_report([BEFORE, AFTER], tmp_path / "deep" / "r", title="t")
    assert sorted(f.name for f in files) == ["r.html", "r.md"]
    assert [f.name for f in write_report([BEFORE], tmp_path / "m", title="t", html=False)] == ["m.md"]


def test_without_plotly_there_is_still_markdown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(InputError, match=r"pip install 'secateur\[report\]'"):
        write_report([BEFORE], tmp_path / "r", title="t")
    assert list(tmp_path.iterdir()) == []
    write_report([BEFORE], tmp_path / "r", title="t", html=False)


BROWSER = Path(__file__).parent / "browser.cjs"


def _in_a_browser(page: Path, look: str) -> dict[str, Any]:
    """What headless Chromium makes of a page; skips where CHROME names none, or node has no puppeteer-core (NODE_PATH)."""
    node = shutil.which("node")
    if node is None or not os.environ.get("CHROME"):
        pytest.skip("CHROME names no browser, or there is no node")
    if subprocess.run([node, "-e", "require('puppeteer-core')"], capture_output=True, check=False).returncode:
        pytest.skip("node has no puppeteer-core")
    shown = subprocess.run(
        [node, str(BROWSER), str(page), look], capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(shown.stdout)


@pytest.mark.parametrize("name", ["plain", "hostile"])
@pytest.mark.parametrize("look", ["light", "dark", "print"])
def test_a_browser_draws_every_figure_and_complains_of_nothing(name: str, look: str, tmp_path: Path) -> None:
    measurements = hostile() if name == "hostile" else [BEFORE, AFTER]
    write_report(measurements, tmp_path / "r", title=HOSTILE if name == "hostile" else "t")
    found = _in_a_browser(tmp_path / "r.html", look)
    assert found["drawn"] == len(figures_of(Facts(tuple(measurements))))
    assert (found["said"], found["asked"]) == ([], [])
    assert look == "print" or found["first"] == "Skip to the content"
    assert (found["background"] == "rgb(22, 24, 27)") == (look == "dark")
    assert found["wide"] <= 0, "the page itself never scrolls sideways"
