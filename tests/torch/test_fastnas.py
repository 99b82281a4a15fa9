"""FastNAS: what each width costs is measured once, with batch norm measured again, and every constraint is met."""

from __future__ import annotations

import copy
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import ArtifactError, DeadNetwork, Infeasible, InputError
from secateur.modes import FastNAS, Task
from secateur.search.journal import FILE_NAME
from secateur.torch.frontend import TorchFrontend
from secateur.torch.running.batch_norm import reestimate_batch_norm

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(48, 3, 8, 8, generator=GENERATOR)
LOADER = [(X[i : i + 16], torch.zeros(16)) for i in (0, 16, 32)]
WHOLE = {"0.out_channels": 12, "3.out_channels": 16, "8.out_features": 10}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
        nn.ReLU(),
        nn.Linear(10, 4),
    )
    reestimate_batch_norm(model, LOADER)
    return model.eval()


TARGET = network()(X).detach()


class Score:
    """How near the outputs are to those of the whole network, and a record of what was asked."""

    def __init__(self) -> None:
        self.widths: list[tuple[int, int, int]] = []
        self.means: list[torch.Tensor] = []
        self.training: list[bool] = []

    def __call__(self, model: Any) -> float:
        if not model[0].weight.any():  # the constant network, which is asked for where a result is in doubt
            return -float((model(X) - TARGET).square().mean())
        self.widths.append((model[0].out_channels, model[3].out_channels, model[8].out_features))
        self.means.append(model[1].running_mean.clone())
        self.training.append(any(m.training for m in model.modules()))
        assert not torch.is_grad_enabled()
        return -float((model(X) - TARGET).square().mean())


def search(score: Any, constraints: dict[str, Any] | None = None, model: int = 0, **config: Any) -> sc.PruneResult:
    config = {"data_loader": LOADER, "score_func": score, "verify": False, **config}
    return sc.prune(network(model), "fastnas", constraints or {"macs": "50%"}, X[:1], config)[1]


def task_of(model: nn.Module, mode: FastNAS) -> Task:
    graph = sc.trace(model, X[:1])
    budget = sc.Budget.of({"macs": "50%"}, graph)
    frontend = TorchFrontend.of(model, graph, mode)
    return Task(graph=graph, frontend=frontend, budget=budget, tell=lambda share, word: None)


def test_each_width_is_measured_alone_in_evaluation_mode_at_every_choice_where_there_are_few() -> None:
    score = Score()

    def falling(model: Any) -> float:
        score(model)
        return -sum(1 / width for width in score.widths[-1])

    candidates = search(falling, most_points=100).evidence.candidates
    whole = tuple(WHOLE.values())
    assert score.widths[0] == whole
    assert not any(score.training)
    alone = score.widths[1 : -len(candidates)]
    narrowed = [[w for w, most in zip(widths, whole, strict=True) if w < most] for widths in alone]
    assert all(len(one) == 1 for one in narrowed)
    assert len(set(alone)) == len(alone) == 11 + 15 + 9


def test_a_model_in_training_is_scored_in_evaluation_mode_and_goes_on_training() -> None:
    score, model = Score(), network().train()
    config = {"data_loader": LOADER, "score_func": score, "max_evaluations": 2, "verify": False}
    sc.prune(model, "fastnas", {"macs": "60%"}, X[:1], config)
    assert len(score.training) >= 3
    assert not any(score.training)
    assert all(m.training for m in model.modules())


def test_batch_norm_is_measured_again_for_each_candidate_and_put_back() -> None:
    score, model = Score(), network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Infeasible):
        sc.prune(model, "fastnas", {"macs": 3}, X[:1], {"data_loader": LOADER, "score_func": score})
    assert not score.widths  # refused before any search

    def fails(model: Any) -> float:
        score(model)
        if len(score.widths) == 9:
            raise RuntimeError("power cut")
        return float(sum(score.widths[-1]))

    with pytest.raises(RuntimeError, match="power cut"):
        sc.prune(model, "fastnas", {"macs": "50%"}, X[:1], {"data_loader": LOADER, "score_func": fails})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    conv = nn.Sequential(network()[0])
    own = torch.stack([conv(x).mean((0, 2, 3)) for x, _ in LOADER]).mean(0)
    for widths, mean in zip(score.widths, score.means, strict=True):
        if widths[0] == 12:
            assert mean.allclose(own, atol=1e-5)
        else:
            assert mean.shape == (widths[0],)
            assert all(torch.isclose(own, value, atol=1e-5).any() for value in mean)


