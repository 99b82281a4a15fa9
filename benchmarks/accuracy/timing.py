"""FastNAS's wall-clock beside ModelOpt's, at equal evaluations: same network, data, batches and score, in turns.

    python -m benchmarks.accuracy.timing --work WORK --modelopt PYTHON

ModelOpt goes first and says how many evaluations it made; ours may make as many. On a machine with nothing else to do.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from statistics import median
from sys import executable
from typing import Annotated, Any

import typer

from benchmarks.accuracy.run import CONTESTANTS, Contestant, job_of, searched
from benchmarks.accuracy.train import Work
from benchmarks.page import machine, write_section

_TARGET = 0.5


def main(
    work: Annotated[Path, typer.Option(help="folder of splits and trained networks")],
    modelopt: Annotated[str, typer.Option(help="Python with ModelOpt 0.47.0")],
    repeats: Annotated[int, typer.Option(help="turns of each side")] = 3,
    networks: Annotated[str, typer.Option(help="comma-separated")] = "resnet20,mobilenetv2",
    page: Annotated[bool, typer.Option(help="write the section into docs/benchmarks.md")] = True,
) -> None:
    """Time both and write the section "Search time" of docs/benchmarks.md."""
    theirs, ours = (next(c for c in CONTESTANTS if c.name == n) for n in ("modelopt/fastnas", "secateur/fastnas"))
    rows = []
    for network in networks.split(","):
        turns: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for _ in range(repeats):
            peer = _search(work, theirs, modelopt, network)
            # as many as the peer made; the whole network's score is one of them
            options = {"max_evaluations": peer["evaluations"] - 1, "most_points": 100}
            turns.append((_search(work, replace(ours, options=options), executable, network), peer))
        seconds = [[side["seconds"] for side in sides] for sides in zip(*turns, strict=True)]
        mine, peer = turns[-1]
        rows.append(
            f"| {network} | {min(seconds[0]):.1f} / {median(seconds[0]):.1f} | {min(seconds[1]):.1f} / "
            f"{median(seconds[1]):.1f} | **{min(seconds[0]) / min(seconds[1]):.2f}** | {mine['evaluations']} / "
            f"{peer['evaluations']} |"
        )
        print(rows[-1], flush=True)
    head = (
        "| network | ours, s | ModelOpt 0.47.0, s | ours / theirs | evaluations, ours / theirs |\n|---|---|---|---|---|"
    )
    about = (
        '`python -m benchmarks.accuracy.timing`: `mode="fastnas"` and ModelOpt\'s, to half of the MACs; of 1,000 digits theirs'
        " measures batch norm on all and ours on 256, its default; 1,000 others for the score of each candidate. Each in its own"
        " process, in turns; minimum / median."
    )
    if not page:
        return
    write_section("Search time: FastNAS", f"{about}\n\n{machine(1)}.\n\n{head}\n" + "\n".join(rows))


def _search(work: Path, contestant: Contestant, python: str, network: str) -> dict[str, Any]:
    out = work.resolve() / "timing" / contestant.tool
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    job = job_of(Work(folder=work.resolve()), contestant, network, 0, (_TARGET,), out)
    return searched(job, contestant, python)[0]


if __name__ == "__main__":
    typer.run(main)
