"""Judge the zoo: `python -m tests.zoo [--family timm] [--only 'timm/vit*'] [--jobs 2] [--out docs/zoo.md]`.

Prints a line for each architecture as it is done; ends with an error if any failed.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Annotated

import typer

from .catalogue import catalogue
from .judge import Verdict
from .table import report
from .workers import TIMEOUT_S, judge_all


def main(
    family: Annotated[str | None, typer.Option(help="timm, torchvision or hf; all three if left out")] = None,
    only: Annotated[str, typer.Option(help="a glob on names such as timm/vit_tiny_patch16_224")] = "*",
    jobs: Annotated[int, typer.Option(help="architectures judged at a time")] = 2,
    timeout: Annotated[float, typer.Option(help="seconds after which one is given up")] = TIMEOUT_S,
    out: Annotated[Path | None, typer.Option(help="the Markdown file to write")] = None,
) -> None:
    """Trace, prune, verify, retrace, save, restore and train every architecture."""
    names = [
        e.name for e in catalogue() if family in (None, e.name.partition("/")[0]) and fnmatch.fnmatch(e.name, only)
    ]
    if not names:
        raise typer.BadParameter(f"no architecture matches family {family} and {only!r}")
    verdicts: list[Verdict] = []
    for verdict, seconds in judge_all(names, num_jobs=jobs, timeout_s=timeout):
        verdicts.append(verdict)
        print(f"{len(verdicts):4d}/{len(names)} {_line(verdict)} {seconds:.1f} s", flush=True)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(report(verdicts), encoding="utf-8")
    failed = [verdict.name for verdict in verdicts if verdict.outcome == "failed"]
    print(f"{len(verdicts)} judged, {len(failed)} failed")
    raise typer.Exit(1 if failed else 0)


def _line(verdict: Verdict) -> str:
    share = f"reachable {verdict.anatomy.reachable:.1%}" if verdict.anatomy else ""
    return " ".join(filter(None, [verdict.name, verdict.outcome, verdict.reached, share, verdict.why]))


if __name__ == "__main__":
    typer.run(main)