@pytest.mark.parametrize(
    "constraints", [{"macs": "50%"}, {"flops": "30%"}, {"params": "60%", "macs": "40%"}, {"weight_bytes": "20%"}]
)
@pytest.mark.parametrize("most", [None, 1, 4])
def test_every_constraint_is_met_and_nearly_used_up_whatever_was_measured(constraints: Any, most: int | None) -> None:
    score = Score()
    result = search(score, constraints, max_evaluations=most)
    used = []
    for metric, share in constraints.items():
        name = "macs" if metric == "flops" else metric
        used.append(result.after[name] / (result.before[name] * float(share[:-1]) / 100))
    assert 0.8 < max(used) <= 1
    assert most is None or len(score.widths) == 1 + most + len(result.evidence.candidates)


@pytest.mark.parametrize("share", ["1.9%", "100%"])
def test_the_smallest_and_the_whole_network_can_be_had(share: str) -> None:
    graph = sc.trace(network(), X[:1])
    smallest = graph.cost("macs", dict.fromkeys(WHOLE, 1))
    bound = smallest if share == "1.9%" else share
    result = search(Score(), {"macs": bound}, max_evaluations=3)
    assert result.macs == (smallest if share == "1.9%" else result.before["macs"])


def test_units_that_do_nothing_are_found_and_go_first() -> None:
    model = network()
    with torch.no_grad():
        model[8].weight[4:] = 0  # six features that are always zero
        model[8].bias[4:] = 0
    target = model(X).detach()
    params = sum(p.numel() for p in model.parameters())

    def score(model: Any) -> float:
        return -float((model(X) - target).square().mean())

    bound = params - 6 * (16 + 1 + 4)
    result = sc.prune(model, "fastnas", {"params": bound}, X[:1], {"data_loader": LOADER, "score_func": score})[1]
    assert result.plan.kept == {"8.out_features": (0, 1, 2, 3)}


def test_a_search_with_another_constraint_repeats_no_evaluation(tmp_path: Path) -> None:
    score = Score()
    fresh = search(score, {"macs": "30%"})
    first = search(Score(), {"macs": "60%"}, checkpoint=tmp_path / "search")
    lines = (tmp_path / "search" / FILE_NAME).read_text().splitlines()
    assert 1 + len(score.widths) - len(lines) in range(-6, 7), "the same widths alone, other plans at the end"
    again = Score()
    second = search(again, {"macs": "30%"}, checkpoint=tmp_path / "search")
    assert len(again.widths) <= 6, "nothing but the plans for the new constraint"
    assert search(again, {"macs": "30%"}, checkpoint=tmp_path / "search").plan == second.plan
    assert len(again.widths) <= 6
    assert second.plan == fresh.plan != first.plan


def test_a_larger_allowance_makes_only_the_evaluations_that_are_missing(tmp_path: Path) -> None:
    some, more = Score(), Score()
    first = search(some, max_evaluations=5, checkpoint=tmp_path).evidence
    search(more, max_evaluations=9, checkpoint=tmp_path)
    assert len(some.widths) == 6 + len(first.candidates)
    assert 4 <= len(more.widths) <= 4 + 6
    assert not set(some.widths) & set(more.widths[:4])


