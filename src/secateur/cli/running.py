"""Scenarios from the command line: all of one, its optimizing part, its measuring part, and reports of what was measured.

    secateur run s.yaml                                          every stage; goes on where it was killed
    secateur optimize test --json-cfg s.json --measurements a.json
    secateur report --measurements a.json b.json --report-path r.md --to-html

Invariant: a command does nothing again that another did for the same scenario in the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from secateur.cli.options import show, show_json, tell
from secateur.cli.writing import tried, written
from secateur.core.json.strict import MAX_BYTES
from secateur.core.measurement import Measurement
from secateur.core.show import graph_summary, text_table
from secateur.core.text import visible
from secateur.errors import ArtifactError, InputError, placed
from secateur.report import write_report
from secateur.report.facts import Facts
from secateur.scenario.checking import check_prunings
from secateur.scenario.reading import read_file
from secateur.scenario.run import Step, context_of, done, run, steps_of
from secateur.scenario.schema import Finetune, Measure, Prune, Scenario, Train

_CHAIN = ("optimize", "test", "report")


def folder_for(scenario: Path, out: str) -> Path:
    """Where a run leaves what it makes: a folder beside the scenario unless another is named."""
    return Path(out) if out else scenario.with_name(f"{scenario.stem}-run")


def run_all(path: Path, out: str, code: str, as_json: bool) -> None:
    """Run every stage and show what was measured."""
    scenario, folder = read_file(path), folder_for(path, out)
    with placed(visible(path)):
        found = run(scenario, path.parent, folder, code=code, heard=_heard)
    _show(found, as_json)
    tell(f"everything is in {folder}")


def _heard(step: Step, word: str) -> None:
    tell(f"{step.title}: {word}")


def _show(found: Sequence[Measurement], as_json: bool) -> None:
    if as_json:
        show_json([json.loads(m.to_json()) for m in found])
    elif found:
        show(comparison(found))


def comparison(found: Sequence[Measurement]) -> str:
    """What was measured side by side, and the verdict in a line."""
    facts = Facts(tuple(found))
    if len(found) > 4:  # more columns than a terminal has room for
        first = [found[0], *found[-3:]]
        return f"{comparison(first)}\n({len(found) - 4} more in between are in the report)"
    return f"{text_table('', ('', *facts.names), facts.table)}\n{facts.verdict}"


def dry_run(path: Path, out: str, code: str, as_json: bool) -> None:
    """Say what would be done, and what the network looks like; nothing is written.

    Raises what a stage would raise, as far as that can be told of the network as it is.
    """
    from secateur.torch.trace import trace

    scenario, folder = read_file(path), folder_for(path, out)
    with placed(visible(path)):
        context = context_of(scenario, path.parent)
        steps = steps_of(context, code)
        ready = done(folder, steps)
        model, example = context.network(None), context.splits.example()
        graph = trace(model, example)
        check_prunings(scenario, lambda depth: trace(model, example, depth=depth) if depth else graph)
    if as_json:
        show_json(
            [
                {"stage": s.number, "do": s.stage.do, "key": s.folder, "done": d}
                for s, d in zip(steps, ready, strict=True)
            ]
        )
        return
    rows = [
        (step.title, "done" if d else "to do", visible(_settings(step))) for step, d in zip(steps, ready, strict=True)
    ]
    show(text_table(f"{visible(scenario.name)}: what would be done", ("stage", "", "settings"), rows))
    show(graph_summary(graph))


def _settings(step: Step) -> str:
    given = step.stage.model_dump(exclude_defaults=True, exclude={"do"})
    return ", ".join(f"{key} {value}" for key, value in given.items())


def chain(words: Sequence[str], path: Path, out: str, measurements: str, code: str) -> list[Measurement]:
    """``optimize`` does what changes the network, ``test`` measures it as it then is."""
    for word in words:
        if word not in _CHAIN:
            raise InputError(f"cannot chain {visible(word)!r}: known are {', '.join(_CHAIN)}")
    if measurements:
        tried(Path(measurements))
    scenario, folder = read_file(path), folder_for(path, out)
    with placed(visible(path)):
        return _chained(words, scenario, path, folder, measurements, code)


def _chained(
    words: Sequence[str], scenario: Scenario, path: Path, folder: Path, measurements: str, code: str
) -> list[Measurement]:
    last = _last_change(scenario)
    steps = steps_of(context_of(scenario, path.parent), code)
    if "optimize" in words:
        run(scenario, path.parent, folder, code=code, upto=last + 1, heard=_heard)
    elif not all(done(folder, [s for s in steps[:last] if isinstance(s.stage, Train | Prune | Finetune)])):
        raise InputError(
            f"there is no optimized network in {visible(folder)}: call optimize first, or both with  secateur optimize test"
        )
    if "test" not in words and "report" not in words:
        return []
    found = run(scenario, path.parent, folder, code=code, upto=_last_measure(scenario) + 1, heard=_heard)
    if measurements:
        written(Path(measurements), found[-1].to_json())
    return found


def _last_change(scenario: Scenario) -> int:
    """The number of the last stage that changes the network, 0 where none does."""
    return max(
        (n for n, s in enumerate(scenario.stages, start=1) if isinstance(s, Train | Prune | Finetune)), default=0
    )


def _last_measure(scenario: Scenario) -> int:
    found = [n for n, stage in enumerate(scenario.stages, start=1) if isinstance(stage, Measure)]
    if not found or found[-1] <= _last_change(scenario):
        raise InputError("the scenario measures nothing after its last change: add a stage {do: measure} at its end")
    return found[-1]


def read_measurements(names: Sequence[str]) -> list[Measurement]:
    """Measurements from files, or all of a run's from its folder. Raises InputError, ArtifactError for what is not one."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        files += sorted((path / "measurements").glob("*.json")) if (path / "measurements").is_dir() else [path]
    if not files:
        raise InputError("there are no measurements: name files that secateur test or run wrote, or a run's folder")
    return [_read(file) for file in files]


def _read(file: Path) -> Measurement:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{visible(file)} is larger than a measurement can be")
        return Measurement.from_json(file.read_bytes())
    except OSError as problem:
        raise InputError(f"{visible(file)} cannot be read: {visible(problem)}") from None
    except ArtifactError as problem:
        raise ArtifactError(f"{visible(file)}: {problem}") from None


def report(names: Sequence[str], path: Path, html: bool, title: str) -> list[Path]:
    """Write a report of measurements; the files written."""
    if path.suffix not in ("", ".md", ".html"):
        raise InputError(f"--report-path: a report is written as .md or .html, not as {visible(path.suffix)!r}")
    tried(path)
    found = read_measurements(names)
    stem = path.with_suffix("") if path.suffix in (".md", ".html") else path
    return write_report(found, stem, title=title or stem.name, html=html or path.suffix == ".html")
