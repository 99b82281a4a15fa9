"""One-step search: budgets filled, calibrated, seeded, resumable, the same in several processes, better by learning."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from judged_nets import (
    INPUT,
    Batches,
    Counting,
    Encoder,
    Stopped,
    accuracy,
    digits,
    network,
    running_accuracy,
    trained,
)
from torch import nn

import secateur as sc
from secateur.errors import ArtifactError, ConfigError, Infeasible, InputError
from secateur.torch.pruners.one_step import Candidate, OneStepPruner
from secateur.torch.trace import trace

TRAIN, VALID = digits()


HALF = {"macs": "50%"}


def on_valid(model: nn.Module) -> float:
    return accuracy(model, VALID)


def searched(num_candidates: int = 6, *, seed: int = 0, checkpoint: Path | None = None) -> OneStepPruner:
    pruner = OneStepPruner(trained(), INPUT, seed=seed)
    pruner.search(on_valid, HALF, num_candidates=num_candidates, data_loader=TRAIN[:3], checkpoint=checkpoint)
    return pruner


@cache
def usual() -> OneStepPruner:
    return searched()


def test_every_candidate_fills_the_budget_and_the_results_are_best_first() -> None:
    results, whole = usual().results, usual().graph.macs
    assert sorted(candidate.index for candidate in results) == list(range(6))
    assert all(0.49 * whole <= candidate.macs <= 0.5 * whole for candidate in results)
    scores = [candidate.score for candidate in results]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert len({tuple(candidate.sizes.items()) for candidate in results}) == 6


def test_none_is_the_best_and_zero_the_first() -> None:
    pruner = usual()
    first = next(candidate for candidate in pruner.results if candidate.index == 0)
    assert pruner.plan_of(0).sizes.items() >= first.sizes.items()
    assert pruner.plan is not None
    assert pruner.plan.sizes.items() >= pruner.results[0].sizes.items()
    assert pruner.plan_of(0).provenance["index"] == 0
    assert pruner.plan.provenance["score"] == pruner.results[0].score


def test_what_is_pruned_scores_what_the_search_saw() -> None:
    pruner = usual()
    before = {name: tensor.clone() for name, tensor in pruner.model.state_dict().items()}
    small, result = pruner.prune()
    assert accuracy(small, VALID) == pruner.results[0].score
    assert result.plan == pruner.plan
    assert result.verification.passed
    assert result.macs == pruner.results[0].macs
    assert result.evidence.candidates == pruner.results
    assert result.evidence.num_measured == 6
    assert trace(small, INPUT, check=False).macs == pruner.results[0].macs
    assert all(torch.equal(before[name], tensor) for name, tensor in pruner.model.state_dict().items())


def test_a_searched_network_is_saved_and_restored(tmp_path: Path) -> None:
    small, _ = usual().prune(1)
    sc.save(small, tmp_path / "small")
    restored = sc.restore(network(), tmp_path / "small")
    assert torch.equal(restored.eval()(VALID[0][0]), small.eval()(VALID[0][0]))


def test_calibration_makes_the_difference() -> None:
    without = OneStepPruner(trained(), INPUT)
    without.search(on_valid, HALF, num_candidates=6)

    def total(results: tuple[Candidate, ...]) -> float:
        return sum(candidate.score or 0.0 for candidate in results)

    assert total(without.results) + 0.2 < total(usual().results)


def test_the_same_seed_gives_the_same_results_and_another_one_others() -> None:
    torch.manual_seed(123)
    assert searched().results == usual().results
    assert searched(seed=1).results != usual().results


def noisy(model: nn.Module) -> float:
    return float(torch.rand(()))


def test_random_numbers_of_an_evaluation_are_its_own(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    found = []
    for number in (2, 4):
        pruner = OneStepPruner(trained(), INPUT)
        found.append(pruner.search(noisy, HALF, num_candidates=number))
    by_index = [{candidate.index: candidate for candidate in results} for results in found]
    assert all(by_index[0][index] == by_index[1][index] for index in by_index[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_an_interrupted_search_repeats_nothing_and_ends_the_same(tmp_path: Path) -> None:
    first, second = Counting(4, batches=VALID), Counting(batches=VALID)
    for judge in (first, second):
        pruner = OneStepPruner(trained(), INPUT)
        try:
            pruner.search(judge, HALF, num_candidates=6, data_loader=TRAIN[:3], checkpoint=tmp_path)
        except Stopped:
            assert judge is first
    assert (first.calls, second.calls) == (4, 2)
    assert pruner.results == usual().results
    assert pruner.plan == usual().plan


def test_more_candidates_go_on_from_those_there_are(tmp_path: Path) -> None:
    judge, place = Counting(batches=VALID), tmp_path / "journal.jsonl"
    for number in (3, 6):
        pruner = OneStepPruner(trained(), INPUT)
        pruner.search(judge, HALF, num_candidates=number, data_loader=TRAIN[:3], checkpoint=place)
    assert judge.calls == 6
    assert pruner.results == usual().results


def test_the_results_are_in_a_file_best_first(tmp_path: Path) -> None:
    pruner = searched(3, checkpoint=tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["score"] for row in rows] == [candidate.score for candidate in pruner.results]
    assert [row["index"] for row in rows] == [candidate.index for candidate in pruner.results]


def test_the_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    searched(1, checkpoint=tmp_path)
    with pytest.raises(ArtifactError, match="seed"):
        searched(1, checkpoint=tmp_path, seed=5)
    other = OneStepPruner(network(), INPUT)
    with pytest.raises(ArtifactError, match="weights"):
        other.search(on_valid, HALF, num_candidates=1, data_loader=TRAIN[:3], checkpoint=tmp_path)
    less = OneStepPruner(trained(), INPUT)
    with pytest.raises(ArtifactError, match="constraints"):
        less.search(on_valid, {"macs": "60%"}, num_candidates=1, data_loader=TRAIN[:3], checkpoint=tmp_path)


def test_several_processes_give_the_results_of_one() -> None:
    found = []
    for num_processes in (1, 2):
        pruner = OneStepPruner(trained(), INPUT, seed=3, num_processes=num_processes)
        judge = partial(running_accuracy, batches=VALID)
        pruner.search(judge, HALF, num_candidates=12, data_loader=TRAIN[:3])
        found.append(pruner.results)
    assert found[0] == found[1]
    assert not all(candidate.finished for candidate in found[0])


def failing(model: nn.Module, log: str) -> float:
    """Good for three calls, in whatever process."""
    with open(log, "a+") as file:
        file.write("call\n")
        file.seek(0)
        if len(file.readlines()) > 3:
            raise Stopped("enough")
    with open(log + ".finished", "a") as file:
        file.write("call\n")
    return 1.0


def test_a_failure_in_another_process_loses_no_finished_candidate(tmp_path: Path) -> None:
    log, pruner = tmp_path / "log", OneStepPruner(trained(), INPUT, num_processes=2)
    with pytest.raises(Stopped, match="enough"):
        pruner.search(partial(failing, log=str(log)), HALF, num_candidates=8, checkpoint=tmp_path / "search")
    finished = (tmp_path / "log.finished").read_text().splitlines()
    assert len(finished) == 3
    assert len((tmp_path / "search" / "journal.jsonl").read_text().splitlines()) == 1 + 3


def test_a_function_that_cannot_be_sent_is_named() -> None:
    pruner = OneStepPruner(trained(), INPUT, num_processes=2)
    with pytest.raises(InputError, match="score_func cannot be sent"):
        pruner.search(lambda model: 0.0, HALF, num_candidates=2)


class Watched:
    """Yields running accuracies of one image each ten, and remembers how many were asked for."""

    def __init__(self, batches: Batches) -> None:
        self.seen: list[int] = []
        self.batches = batches

    def __call__(self, model: nn.Module) -> Iterator[tuple[float, float]]:
        self.seen.append(0)
        for share, score in running_accuracy(model, self.batches):
            self.seen[-1] += 1
            yield share, score


def test_candidates_that_fall_behind_are_abandoned_and_ranked_last() -> None:
    parts = [(x, y) for big, labels in VALID for x, y in zip(big.split(24), labels.split(24), strict=True)]
    watched, pruner = Watched(parts), OneStepPruner(trained(), INPUT)
    results = pruner.search(watched, {"macs": "40%"}, num_candidates=14, data_loader=TRAIN[:2])
    assert watched.seen[:8] == [10] * 8
    cut = [candidate for candidate in results if not candidate.finished]
    assert cut
    assert sum(watched.seen) == round(10 * sum(candidate.share for candidate in results))
    assert results[-len(cut) :] == tuple(cut)
    assert all(candidate.share < 1 for candidate in cut)


def test_later_candidates_learn_from_the_scores() -> None:
    layers = [layer for _ in range(5) for layer in (nn.Linear(64, 64), nn.ReLU())]
    pruner = OneStepPruner(nn.Sequential(*layers, nn.Linear(64, 4)), torch.zeros(2, 64))

    def judge(narrowed: nn.Module) -> float:
        return sum(max(narrowed[i].out_features - 40, 0) * sign for i, sign in zip((0, 2, 4, 6, 8), (1, -1, 1, -1, 1)))

    results = pruner.search(judge, {"macs": "40%"}, num_candidates=40)
    early = [c.score for c in results if c.index < 16 and c.score is not None]
    late = [c.score for c in results if c.index >= 24 and c.score is not None]
    assert sum(late) / len(late) > sum(early) / len(early)


def test_a_space_with_few_networks_ends_the_search() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4))
    found = OneStepPruner(model, torch.zeros(2, 8)).search(lambda m: 0.0, HALF, num_candidates=50)
    assert 1 <= len(found) <= 4


def test_attention_is_searched_too() -> None:
    pruner = OneStepPruner(Encoder().eval(), torch.zeros(2, 1, 8, 8), limits={"multiple_of": 2})
    results = pruner.search(on_valid, HALF, num_candidates=3)
    assert all(0.45 <= candidate.macs / pruner.graph.macs <= 0.5 for candidate in results)
    assert pruner.prune()[0](VALID[0][0]).shape == (120, 10)


def test_a_score_that_is_no_number_is_ranked_last() -> None:
    pruner = OneStepPruner(trained(), INPUT)
    results = pruner.search(lambda m: float("nan") if m[0].out_channels < 10 else 1.0, HALF, num_candidates=6)
    assert results[0].score == 1.0
    assert results[-1].score is None
    with pytest.raises(InputError, match="no finite number for any of the candidates"):
        pruner.search(lambda m: float("nan"), HALF, num_candidates=3)


def test_what_cannot_be_used_is_refused() -> None:
    pruner = OneStepPruner(trained(), INPUT)
    with pytest.raises(InputError, match="nothing was searched"):
        pruner.prune()
    assert pruner.plan is None
    with pytest.raises(InputError, match="num_candidates"):
        pruner.search(on_valid, HALF, num_candidates=0)
    with pytest.raises(InputError, match="num_processes"):
        OneStepPruner(trained(), INPUT, num_processes=0)
    with pytest.raises(ConfigError, match="macs"):
        pruner.search(on_valid, {"macs": "150%"}, num_candidates=2)
    with pytest.raises(Infeasible):
        pruner.search(on_valid, {"macs": "0.001%"}, num_candidates=2)
    with pytest.raises(InputError, match="share of the data"):
        pruner.search(lambda m: (yield 2.0, 1.0), HALF, num_candidates=1)
    with pytest.raises(InputError, match="no candidate 17"):
        usual().prune(17)


KILLED = """
import os, signal, sys
from judged_nets import *
from secateur.torch.pruners.one_step import OneStepPruner
class Dying(Counting):
    def __call__(self, model):
        if self.calls == self.stop_at: os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(model)
train, valid = digits()
options = {"num_candidates": 8, "data_loader": train[:3], "checkpoint": sys.argv[1]}
OneStepPruner(network(), INPUT).search(Dying(5, batches=valid), {"macs": "50%"}, **options)
"""


def test_a_killed_search_goes_on_where_it_was(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    threads = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    judge, resumed, straight = Counting(batches=VALID), OneStepPruner(network(), INPUT), OneStepPruner(network(), INPUT)
    resumed.search(judge, HALF, num_candidates=8, data_loader=TRAIN[:3], checkpoint=tmp_path)
    straight.search(Counting(batches=VALID), HALF, num_candidates=8, data_loader=TRAIN[:3])
    assert judge.calls == 3
    assert resumed.results == straight.results
    assert resumed.plan == straight.plan