def test_other_limits_use_the_same_journal(tmp_path: Path) -> None:
    search(Score(), checkpoint=tmp_path)
    score = Score()
    result = search(score, checkpoint=tmp_path, exclude=["0.out_channels"], constraints={"macs": "70%"})
    assert len(score.widths) == len(result.evidence.candidates), "nothing but the plans within the new limits"
    assert result.plan.sizes["0.out_channels"] == 12


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": 1}, "weights"),
        ({"seed": 1}, "seed"),
        ({"criterion": "l2"}, "criterion"),
        ({"data_loader": LOADER[1:]}, "data"),
        ({"num_batches": 2}, "num_batches"),
        ({"score_func": lambda model: 0.5}, "score_func"),
    ],
)
def test_a_journal_of_another_search_is_refused_naming_what_differs(changed: Any, says: str, tmp_path: Path) -> None:
    search(Score(), checkpoint=tmp_path, max_evaluations=1)
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ArtifactError, match=says):
        search(**{"score": Score(), "checkpoint": tmp_path, "max_evaluations": 1, **changed})
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_the_journal_of_another_architecture_is_refused(tmp_path: Path) -> None:
    search(Score(), checkpoint=tmp_path, max_evaluations=1)
    other = nn.Sequential(*list(network())[:8], nn.Linear(16, 4)).eval()
    config = {"data_loader": LOADER, "score_func": Score(), "checkpoint": tmp_path}
    with pytest.raises(ArtifactError, match="model"):
        sc.prune(other, "fastnas", {"macs": "50%"}, X[:1], config)


def test_the_same_seed_gives_the_same_plan_from_a_shuffling_loader_and_a_noisy_score() -> None:
    data = torch.utils.data.TensorDataset(X, torch.zeros(len(X)))
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)

    def noisy(model: Any) -> float:
        return float(-(model(X) - TARGET).square().mean() + torch.randn(()) + np.random.rand())

    plans = []
    for outside in (1, 2):
        torch.manual_seed(outside)
        np.random.seed(outside)
        plans.append(search(noisy, data_loader=loader, max_evaluations=6).plan)
    assert plans[0] == plans[1]
    assert search(noisy, data_loader=loader, max_evaluations=6, seed=1).plan != plans[0]


def test_a_search_draws_no_random_number_outside() -> None:
    mode = FastNAS.read({"score_func": lambda model: float(torch.randn(())), "max_evaluations": 2})
    task = task_of(network(), mode)
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="data"):
        mode.search(task)
    assert torch.equal(torch.randn(3), expected)


def test_batches_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(list):
        reads = 0

        def __iter__(self):
            Counting.reads += 1
            return super().__iter__()

    from secateur.torch.evaluating import evaluator

    plan = search(Score(), data_loader=Counting(LOADER), max_evaluations=4).plan
    once = Counting.reads
    monkeypatch.setattr(
        evaluator, "MOST_BYTES", 1000
    )  # too large to keep: read for every candidate, with the same result
    assert search(Score(), data_loader=Counting(LOADER), max_evaluations=4).plan == plan
    assert Counting.reads - once >= once + 4


def test_a_forward_loop_will_do_for_data() -> None:
    def loop(model: nn.Module) -> None:
        for x, _ in LOADER:
            model(x)

    plan = search(Score(), max_evaluations=4).plan
    assert search(Score(), data_loader=None, forward_loop=loop, max_evaluations=4).plan == plan


def test_a_candidate_without_a_finite_score_is_the_worst_and_does_not_end_the_search() -> None:
    def score(model: Any) -> float:
        return float("nan") if model[0].out_channels < 6 else Score()(model)

    result = search(score)
    assert result.plan.sizes["0.out_channels"] >= 6
    assert result.evidence.sensitivity is not None
    assert None in result.evidence.sensitivity.scores["0.out_channels"].values()


def test_the_evidence_says_what_was_measured_and_what_was_read_from_the_journal(tmp_path: Path) -> None:
    first = search(Score(), max_evaluations=5, checkpoint=tmp_path).evidence
    again = search(Score(), {"macs": "30%"}, max_evaluations=7, checkpoint=tmp_path).evidence
    assert (first.num_measured, first.num_read) == (6 + len(first.candidates), 0)
    assert (again.num_measured, again.num_read) == (2 + len(again.candidates), 6)
    assert again.sensitivity is not None
    assert sum(map(len, again.sensitivity.scores.values())) == 7
    assert set(again.losses) == set(WHOLE)
    told = json.loads(again.to_json())
    assert told["sensitivity"]["whole"] == again.sensitivity.whole
    assert told["curves"]["3.out_channels"]["16"] == 0
    assert "6 read from the journal" in str(again)
    assert again.candidates[0].score == max(one.score for one in again.candidates if one.score is not None)
    assert again.candidates[0].name in str(again)


