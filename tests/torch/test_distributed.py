"""Two processes over gloo (a file as the meeting place): the same statistics, the same plan or none, the same weights.

Both ranks run every scenario once, in one start, and write what they saw; the tests below read it.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import secateur as sc
from secateur.core.plan import digest_of
from secateur.torch.compensation import Compensator
from secateur.torch.criteria.protocol import make
from secateur.torch.running.batch_norm import reestimate_batch_norm
from secateur.torch.running.data import Data
from secateur.torch.running.distributed import agree, rank, reduce_sum, world_size
from secateur.torch.training.finetune import finetune
from secateur.torch.training.optimizer import remap_optimizer

RANKS = 2
DATA_DRIVEN = ("second_moment", "apoz", "mean_rank", "taylor", "gate_gradient", "fisher")
X = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(64) % 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 64, 8)]


def numbers(model: nn.Module) -> list[float]:
    return [value for tensor in model.state_dict().values() for value in tensor.double().reshape(-1).tolist()]


def summing() -> Any:
    found = [torch.full((2,), float(rank() + 1)), torch.tensor(rank() + 10), torch.ones(3, 2).t()]
    reduce_sum(found)
    return [world_size(), [tensor.tolist() for tensor in found]]


def a_group_of_its_own() -> Any:
    """Each rank in a group with nobody else: nothing of the other one's comes in."""
    mine = [dist.new_group([number]) for number in range(RANKS)][rank()]
    found, model = torch.full((2,), float(rank() + 1)), network()
    reduce_sum([found], mine)
    data = Data(loader=batches()[:5] if rank() == 0 else batches()[5:], group=mine)
    used = reestimate_batch_norm(model, data)
    scores = make("taylor", data)(sc.trace(model.eval(), X[:1]), model)
    return [world_size(mine), found.tolist(), used, numbers(model), {n: v.tolist() for n, v in scores.items()}]


def tuned(data: Data) -> list[float]:
    """What a network's numbers are once it was compensated and fine-tuned on this data."""
    model = network().eval()
    compensator = Compensator(model, data, method="answers", original=network().eval())
    plan = sc.plan(sc.trace(model, X[:1]), "l1", {"macs": "60%"})
    sc.apply(model, plan, in_place=True)
    compensator.fit(model, plan)
    finetune(model, data, epochs=1, config={"amp": "off"})
    return numbers(model)


def tuning_in_a_group_of_its_own() -> Any:
    mine = [dist.new_group([number]) for number in range(RANKS)][rank()]
    return tuned(Data(loader=batches()[:5] if rank() == 0 else batches()[5:], group=mine))


def tuning_in_a_group_of_all() -> Any:
    together = dist.new_group(list(range(RANKS)))
    return tuned(Data(loader=batches()[:4] if rank() == 0 else batches()[4:], group=together))


def batch_norm() -> Any:
    model = network()
    mine = batches()[:5] if rank() == 0 else batches()[5:]
    return [reestimate_batch_norm(model, mine), numbers(model)]


def batch_norm_of_an_idle_rank() -> Any:
    model = network()
    return [reestimate_batch_norm(model, batches() if rank() == 0 else []), numbers(model)]


def judged(loader: Any) -> dict[str, dict[str, list[float]]]:
    """The scores of every criterion that looks at data, on a network that is the same everywhere."""
    model = network().eval()
    graph = sc.trace(model, X[:1])
    found = {name: make(name, Data(loader=loader))(graph, model) for name in DATA_DRIVEN}
    return {name: {width: values.tolist() for width, values in scores.items()} for name, scores in found.items()}


def criteria() -> Any:
    return judged(batches()[:4] if rank() == 0 else batches()[4:])


def same_plan() -> Any:
    digest = digest_of(sc.plan(sc.trace(network().eval(), X[:1]), "l1", {"macs": "50%"}))
    agree("the plan", digest)
    return digest


def other_plan() -> Any:
    criterion = "l1" if rank() == 0 else sc.criteria.Random(seed=3)
    model = network().eval()
    agree("the plan", digest_of(sc.plan(sc.trace(model, X[:1]), criterion, {"macs": "50%"})))


def fine_tuning() -> Any:
    model = network().eval()
    sc.prune(model, "magnitude", {"macs": "50%"}, X[:1])
    wrapped = nn.parallel.DistributedDataParallel(model)
    data = TensorDataset(X, Y)
    loader = DataLoader(data, batch_size=8, sampler=DistributedSampler(data, seed=1))
    result = finetune(wrapped, loader, epochs=2, score_func=lambda m: float(rank()))
    first = numbers(model)
    finetune(model, loader, epochs=1)  # wrapped for the length of the call
    return [result.losses, result.scores, first, numbers(model)]


def remapping() -> Any:
    model = network()
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = batches()[rank()]
    nn.functional.cross_entropy(wrapped(x), y).backward()
    optimizer.step()
    sc.apply(model, sc.plan(sc.trace(model, X[:1]), "l1", {"macs": "50%"}), in_place=True)
    remap_optimizer(optimizer, wrapped)
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer.zero_grad()
    nn.functional.cross_entropy(wrapped(x), y).backward()
    optimizer.step()
    return [p.detach().reshape(-1).tolist() for p in model.parameters()]


def other_lengths() -> Any:
    finetune(network(), batches()[: 3 + rank()], epochs=1)


SCENARIOS: tuple[Callable[[], Any], ...] = (
    summing,
    a_group_of_its_own,
    tuning_in_a_group_of_its_own,
    tuning_in_a_group_of_all,
    batch_norm,
    batch_norm_of_an_idle_rank,
    criteria,
    same_plan,
    other_plan,
    fine_tuning,
    remapping,
    other_lengths,
)


