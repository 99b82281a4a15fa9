"""Scenarios run: every stage does what it says, and a run that is killed anywhere ends as one that was not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import secateur as sc
from secateur.errors import ArtifactError, ConfigError, Infeasible, InputError
from secateur.modes.journalled import Journal
from secateur.scenario import read_file, run, work
from secateur.scenario.models import build
from secateur.scenario.run import context_of, done, steps_of
from secateur.scenario.work import Work, outcome_in
from tests.scenario.small import SMALL, written

torch.set_num_threads(1)
pytest.importorskip("sklearn")
pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small scenario, run once."""
    folder = tmp_path_factory.mktemp("ran")
    run(read_file(written(folder)), folder, folder / "out")
    return folder


def test_a_run_leaves_what_it_promises(ran: Path) -> None:
    out = ran / "out"
    assert sorted(p.name for p in out.iterdir()) == ["measurements", "report.html", "report.md", "taken-away", "work"]
    first, last = (sc.Measurement.from_json(p.read_bytes()) for p in sorted((out / "measurements").iterdir()))
    assert (first.name, last.name, last.plan_id is not None) == ("original", "small", True)
    assert last.costs["macs"] < 0.7 * first.costs["macs"]
    assert last.origin is not None
    assert [p.mode for p in last.origin.prunings] == ["progressive", "magnitude"]
    assert all(p.verified for p in last.origin.prunings)
    assert all(w.scores and w.kept for p in last.origin.prunings for w in p.widths)
    assert [len(t["losses"]) for t in last.origin.training] == [2, 1]  # type: ignore[arg-type]


def test_what_is_taken_away_is_what_was_measured(ran: Path) -> None:
    model = sc.restore(build("zoo:digits", "cpu", {"widths": [4, 8, 8]}), ran / "out" / "taken-away")
    last = sc.Measurement.from_json(sorted((ran / "out" / "measurements").iterdir())[-1].read_bytes())
    context = context_of(read_file(ran / "small.json"), ran)
    data = context.loader("test")
    found = sc.measure(model, data, dummy_input=context.splits.example(), timings=None)
    assert found.quality["accuracy"] == last.quality["accuracy"]


def test_a_second_run_does_nothing_again(ran: Path) -> None:
    events = (ran / "out" / "work" / "events.jsonl").read_bytes()
    words: list[str] = []
    run(read_file(ran / "small.json"), ran, ran / "out", heard=lambda step, word: words.append(word))
    assert words == ["already done"] * len(SMALL["stages"])
    assert (ran / "out" / "work" / "events.jsonl").read_bytes() == events


def test_a_stage_depends_on_what_stands_before_it_and_not_on_what_follows(ran: Path) -> None:
    def ready(stages: list[dict[str, Any]], **more: Any) -> list[bool]:
        file = written(ran / "other", {**SMALL, **more, "stages": stages})
        return done(ran / "out", steps_of(context_of(read_file(file), ran)))

    stages = SMALL["stages"]
    assert ready(stages) == [True] * 8
    assert ready(stages[:3]) == [True] * 3
    changed = [*stages[:3], {**stages[3], "constraints": {"params": "60%"}}, *stages[4:]]
    assert ready(changed) == [True] * 3 + [False] * 5
    assert ready(stages, seed=1) == [False] * 8
    assert ready(stages, loss="next_token") == [False] * 8


class Killed:
    """Kills the process at its n-th moment: before and after each move, in the journal, between events."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self()
            found = function(*args, **kwargs)
            self()
            return found

        return called


def _child(file: Path, out: Path, moment: int, log: Path) -> int:
    """Run the scenario in a process of its own that is killed at a moment; its wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        kill = Killed(moment)
        real = Path.rename

        def rename(self: Path, target: Path) -> Path:
            kill()
            moved = real(self, target)
            if self.name.startswith(".part-"):
                with log.open("a") as lines:
                    lines.write(f"{Path(target).name}\n")
            kill()
            return moved

        Path.rename = rename  # type: ignore[method-assign]
        for owner, name in ((Journal, "record"), (Work, "tell"), (work, "sync"), (work, "publish")):
            setattr(owner, name, kill.around(getattr(owner, name)))
        run(read_file(file), file.parent, out)
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(ran: Path, tmp_path: Path) -> None:
    file, out, log = written(tmp_path), tmp_path / "out", tmp_path / "log"
    kills = 0
    for attempt in range(200):
        status = _child(file, out, 4 + 3 * (attempt % 4), log)
        if not os.WIFSIGNALED(status):
            break
        kills += 1
        assert len(list((out / "work").glob(".part-*"))) <= 1
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0
    assert kills >= len(SMALL["stages"])
    stages = log.read_text().splitlines()
    assert len(stages) == len(set(stages)) == len(SMALL["stages"]), "no stage that was done was done again"
    assert not list((out / "work").glob(".part-*"))
    assert _results(out) == _results(ran / "out")
    again = [e for e in work.events_in(out / "work") if e.detail == "again, after an interruption"]
    assert again


