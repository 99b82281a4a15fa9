"""An experiment from files, as Kenning drives it: train, then optimise and measure from its JSON, then a report.

    python examples/tour/scenario.py        runs train.yaml and scenario.json, writes report.html and report.md

The same from a shell:

    secateur run train.yaml
    secateur optimize test --json-cfg scenario.json --measurements pruned.json
    secateur report --measurements trained-run/measurements pruned.json --report-path report.md --to-html
"""

from __future__ import annotations

import shutil
from pathlib import Path

import secateur as sc

HERE = Path(__file__).parent


def main(folder: Path = Path()) -> dict[str, float]:
    """The measured accuracies, by name."""
    for name in ("train.yaml", "scenario.json"):  # paths in a scenario are relative to it
        if (folder / name).resolve() != (HERE / name).resolve():
            shutil.copy(HERE / name, folder)
    measured = []
    for name in ("train.yaml", "scenario.json"):
        scenario = sc.scenario.read_file(folder / name)
        out = folder / f"{Path(name).stem}-run"
        measured += sc.scenario.run(scenario, folder, out, heard=lambda step, word: print(f"{step.title}: {word}"))
    sc.report.write_report(measured, folder / "report", title="Digits, after Kenning's manner")
    return {measurement.name: measurement.quality["accuracy"].value for measurement in measured}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.1%}")
    print("report.html, report.md")