def test_no_result_is_worse_than_that_of_the_criterion_alone() -> None:
    found = search(Score(), {"macs": "30%"}, max_evaluations=1)
    alone = sc.plan(sc.trace(network(), X[:1]), "l1", {"macs": "30%"})
    scores = {one.name: one.score for one in found.evidence.candidates}
    assert max(score for score in scores.values() if score is not None) == found.evidence.candidates[0].score
    assert {name: alone.sizes[name] for name in WHOLE} in [one.sizes for one in found.evidence.candidates]
    assert found.plan.provenance["score"] == found.evidence.candidates[0].score


def test_a_network_that_is_no_better_than_a_constant_one_is_an_error_with_the_way_out() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())

    def right_only_when_whole(model: Any) -> float:
        return 0.95 if model[3].out_channels == 16 and model[3].weight.abs().sum() > 0 else 0.11

    config = {"data_loader": LOADER, "score_func": right_only_when_whole, "max_evaluations": 3}
    with pytest.raises(
        DeadNetwork, match=r"constant one 0\.11.*floor=0\.2.*max_evaluations, now 3.*least_squares"
    ) as error:
        sc.prune(model, "fastnas", {"macs": "5%"}, X[:1], config)
    assert (error.value.score, error.value.whole, error.value.constant) == (0.11, 0.95, 0.11)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_score_that_cannot_tell_a_network_from_a_constant_one_raises_nothing() -> None:
    assert search(lambda model: model[3].out_channels / 16, {"macs": "20%"}, max_evaluations=3).plan.kept


@pytest.mark.parametrize(
    ("entry", "says"),
    [({"score": "high"}, "does not record"), ({"sizes": {"0.out_channels": 3}, "score": 1.0}, "another network")],
)
def test_a_journal_with_wrong_values_is_refused(entry: dict[str, Any], says: str, tmp_path: Path) -> None:
    search(Score(), max_evaluations=1, checkpoint=tmp_path)
    header, *lines = (tmp_path / FILE_NAME).read_text().splitlines()
    first = {"key": json.loads(lines[0])["key"], "values": entry}
    line = json.dumps({**first, "crc32": zlib.crc32(json.dumps(first).encode())})
    (tmp_path / FILE_NAME).write_text("\n".join([header, line, *lines[1:]]) + "\n")
    with pytest.raises(ArtifactError, match=says):
        search(Score(), max_evaluations=1, checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"score_fun": 1}, "score_func"),
        ({"max_evaluations": 0}, "max_evaluations"),
        ({"criterion": "l3"}, "l1"),
        ({"objective": "mean"}, "objective"),
        ({"score_func": lambda model: float("nan")}, "finite"),
        ({"score_func": lambda model: "good"}, "number"),
        ({"score_func": None}, "score_func"),
        ({"checkpoint": 3}, "checkpoint"),
    ],
)
def test_an_option_that_cannot_be_used_is_an_error_that_names_it(config: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        search(**{"score": Score(), **config})


def test_batch_norm_without_data_is_said() -> None:
    with pytest.warns(UserWarning, match="data_loader"):
        search(Score(), data_loader=None, max_evaluations=1)


def test_verbose_shows_what_was_measured_and_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    search(Score(), max_evaluations=4, verbose=True)
    printed = capsys.readouterr().out
    assert "Profiling" in printed
    assert "Sensitivity" in printed
    assert "3.out_channels" in printed
    search(Score(), max_evaluations=1)
    assert capsys.readouterr().out == ""


def test_in_several_rounds_each_has_a_journal_of_its_own(tmp_path: Path) -> None:
    mode = FastNAS.read({"score_func": Score(), "steps": 3, "checkpoint": tmp_path, "data_loader": LOADER})
    places = set()
    for width in (12, 8):
        model = network()
        small = sc.apply(model, sc.trace(model, X[:1]).plan({"0.out_channels": range(width)}))
        mode.search(task_of(small, mode))
        places |= {p.name for p in tmp_path.iterdir()}
    assert len(places) == 2
    for place in places:
        assert json.loads((tmp_path / place).read_text().splitlines()[0])["header"]["method"] == "fastnas"