def one_rank(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=number, world_size=RANKS)
    seen: dict[str, Any] = {}
    for scenario in SCENARIOS:
        try:
            seen[scenario.__name__] = {"gave": scenario()}
        except Exception as error:
            seen[scenario.__name__] = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    Path(folder, f"{number}.json").write_text(json.dumps(seen), "utf-8")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # gloo's own links stay on this machine
    try:
        multiprocessing.spawn(one_rank, args=(str(folder),), nprocs=RANKS)
    finally:
        os.environ.pop("GLOO_SOCKET_IFNAME")
        if before is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = before
    return [json.loads((folder / f"{number}.json").read_text("utf-8")) for number in range(RANKS)]


def gave(ranks: list[dict[str, Any]], scenario: Callable[[], Any]) -> list[Any]:
    outcomes = [seen[scenario.__name__] for seen in ranks]
    assert all("gave" in outcome for outcome in outcomes), outcomes
    return [outcome["gave"] for outcome in outcomes]


def errors(ranks: list[dict[str, Any]], scenario: Callable[[], Any]) -> list[str]:
    return [seen[scenario.__name__]["error"] for seen in ranks]


def test_sums_are_the_same_on_every_rank_in_place(ranks: list[dict[str, Any]]) -> None:
    expected = [2, [[3.0, 3.0], 21, [[2.0] * 3] * 2]]
    assert gave(ranks, summing) == [expected, expected]


def test_a_group_adds_up_among_its_own_ranks_only(ranks: list[dict[str, Any]]) -> None:
    for number, mine in enumerate((batches()[:5], batches()[5:])):
        size, found, used, state, scores = gave(ranks, a_group_of_its_own)[number]
        alone = network()
        assert (size, found, used) == (1, [number + 1.0] * 2, len(mine))
        assert reestimate_batch_norm(alone, mine) == len(mine)
        assert state == pytest.approx(numbers(alone), rel=1e-5, abs=1e-6)
        expected = make("taylor", Data(loader=mine))(sc.trace(alone.eval(), X[:1]), alone)
        assert all(scores[name] == pytest.approx(values.tolist(), rel=1e-4) for name, values in expected.items())


def test_compensation_and_training_stay_within_their_group(ranks: list[dict[str, Any]]) -> None:
    for number, mine in enumerate((batches()[:5], batches()[5:])):
        assert gave(ranks, tuning_in_a_group_of_its_own)[number] == pytest.approx(
            tuned(Data(loader=mine)), rel=1e-4, abs=1e-5
        )


def test_compensation_and_training_in_a_group_give_all_of_it_one_network(ranks: list[dict[str, Any]]) -> None:
    first, second = gave(ranks, tuning_in_a_group_of_all)
    assert first == second
    assert first != pytest.approx(tuned(Data(loader=batches()[:4])), rel=1e-3)


@pytest.mark.parametrize("scenario", [batch_norm, batch_norm_of_an_idle_rank])
def test_batch_norm_statistics_are_those_of_one_process_with_all_batches(
    ranks: list[dict[str, Any]], scenario: Callable[[], Any]
) -> None:
    alone = network()
    assert reestimate_batch_norm(alone, batches()) == 8
    first, second = gave(ranks, scenario)
    assert first == second
    assert first[0] == 8
    assert first[1] == pytest.approx(numbers(alone), rel=1e-5, abs=1e-6)


def test_criteria_judge_by_the_batches_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    alone = judged(batches())
    first, second = gave(ranks, criteria)
    assert first == second
    for name, scores in alone.items():
        assert scores.keys() == first[name].keys()
        for width, values in scores.items():
            assert first[name][width] == pytest.approx(values, rel=1e-4, abs=1e-7), (name, width)


def test_equal_plans_agree(ranks: list[dict[str, Any]]) -> None:
    first, second = gave(ranks, same_plan)
    assert first == second
    assert len(first) == 64


def test_other_plans_abort_every_rank_and_name_who_differs(ranks: list[dict[str, Any]]) -> None:
    for error in errors(ranks, other_plan):
        assert error.startswith("SecateurError: the ranks do not agree on the plan: rank 1 (")
        assert "differs from rank 0" in error


def test_fine_tuning_after_pruning_gives_every_rank_the_same_network(ranks: list[dict[str, Any]]) -> None:
    first, second = gave(ranks, fine_tuning)
    assert first == second
    losses, scores, before, after = first
    assert losses[1] < losses[0]
    assert scores == [0.5, 0.5]  # the mean of both ranks
    assert before != after


def test_an_optimizer_goes_on_under_ddp_after_pruning(ranks: list[dict[str, Any]]) -> None:
    first, second = gave(ranks, remapping)
    assert first == second


def test_ranks_with_other_numbers_of_batches_are_stopped(ranks: list[dict[str, Any]]) -> None:
    for error in errors(ranks, other_lengths):
        assert "do not agree on the number of batches" in error


def test_alone_nothing_is_reduced_or_asked() -> None:
    tensor = torch.ones(3)
    reduce_sum([tensor])
    agree("anything", "at all")
    assert (rank(), world_size(), tensor.tolist()) == (0, 1, [1.0, 1.0, 1.0])


def test_a_digest_is_of_what_a_plan_does_only() -> None:
    graph = sc.trace(network().eval(), X[:1])
    first = sc.plan(graph, "l1", sizes={"0.out_channels": 8})
    second = sc.plan(graph, "l1", {"params": first.provenance["costs"]["params"]}, limits={"only": ["0.out_channels"]})
    assert first.kept == second.kept
    assert digest_of(first) == digest_of(second)
    assert digest_of(first) != digest_of(sc.plan(graph, "l1", sizes={"0.out_channels": 9}))