def _results(out: Path) -> tuple[object, ...]:
    """What must not depend on interruptions: the weights, the plans, and what was measured of quality."""
    found = [sc.Measurement.from_json(p.read_bytes()) for p in sorted((out / "measurements").iterdir())]
    weights = (out / "taken-away" / "model.safetensors").read_bytes()
    return weights, [(m.name, m.costs, m.quality, m.confusion, m.plan_id) for m in found]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with Work(tmp_path / "work"), pytest.raises(ArtifactError, match="in use by another run"):
        Work(tmp_path / "work")


def test_a_stage_that_fails_leaves_what_was_done(tmp_path: Path) -> None:
    stages = [SMALL["stages"][1], {"do": "prune", "mode": "magnitude", "constraints": {"params": 1}}]
    file = written(tmp_path, {**SMALL, "stages": stages})
    with pytest.raises(Infeasible):
        run(read_file(file), tmp_path, tmp_path / "out")
    kept = [p.name.partition("-")[0] for p in (tmp_path / "out" / "work").iterdir() if p.is_dir() and outcome_in(p)]
    assert kept == ["measure"]
    assert [e.what for e in work.events_in(tmp_path / "out" / "work")] == ["begun", "done", "begun", "refused"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "digitz"}, "Did you mean 'digits'?"),
        ({"data": {"source": "digits", "options": {"sise": 9}}}, "Did you mean 'size'?"),
        ({"data": {"source": "images", "options": {"path": "nowhere"}}}, "there is no folder of images"),
        ({"loss": "crossentropy"}, "Did you mean 'cross_entropy'?"),
        ({"device": "tpu7"}, "there is no device"),
        ({"model": "zoo:digit"}, "Did you mean 'digits'?"),
        ({"stages": [{"do": "prune", "mode": "progresive", "constraints": {"macs": "50%"}}]}, "Did you mean 'progressive'?"),
        ({"stages": [{"do": "prune", "mode": "magnitude", "options": {"data_loader": 1}}]}, "comes from the scenario"),
        ({"stages": [{"do": "prune", "compat": {}, "mode": "magnitude"}]}, "beside mode: activation"),
        ({"stages": [{"do": "train", "optimizer": "Adm"}]}, "Did you mean 'adam"),
        ({"stages": [{"do": "measure", "metrics": ["acuracy"]}]}, "Did you mean 'accuracy'?"),
    ],
)  # fmt: skip
def test_a_name_that_nobody_knows_is_told_with_the_nearest(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = written(tmp_path, {**SMALL, **changes})
    with pytest.raises((ConfigError, InputError)) as refused:
        run(read_file(file), tmp_path, tmp_path / "out")
    assert said in str(refused.value)


@pytest.mark.parametrize("mode", ["fastnas", "gradnas", "activation"])
def test_every_mode_gets_the_data_and_the_score_that_it_asks_for(mode: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_evaluations": 6} if mode == "fastnas" else {}
    bound = {} if mode == "activation" else {"macs": "80%"}
    stages = [
        {"do": "train", "epochs": 1, "keep": "last"},
        {"do": "prune", "mode": mode, "constraints": bound, "options": options},
    ]
    file = written(tmp_path, {**SMALL, "stages": [*stages, {"do": "measure", "num_runs": 2}]})
    (found,) = run(read_file(file), tmp_path, tmp_path / "out")
    assert found.plan_id is not None
    assert found.origin is not None
    assert json.loads(found.origin.scenario)["stages"][1]["mode"] == mode


def test_a_network_goes_on_from_weights_and_from_an_artefact(ran: Path, tmp_path: Path) -> None:
    out = ran / "out" / "work"
    trained = next(p for p in out.glob("train-*")) / "weights.safetensors"
    sources = [{"weights": str(trained)}, {"artefact": str(ran / "out" / "taken-away")}]
    sizes = []
    for number, source in enumerate(sources):
        model = {**SMALL["model"], **source}
        file = written(tmp_path / str(number), {**SMALL, "model": model, "stages": [{"do": "measure", "num_runs": 2}]})
        (found,) = run(read_file(file), tmp_path, tmp_path / str(number) / "out")
        sizes.append(found.costs["params"])
    assert sizes[1] < sizes[0]


def test_weights_of_another_network_are_refused(ran: Path, tmp_path: Path) -> None:
    trained = next(p for p in (ran / "out" / "work").glob("train-*")) / "weights.safetensors"
    model = {"source": "zoo:digits", "options": {"widths": [4, 8, 16]}, "weights": str(trained)}
    file = written(tmp_path, {**SMALL, "model": model})
    with pytest.raises(ArtifactError, match="in the file"):
        run(read_file(file), tmp_path, tmp_path / "out")
