"""A search that is killed at any moment goes on where it was: no finished evaluation lost or made again, the same plan.

    SECATEUR_KILLS=500 pytest tests/torch/test_interrupted.py      kills more often than the 20 times of the suite

Invariant: the kills are real (SIGKILL), at moments drawn with a seed that the failure prints.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc

KILLS = int(os.environ.get("SECATEUR_KILLS", "20"))
SEED = int(os.environ.get("SECATEUR_SEED", str(time.time_ns() % 10**6)))
X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def search(checkpoint: str, started: str | None = None) -> str:
    """The plan of a search as JSON; ``started`` is a file that gets a line before each evaluation."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    ).eval()  # fmt: skip
    target = model(X).detach()

    def score(model: nn.Sequential) -> float:
        if started is not None:
            with open(started, "a") as file:
                file.write(f"{model[0].out_channels} {model[3].out_channels}\n")
        time.sleep(0.005)
        return -float((model(X) - target).square().mean())

    score.__qualname__ = "score"
    config = {"data_loader": [X], "score_func": score, "checkpoint": checkpoint, "verify": False}
    return sc.prune(model, "fastnas", {"macs": "40%"}, X[:1], config)[1].plan.to_json()


def keys_in(journal: Path) -> list[str]:
    """The keys of the whole lines of a journal."""
    lines = journal.read_bytes().split(b"\n")[1:-1] if journal.exists() else []
    return [json.loads(line)["key"] for line in lines]


def killed_and_resumed(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill searches at random moments until that was done so often; what was seen. Runs in a process of its own."""
    torch.set_num_threads(1)
    expected = search(str(folder / "first"))
    began = time.perf_counter()
    assert search(str(folder / "second")) == expected
    length = time.perf_counter() - began  # the first one also loads code
    generator = np.random.default_rng(seed)
    done = finished = torn = 0
    while done < kills or finished == 0:
        place = folder / f"{finished}"
        journal, started, plan = place / "journal.jsonl", place / "started", place / "plan"
        place.mkdir()
        while not plan.exists():
            before = keys_in(journal)
            started.write_text("")
            if (child := os.fork()) == 0:
                text = search(str(place), str(started))
                (place / "unfinished").write_text(text)
                os.replace(place / "unfinished", plan)
                os._exit(0)
            time.sleep(generator.uniform(0, 0.5 * length))
            os.kill(child, 9)
            done += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            after = keys_in(journal)
            torn += journal.exists() and not journal.read_bytes().endswith(b"\n")
            assert after[: len(before)] == before, "a finished evaluation was lost"
            begun = len(started.read_text().splitlines())
            assert begun <= len(after) - len(before) + 1, "a finished evaluation was made again"
        assert plan.read_text() == expected, "another plan"
        assert len(set(keys_in(journal))) == len(keys_in(journal))
        finished += 1
    return {"kills": done, "finished": finished, "torn": torn}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_search_goes_on_without_loss_or_repetition_to_the_same_plan(tmp_path: Path) -> None:
    code = (
        "import json, pathlib, test_interrupted as t;"
        f"print(json.dumps(t.killed_and_resumed(pathlib.Path({str(tmp_path)!r}), {KILLS}, {SEED})))"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=60 + 5 * KILLS)
    assert run.returncode == 0, f"seed {SEED}: {run.stderr[-2000:]}"
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen["kills"] >= KILLS
    assert seen["finished"] >= 1
