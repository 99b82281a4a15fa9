"""Scenarios and single steps from the command line: chains, exit codes, data on standard output and remarks beside it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.report.made import AFTER, BEFORE
from tests.scenario.small import SMALL, written
from typer.testing import CliRunner, Result

import secateur as sc
from secateur.cli.inputs import example_for
from secateur.cli.main import app
from secateur.cli.options import STEP_WORDS, read_pairs
from secateur.core.show import lines_within, text_table
from secateur.errors import InputError
from secateur.progress import lines_every, progress
from secateur.report import write_report
from secateur.scenario.models import build, default_inputs

torch.set_num_threads(1)
pytest.importorskip("sklearn")
pytest.importorskip("plotly")


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100", "TERM": "dumb"})
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_optimize_and_test_are_chained_as_in_kenning(tmp_path: Path) -> None:
    file = written(tmp_path)
    refused = call("test", "--json-cfg", file, code=2)
    assert "call optimize first" in refused.stderr
    call("optimize", "test", "--json-cfg", file, "--measurements", tmp_path / "a.json")
    found = sc.Measurement.from_json((tmp_path / "a.json").read_bytes())
    assert found.name == "small"
    call("test", "--json-cfg", file, "--measurements", tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    report = call("report", "--measurements", tmp_path / "a.json", tmp_path / "b.json",
                  "--report-path", tmp_path / "r.md", "--to-html")  # fmt: skip
    assert "r.html" in report.stderr
    assert sorted(p.suffix for p in tmp_path.glob("r.*")) == [".html", ".md"]


def test_run_shows_what_was_measured_and_says_where_it_is(tmp_path: Path) -> None:
    file = written(tmp_path, {**SMALL, "stages": [*SMALL["stages"][:2], {"do": "report"}]})
    dry = call("run", file, "--dry-run")
    assert "to do" in dry.stdout
    assert "Number of configurable widths" in dry.stdout
    assert not (tmp_path / "small-run").exists()
    result = call("run", file)
    assert "Give a second measurement" in result.stdout
    assert "1. train" in result.stderr
    assert [row["done"] for row in json.loads(call("run", file, "--dry-run", "--json").stdout)] == [True] * 3
    (found,) = json.loads(call("run", file, "--json").stdout)
    assert found["name"] == "original"
    shown = call("compare", tmp_path / "small-run")
    assert "original" in shown.stdout


def test_plan_and_apply_and_prune_and_finetune_go_together(tmp_path: Path) -> None:
    model = ("zoo:digits", "--options", '{"widths": [4, 8, 8]}', "--input", "2x1x8x8")
    made = call("plan", *model, "-c", "macs=60%", "--set", "multiple_of=2", "-o", tmp_path / "plan.json", "--json")
    assert sc.Plan.from_json(made.stdout) == sc.Plan.from_json((tmp_path / "plan.json").read_bytes())
    found = json.loads(call("apply", tmp_path / "plan.json", *model, "-o", tmp_path / "one", "--json").stdout)
    small = sc.restore(build("zoo:digits", "cpu", {"widths": [4, 8, 8]}), tmp_path / "one")
    assert sum(p.numel() for p in small.parameters()) == found["params"]
    pruned = json.loads(
        call(
            "prune",
            *model[:3],
            "--data",
            "digits",
            "-c",
            "macs=70%",
            "--set",
            "steps=1",
            "-o",
            tmp_path / "two",
            "--json",
        ).stdout
    )
    assert pruned["verified"]
    assert pruned["after"]["macs"] <= 0.7 * pruned["before"]["macs"]
    tuned = call(
        "finetune", tmp_path / "two", *model[:3], "--data", "digits", "--epochs", "1", "-o", tmp_path / "three"
    )
    assert "1 epoch, loss" in tuned.stdout
    sc.restore(build("zoo:digits", "cpu", {"widths": [4, 8, 8]}), tmp_path / "three")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["prune", "zoo:digits", "--input", "1x1x8x8", "-c", "params=1", "-o", "x"], 3, "cannot reach"),
        (["prune", "zoo:digits", "--data", "digitz", "-c", "params=50%", "-o", "x"], 2, "Did you mean 'digits'?"),
        (["prune", "zoo:digits", "--input", "1x1x8x8", "-c", "params", "-o", "x"], 2, "write name=value"),
        (
            ["prune", "zoo:digits", "--input", "1x1x8x8", "--mode", "magnitud", "-o", "x"],
            2,
            "Did you mean 'magnitude'?",
        ),
        (["plan", "zoo:digits", "--input", "1x1x8x8", "--set", "steps=2"], 2, "not 'steps'"),
        (["plan", "zoo:digits", "--input", "1x1x8x8", "--options", "[1]"], 2, "JSON object"),
        (["plan", "zoo:digits", "--input", "1x1x8x8", "--weights", "no.safetensors"], 2, "cannot be read"),
        (["run", "none.yaml"], 2, "cannot be read"),
        (["run", "none.yaml", "--code", "none.py"], 2, "there is no file"),
        (["compare", "none.json"], 2, "cannot be read"),
        (["optimize", "draw", "--json-cfg", "x.json"], 2, "cannot chain"),
    ],
)
def test_exit_codes_say_whose_fault_it_is(
    arguments: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments, code=code)
    assert said in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_measurement_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    assert "format version" in call("compare", tmp_path / "x.json", code=2).stderr


def test_a_users_own_code_is_run_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch, secateur as sc\n"
        "@sc.scenario.MODELS.add('mine')\n"
        "def mine(name, options):\n"
        "    nn = torch.nn\n"
        "    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))\n",
        encoding="utf-8",
    )
    stages: list[dict[str, Any]] = [
        {"do": "prune", "mode": "magnitude", "constraints": {"params": "50%"}},
        {"do": "measure", "num_runs": 2},
    ]
    file = written(tmp_path, {**SMALL, "model": "mine", "stages": stages})
    (found,) = json.loads(call("run", file, "--code", tmp_path / "mine.py", "--json").stdout)
    assert found["costs"]["params"] <= 455


def test_the_schema_is_printed() -> None:
    schema = json.loads(call("schema").stdout)
    assert set(schema["properties"]) >= {"model", "data", "stages"}


COMMANDS = [
    "run",
    "optimize",
    "test",
    "report",
    "compare",
    "inspect",
    "plan",
    "apply",
    "prune",
    "finetune",
    "demo",
    "doctor",
]


def test_help_names_every_command() -> None:
    shown = call("--help").stdout
    assert [command for command in (*COMMANDS, "schema", "completion") if command not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_gives_data(command: str) -> None:
    assert "--json" in call(command, "--help").stdout


def test_pairs_are_read_as_json_where_they_are() -> None:
    assert read_pairs(["macs=60%", "params=3e6", "exclude=[\"a\"]", "x=NaN"], "c") == {
        "macs": "60%", "params": 3e6, "exclude": ["a"], "x": "NaN",
    }  # fmt: skip
    for wrong in (["macs"], ["=3"], ["a=1", "a=2"]):
        with pytest.raises(InputError):
            read_pairs(wrong, "c")


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_tables_fit_the_width_that_they_are_given(width: int) -> None:
    from secateur.cli.running import comparison

    with lines_within(width):
        shown = comparison([BEFORE, AFTER])
        table = text_table("t", ("a", "b"), [("x" * 90, "y" * 90)])
    lines = [*shown.splitlines()[:-1], *table.splitlines()]
    assert max(map(len, lines)) <= width


def test_off_a_terminal_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("quiet") as tell:
        tell(0.5, "word")
    assert capsys.readouterr().err == ""
    with lines_every(0), progress("spoken [red]") as tell:
        tell(0.5, "half\n")
        tell(1.0, "whole")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("spoken [red]: 50%")
    assert "left" in lines[0]
    with lines_every(3600), progress("rarely") as tell:
        tell(0.5, "half")
    assert capsys.readouterr().err == ""


def test_a_notebook_without_widgets_is_told_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from secateur import progress as module

    printed: list[str] = []
    monkeypatch.setattr(module, "Console", lambda stderr: Console(force_jupyter=True, file=io.StringIO()))
    monkeypatch.setattr(Console, "print", lambda self, line, **_: printed.append(str(line)))
    monkeypatch.setattr(module, "_IN_NOTEBOOKS", 0.0)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with progress("prune") as tell:
        tell(0.4, "verifying")
    assert len(printed) == 1
    assert "prune: 40%" in printed[0]


def test_a_notebook_with_widgets_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from secateur import progress as module

    shown: list[str] = []
    monkeypatch.setattr(module, "Console", lambda stderr: Console(force_jupyter=True, file=io.StringIO()))
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "Progress", lambda *columns, **options: _Bar(shown))
    with progress("prune") as tell:
        tell(0.4, "verifying")
    assert shown == ["prune", "0.4 verifying"]


class _Bar:
    def __init__(self, shown: list[str]) -> None:
        self.shown = shown

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_task(self, name: str, *, total: float, title: str, word: str) -> int:
        self.shown.append(title)
        return 0

    def update(self, task: int, *, completed: float, word: str) -> None:
        self.shown.append(f"{completed} {word}")


@pytest.mark.parametrize("command", ["prune", "apply", "finetune"])
def test_a_folder_that_cannot_be_written_is_told_before_the_work(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    out = tmp_path / "file" / "small"
    arguments = {
        "prune": ["zoo:digits", "-c", "macs=50%", "--input", "1x1x8x8"],
        "apply": [tmp_path / "no.json", "zoo:digits", "--input", "1x1x8x8"],
        "finetune": [tmp_path / "no", "zoo:digits", "--data", "digits"],
    }[command]
    result = call(command, *arguments, "--out", out, code=2)
    assert f"{out.name} cannot be written: " in result.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("stage", "said", "code"),
    [
        ({"constraints": {"macs": 40}}, "stage 2 (prune): cannot reach macs", 3),
        ({"constraints": {"macs": "1e-9%"}}, "stage 2 (prune): macs: '1e-9%' of", 2),
        ({"constraints": {"macs": "50%"}, "options": {"exclude": ["nope"]}}, "stage 2 (prune): exclude: 'nope'", 2),
        ({"constraints": {"macs": "50%"}, "options": {"multiple_of": 4, "depth": True}}, "", 0),
        ({"mode": "minitron", "constraints": {"export_config": {"x": 3}}}, "", 0),
        ({"constraints": {"latency_ms": "80%"}}, "", 0),
    ],
)
def test_a_dry_run_says_what_a_run_would_fail_of(stage: dict[str, Any], said: str, code: int, tmp_path: Path) -> None:
    stages = [{"do": "train"}, {"do": "prune", "mode": "magnitude", **stage}]
    result = call("run", written(tmp_path, {**SMALL, "stages": stages}), "--dry-run", code=code)
    assert said in " ".join(result.stderr.split())


def test_an_error_names_the_file_and_the_stage(tmp_path: Path) -> None:
    file = written(tmp_path, {**SMALL, "stages": [{"do": "train"}, {"do": "measure", "metrics": ["acuracy"]}]})
    for arguments in (["run", file], ["run", file, "--dry-run"], ["optimize", "test", "--json-cfg", file]):
        said = call(*arguments, code=2).stderr.replace("\n", "")
        assert "small.json: stage 2 (measure): no metric is called 'acuracy'" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import torch\n\n1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
        ("def x(:\n", "line 1: SyntaxError: invalid syntax"),
        ("x = 1\nraise SystemExit('enough')\n", "line 2: SystemExit: enough"),
        ("import secateur as sc\nsc.criteria.CRITERIA['l7']\n", "line 2: no criterion is called 'l7'"),
    ],
)
def test_a_mistake_in_a_users_own_code_is_told_by_its_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    stderr = call("run", written(tmp_path), "--code", tmp_path / "mine.py", code=2).stderr
    assert stderr.startswith("error: --code ")
    assert f"mine.py: {said}" in stderr


def test_a_report_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    for number, measured in enumerate((BEFORE, AFTER)):
        (tmp_path / f"{number}.json").write_text(measured.to_json(), encoding="utf-8")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    given = ["report", "--measurements", tmp_path / "0.json", "--report-path"]
    assert "r.md cannot be written" in call(*given, tmp_path / "file" / "r.md", code=2).stderr
    assert "written as .md or .html, not as '.pdf'" in call(*given, tmp_path / "r.pdf", code=2).stderr
    with pytest.raises(InputError, match="the report cannot be written to"):
        write_report([BEFORE], tmp_path / "file" / "r", title="t", html=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_output_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(BEFORE.to_json(), encoding="utf-8")
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-m", "secateur", "compare", tmp_path / "a.json"], stdout=full,
                               stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2, ["error: the output cannot be written: No space left on device"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "given"), [("zoo:digits", ["1x1x8x8"]), ("zoo:table", ["1x13"]), ("zoo:text", ["ids:1x16"])]
)
def test_networks_of_the_zoo_know_what_they_take(spec: str, given: list[str]) -> None:
    model = build(spec, "cpu")
    assert default_inputs(model, spec) == given
    model(*example_for(model, spec, [])[:-1])


def test_advice_on_the_command_line_is_of_the_command_line() -> None:
    said = " ".join(call("plan", "zoo:digits", code=2).stderr.split())
    assert said == "error: what to keep? Say -c macs=60%"
    said = " ".join(call("plan", "zoo:digits", "-c", "macs=1", code=3).stderr.split())
    assert "secateur inspect says why" in said


@pytest.mark.parametrize("python", sorted(STEP_WORDS))
def test_what_is_said_otherwise_on_the_command_line_is_said_in_the_library(python: str) -> None:
    sources = "".join(
        p.read_text(encoding="utf-8") for p in Path(sc.__file__).parent.rglob("*.py") if "cli" not in p.parts
    )
    assert python.replace(" ", "") in re.sub(r"[\"']?\s*\n\s*f?[\"']", "", sources).replace(" ", "")
