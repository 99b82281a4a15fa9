"""Speed against Torch-Pruning, as ratios in one run.

    python benchmarks/speed.py --setup ENV                  makes the peer's environment in the folder ENV
    python benchmarks/speed.py --peer-python ENV/bin/python [--only GLOB] [--threads 2]

Each side runs in its own process, in turns; networks are built outside the clock. The first turn, which loads what is
loaded late, is not counted. Writes the section "Speed" of docs/benchmarks.md.
"""

from __future__ import annotations

import fnmatch
import json
import math
import select
import subprocess
import sys
from pathlib import Path
from statistics import geometric_mean, median
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.models import CASES, Case  # noqa: E402 -- the folder of the package has to be on the path first
from benchmarks.page import machine, write_section  # noqa: E402

_PATIENCE_S = 90.0
_PEER = ("torch-pruning==1.6.1", "timm", "transformers")


class Side:
    """A measuring process and what it answered; a process because the two sides need other versions of libraries."""

    def __init__(self, python: str, module: str) -> None:
        self.process = subprocess.Popen(
            [python, "-m", module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One measurement, or `{"error": …}`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return {"error": "the process is gone"}
        ready, _, _ = select.select([self.process.stdout], [], [], _PATIENCE_S)
        if not ready:
            self.process.kill()
            return {"error": f"no answer in {_PATIENCE_S:.0f} s"}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the process died"}

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def compare(case: Case, peer_python: str, threads: int) -> dict[str, Any]:
    """Measure one network on both sides, in turns."""
    peer = Side(peer_python, "benchmarks.peer_torch_pruning")
    ours = Side(sys.executable, "benchmarks.ours")
    request: dict[str, Any] = {"case": case.name, "threads": threads, "params": None}
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    try:
        for _ in range(case.repeats + 1):
            if not found["peer"] or "error" not in found["peer"][-1]:
                found["peer"].append(peer.ask(**request))
                request["params"] = found["peer"][-1].get("params")
            found["ours"].append(ours.ask(**request))
        checks = ours.ask(**request, checks=True)
    finally:
        peer.close()
        ours.close()
    return {"case": case, **found, "checks": checks}


def row(result: dict[str, Any]) -> tuple[str, float | None]:
    """A line of the table, and the ratio peer / ours of the medians."""
    ours, peer = _times(result["ours"]), _times(result["peer"])
    ratio = median(peer) / median(ours) if ours and peer else None
    last, checks = result["ours"][-1], result["checks"]
    steps = " + ".join(f"{value:.2f}" for value in last.get("steps", {}).values()) or last.get("error", "")
    parts = [
        result["case"].name,
        _show(ours),
        steps,
        _show(peer) if peer else f"none: {result['peer'][-1].get('error', '')}",
        f"**{ratio:.1f}×**" if ratio else "",
        f"{_millions(last)} / {_millions(result['peer'][-1])}",
        f"{_gib(last)} / {_gib(result['peer'][-1])}",
        f"{checks['self_check']:.2f}" if "self_check" in checks else checks.get("error", ""),
        f"{checks['verify']:.2f}" if "verify" in checks else "",
    ]
    return f"| {' | '.join(part.replace('|', '/') for part in parts)} |", ratio


def _times(answers: list[dict[str, Any]]) -> list[float]:
    times = [answer["seconds"] for answer in answers if "seconds" in answer]
    return times[1:] or times


def _show(times: list[float]) -> str:
    return f"{min(times):.3f} / {median(times):.3f}" if times else "none"


def _millions(answer: dict[str, Any]) -> str:
    return f"{answer['params'] / 1e6:.2f} M" if "params" in answer else "none"


def _gib(answer: dict[str, Any]) -> str:
    return f"{answer['peak_bytes'] / 2**30:.2f}" if "peak_bytes" in answer else "none"


def section(rows: list[str], ratios: list[float], threads: int) -> str:
    """The section as Markdown."""
    mean = f"{geometric_mean(ratios):.2f}×, lowest {min(ratios):.2f}×" if ratios else "none"
    return "\n".join(
        [
            '`python benchmarks/speed.py --peer-python PATH`: `secateur.prune(model, "magnitude", {"params": …}, x,'
            ' {"verify": False})`, in place and with all other defaults (its self-check included), against the'
            " dependency graph, pruner and step of Torch-Pruning 1.6.1 at half of the channels; Secateur is given the"
            " peer's parameter count as its budget. Each in its own process, in turns, building outside the clock."
            " Seconds, minimum / median. Verification, which the peer has not, comes on top: last column.",
            "",
            f"{machine(threads)}.",
            "",
            f"**Geometric mean of the ratios: {mean}.**",
            "",
            "| network | ours | trace + plan + apply | peer | ratio | parameters, ours / peer | peak GiB, ours / peer |"
            " self-check | verification |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def set_up(folder: Path) -> None:
    """Make the peer's environment: torch first, at the version that both sides have."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, "torch==2.13.0", "numpy"], check=True)
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *_PEER], check=True)
    subprocess.run([*pip, "--no-deps", "torchvision==0.28.0"], check=True)


def main(
    peer_python: Annotated[str | None, typer.Option(help="the interpreter of the peer's environment")] = None,
    setup: Annotated[Path | None, typer.Option(help="make the peer's environment in this folder, and stop")] = None,
    only: Annotated[str, typer.Option(help="a glob on the networks' names")] = "*",
    threads: Annotated[int, typer.Option(help="threads of torch, on both sides")] = 2,
    write: Annotated[bool, typer.Option(help="write docs/benchmarks.md")] = True,
) -> None:
    """Compare, print, and write the table."""
    if setup is not None:
        set_up(setup)
        raise typer.Exit
    if peer_python is None:
        raise typer.BadParameter("needed, or --setup to make the peer's environment", param_hint="--peer-python")
    rows: list[str] = []
    ratios: list[float] = []
    for case in CASES.values():
        if not fnmatch.fnmatch(case.name, only):
            continue
        line, ratio = row(compare(case, peer_python, threads))
        print(line, flush=True)
        rows.append(line)
        if ratio is not None and math.isfinite(ratio):
            ratios.append(ratio)
    text = section(rows, ratios, threads)
    print(text)
    if write:
        write_section("Speed", text)


if __name__ == "__main__":
    typer.run(main)
