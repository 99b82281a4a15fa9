"""The command line.

    secateur run scenario.yaml                            train, measure, prune, fine-tune, measure, export, report
    secateur optimize test --json-cfg s.json --measurements a.json
    secateur report --measurements a.json b.json --report-path r.md --to-html
    secateur inspect timm:resnet18 --input 1x3x224x224    what can be narrowed, what cannot and why, what it costs
    secateur plan | apply | prune | finetune | compare    one step at a time
    secateur demo, doctor, schema

Exit codes: 0 fine, 2 the request is not usable, 3 no network meets the budget, 4 verification failed.

Invariant: a command imports what it needs when it is called, so that help is quick.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import (
    STEP_WORDS,
    AsJson,
    Bounds,
    Code,
    Inputs,
    ModelOptions,
    Settings,
    Spec,
    Weights,
    exit_codes,
    read_options,
    read_pairs,
    run_code,
    show,
    show_json,
    tell,
)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

Out = Annotated[str, typer.Option("--out", "-o", help="where to leave what is made")]
Data = Annotated[str, typer.Option("--data", help="digits, wine, images:FOLDER, text_file:FILE, …")]
Config = Annotated[Path, typer.Option("--json-cfg", "--cfg", help="the scenario, JSON or YAML")]


@app.callback()
def secateur() -> None:
    """Structured pruning: remove whole channels, heads and hidden units, under a budget, and prove the result."""


@app.command()
def run(
    scenario: Annotated[Path, typer.Argument(help="the scenario, JSON or YAML; Kenning's as well")],
    out: Out = "",
    code: Code = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a scenario; one that was interrupted goes on where it was."""
    with exit_codes():
        from secateur.cli.running import dry_run, run_all

        (dry_run if dry else run_all)(scenario, out, run_code(code), as_json)


def _chain(words: list[str], config: Path, out: str, measurements: str, code: list[str] | None, as_json: bool) -> None:
    with exit_codes():
        from secateur.cli.running import chain, comparison

        found = chain(words, config, out, measurements, run_code(code))
        if as_json:
            show_json([json.loads(m.to_json()) for m in found])
        elif found:
            show(comparison(found))


Then = Annotated[list[str] | None, typer.Argument(help="what to do afterwards: test")]
To = Annotated[str, typer.Option("--measurements", help="where to write the measurement, as JSON")]


@app.command()
def optimize(
    config: Config, then: Then = None, measurements: To = "", out: Out = "", code: Code = None, as_json: AsJson = False
) -> None:
    """Do what changes the network: train, prune, fine-tune; with the word test, measure it as well."""
    _chain(["optimize", *(then or [])], config, out, measurements, code, as_json)


@app.command("test")
def measure_optimized(
    config: Config, then: Then = None, measurements: To = "", out: Out = "", code: Code = None, as_json: AsJson = False
) -> None:
    """Measure the network of a scenario, optimized before."""
    _chain(["test", *(then or [])], config, out, measurements, code, as_json)


@app.command()
def report(
    measurements: Annotated[list[str], typer.Option("--measurements", help="files, or the folder of a run; several")],
    more: Annotated[list[str] | None, typer.Argument(help="more files", hidden=True)] = None,
    path: Annotated[Path, typer.Option("--report-path", help="report.md, or report.html for both")] = Path("report.md"),
    html: Annotated[bool, typer.Option("--to-html", help="the same as one HTML file beside it")] = False,
    title: Annotated[str, typer.Option("--title", help="its heading; the file's name by default")] = "",
    as_json: AsJson = False,
) -> None:
    """Compare measurements in one file that opens anywhere; the first is what the others are compared with."""
    with exit_codes():
        from secateur.cli.running import report as write

        files = [str(file) for file in write([*measurements, *(more or [])], path, html, title)]
        show_json(files) if as_json else tell(f"written: {', '.join(files)}")


@app.command()
def compare(
    files: Annotated[list[str], typer.Argument(help="measurements, or the folder of a run")], as_json: AsJson = False
) -> None:
    """Show measurements side by side; the first is what the others are compared with."""
    with exit_codes():
        from secateur.cli.running import comparison, read_measurements

        found = read_measurements(files)
        show_json([json.loads(m.to_json()) for m in found]) if as_json else show(comparison(found))


@app.command()
def schema() -> None:
    """Print the JSON schema of scenarios, for editors."""
    with exit_codes():
        from secateur.scenario.schema import json_schema

        show_json(json_schema())


@app.command()
def inspect(
    spec: Spec,
    inputs: Inputs = None,
    options: ModelOptions = "",
    as_json: AsJson = False,
    everything: Annotated[bool, typer.Option("--all", help="every width on a line of its own")] = False,
) -> None:
    """Show what of an architecture can be narrowed, what is frozen and why, and what it costs."""
    with exit_codes():
        from secateur.cli.inspecting import inspect_data, inspect_text, trace_spec

        graph = trace_spec(spec, inputs or [], read_options(options))
        show(json.dumps(inspect_data(graph), indent=2) if as_json else inspect_text(graph, everything))


