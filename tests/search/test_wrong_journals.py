"""A line with a right checksum and wrong values is met at once, by name, before anything is measured or changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import ArtifactError
from secateur.search.journal import _checksum
from secateur.search.measured import is_evaluation

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
NOTHING: list[Any] = [{}, {"scores": 3}, {"score": None}]
NUMBERS = [True, "0.5", [0.5], {}, 10**400, 1e999, float("nan")]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


class Score:
    """A score that counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module) -> float:
        self.calls += 1
        return -float(model(X).square().mean())


def fastnas(model: nn.Module, score: Score, path: Path) -> None:
    config = {"score_func": score, "checkpoint": path, "max_evaluations": 4, "data_loader": [X]}
    sc.prune(model, "fastnas", {"params": "70%"}, X[:1], config)


def gradnas(model: nn.Module, score: Score, path: Path) -> None:
    def loss(output: torch.Tensor, batch: object) -> torch.Tensor:
        score.calls += 1
        return output.square().mean()

    sc.prune(model, "gradnas", {"params": "70%"}, X[:1], {"checkpoint": path, "data_loader": [X], "loss_func": loss})


def forged(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], line: int = -1) -> None:
    """Replace the values of one line, with the checksum that they then have."""
    journal = next(path.glob("*.jsonl"))
    lines = journal.read_text().splitlines()
    entry = json.loads(lines[line])
    del entry["crc32"]
    entry["values"] = change(entry["values"])
    lines[line] = json.dumps({**entry, "crc32": _checksum(entry)})
    journal.write_text("\n".join(lines) + "\n")


def refused(search: Callable[[nn.Module, Score, Path], None], path: Path) -> None:
    model, score = network(), Score()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    on_disk = next(path.glob("*.jsonl")).read_bytes()
    with pytest.raises(sc.ArtifactError, match="line"):
        search(model, score, path)
    assert score.calls == 0
    assert next(path.glob("*.jsonl")).read_bytes() == on_disk
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("values", [*NOTHING, *({"sizes": {}, "score": number} for number in NUMBERS)], ids=repr)
def test_an_evaluation_that_is_none_is_refused_at_once(values: dict[str, Any], tmp_path: Path) -> None:
    fastnas(network(), Score(), tmp_path / "j")
    forged(tmp_path / "j", lambda _: values)
    refused(fastnas, tmp_path / "j")


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_scores_that_are_none_are_refused_at_once(number: object, tmp_path: Path) -> None:
    gradnas(network(), Score(), tmp_path / "j")
    forged(tmp_path / "j", lambda values: {"scores": [number, *values["scores"][1:]]})
    refused(gradnas, tmp_path / "j")


@pytest.mark.parametrize(
    "change",
    [lambda scores: scores[:-1], lambda scores: [scores, scores[1:]], lambda scores: [], lambda scores: "many", dict],
)
def test_scores_that_fit_no_width_are_refused_at_once(change: Callable[[Any], Any], tmp_path: Path) -> None:
    gradnas(network(), Score(), tmp_path / "j")
    forged(tmp_path / "j", lambda values: {"scores": {} if change is dict else change(values["scores"])})
    refused(gradnas, tmp_path / "j")


@pytest.mark.parametrize(
    "entry",
    [
        {"share": 0}, {"share": True}, {"share": 1.5}, {"running": [[0.5, True]]}, {"running": [[0, 1.0]]},
        {"running": [[0.5]]}, {"running": {}}, {"sizes": []}, {"sizes": {"a": "8"}}, {"more": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_what_an_evaluation_may_hold(entry: dict[str, Any]) -> None:
    good = {"sizes": {"a": 8}, "score": 0.5, "share": 0.5, "running": [[0.25, 0.4], [0.5, 0.5]]}
    assert is_evaluation("key", good)
    assert is_evaluation("key", {"sizes": {}, "score": None})
    assert not is_evaluation("key", {**good, **entry})


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["a pipe", "a device"])
def test_what_is_no_file_is_no_journal(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "journal.jsonl")
    score = Score()
    with pytest.raises(ArtifactError, match="a pipe, a device"):
        fastnas(network(), score, tmp_path / "journal.jsonl")
    assert score.calls == 0