@app.command()
def plan(
    spec: Spec,
    bounds: Bounds = None,
    inputs: Inputs = None,
    options: ModelOptions = "",
    weights: Weights = "",
    settings: Settings = None,
    out: Out = "",
    as_json: AsJson = False,
) -> None:
    """Choose what to keep, from the weights alone; --out keeps the plan for apply."""
    with exit_codes(STEP_WORDS):
        from secateur.cli.inputs import example_for
        from secateur.cli.pruning import network
        from secateur.cli.pruning import plan as made_of
        from secateur.cli.writing import tried, written

        if out:
            tried(Path(out))
        model = network(spec, read_options(options), weights)
        limits = read_pairs(bounds, "--constraint")
        made = made_of(model, example_for(model, spec, inputs or []), limits, read_pairs(settings, "--set"))
        if out:
            written(Path(out), made.to_json())
        show(made.to_json() if as_json else str(made))


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="a plan, as the command plan wrote it")],
    spec: Spec,
    out: Out,
    inputs: Inputs = None,
    options: ModelOptions = "",
    weights: Weights = "",
    as_json: AsJson = False,
) -> None:
    """Narrow a network by a plan, verify, and save it to a folder."""
    with exit_codes(STEP_WORDS):
        from secateur.cli.inputs import example_for
        from secateur.cli.pruning import apply as applied
        from secateur.cli.pruning import network

        model = network(spec, read_options(options), weights)
        small = applied(file, model, example_for(model, spec, inputs or []), Path(out))
        params = sum(p.numel() for p in small.parameters())
        show_json({"folder": out, "params": params}) if as_json else show(f"{params:,} parameters, saved to {out}")


@app.command()
def prune(
    spec: Spec,
    out: Out,
    bounds: Bounds = None,
    mode: Annotated[str, typer.Option("--mode", help="progressive with data, magnitude without")] = "",
    data: Data = "",
    settings: Settings = None,
    inputs: Inputs = None,
    options: ModelOptions = "",
    weights: Weights = "",
    code: Code = None,
    as_json: AsJson = False,
) -> None:
    """Prune a network with any mode, verify, and save it to a folder."""
    with exit_codes(STEP_WORDS):
        run_code(code)
        from secateur.cli.pruning import pruned

        stage = {
            "do": "prune",
            "mode": mode or ("progressive" if data else "magnitude"),
            "constraints": read_pairs(bounds, "--constraint"),
            "options": read_pairs(settings, "--set"),
        }
        source = {"source": spec, "options": read_options(options), "weights": weights or None}
        result = pruned(source, stage, data, inputs or [], Path(out))
        found = {"before": dict(result.before), "after": dict(result.after), "verified": result.verification.passed}
        show_json({**found, "folder": out}) if as_json else show(f"{result}\nsaved to {out}")


@app.command()
def finetune(
    folder: Annotated[str, typer.Argument(help="a narrowed network, as prune or apply saved it")],
    spec: Spec,
    data: Data,
    out: Out,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    optimizer: Annotated[str, typer.Option(help="adamw, adam, sgd, …")] = "adamw",
    lr: Annotated[float, typer.Option(min=0)] = 1e-3,
    options: ModelOptions = "",
    code: Code = None,
    as_json: AsJson = False,
) -> None:
    """Train a narrowed network and keep the best of it."""
    with exit_codes(STEP_WORDS):
        run_code(code)
        from secateur.cli.pruning import finetuned

        source = {"source": spec, "options": read_options(options), "artefact": folder}
        said = finetuned(
            source, {"do": "finetune", "epochs": epochs, "optimizer": optimizer, "lr": lr}, data, Path(out)
        )
        show_json({"folder": out, "said": said}) if as_json else show(f"{said}\nsaved to {out}")


@app.command()
def demo(
    seeds: Annotated[int, typer.Option(min=1, max=100, help="how many times to repeat, each with another seed")] = 1,
    folder: Annotated[str, typer.Option("--out", help="where to leave the artefact and the ONNX file")] = "",
    as_json: AsJson = False,
) -> None:
    """Train a small network on real digits, prune it to 40 % of its MACs, and compare before and after."""
    with exit_codes():
        from secateur.cli.demo import run

        outcomes = run(seeds=seeds, folder=folder or None, quiet=as_json)
        if as_json:
            show_json([asdict(outcome) for outcome in outcomes])


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show versions, devices, and what is missing or known not to work."""
    with exit_codes():
        from secateur.cli.doctor import examine, report

        surroundings = examine()
        show(json.dumps(surroundings, indent=2) if as_json else report(surroundings))


def main() -> None:
    """The ``secateur`` command."""
    app(prog_name="secateur")  # under python -m as well: completion is written for the command
