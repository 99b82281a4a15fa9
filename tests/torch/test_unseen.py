"""Scores as they are expected on samples that the data has none like: `criteria.unseen`, and the criteria that use it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.criteria import BrainSurgeon, GateGradient
from secateur.torch.criteria.unseen import Unseen

SOURCES, EACH, SPARE = 4, 8, 4  # each source of samples uses units of its own; some units are used by none


def scores() -> torch.Tensor:
    """``[samples, units]``: the first units are used by one source of samples each, the last by none."""
    generator = torch.Generator().manual_seed(0)
    which = torch.arange(SOURCES).repeat_interleave(EACH)[torch.randperm(SOURCES * EACH, generator=generator)]
    used = (torch.arange(SOURCES * 4 + SPARE) // 4 == which[:, None]).double()
    return used * (1 + 0.1 * torch.rand(used.shape, generator=generator))


def answers(samples: int, classes: int, answered: int) -> torch.Tensor:
    return nn.functional.one_hot(torch.arange(samples) % answered, classes).double()


def expected(scores_SU: torch.Tensor, output: torch.Tensor, parts: int = 1) -> np.ndarray:
    told = Unseen()
    for some, out in zip(scores_SU.chunk(parts), output.chunk(parts), strict=True):
        told.add({"a": some}, out)
    return told.expected({"a": scores_SU.mean(0).numpy()})["a"]


def test_where_samples_of_one_source_say_nothing_of_another_all_units_are_expected_to_score_alike() -> None:
    values = scores()
    found = expected(values, answers(len(values), 1000, 1))
    assert found == pytest.approx(np.full(values.shape[1], float(values.mean())), rel=0.01)


def test_what_units_score_on_every_source_they_are_expected_to_score_on_others() -> None:
    generator = torch.Generator().manual_seed(2)
    values = scores() * 0.1 + torch.arange(SOURCES * 4 + SPARE) * (1 + 0.1 * torch.rand(32, 1, generator=generator))
    found = expected(values, answers(len(values), 1000, 1))
    assert found == pytest.approx(values.mean(0).numpy(), rel=0.1, abs=0.1)


def test_scores_are_as_they_are_where_every_class_is_answered() -> None:
    values = scores()
    assert (expected(values, answers(len(values), 10, 10)) == values.mean(0).numpy()).all()


def test_the_fewer_classes_are_answered_the_more_counts_what_is_expected() -> None:
    values = scores()
    spare = [expected(values, answers(len(values), 12, n))[-1] for n in (12, 9, 6, 3)]
    assert spare[0] == 0
    assert spare == sorted(spare)
    assert len(set(spare)) == 4


def test_the_order_of_units_stays() -> None:
    values = torch.rand(40, 30, generator=torch.Generator().manual_seed(1)) ** 4
    found, mean = expected(values, answers(40, 100, 2)), values.mean(0).numpy()
    assert (np.argsort(found) == np.argsort(mean)).all()


def test_neither_batches_nor_the_order_of_samples_matter() -> None:
    values = scores()
    output = answers(len(values), 100, 3)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(5))
    whole = expected(values, output)
    assert expected(values, output, parts=5) == pytest.approx(whole)
    assert expected(values[order], output[order], parts=3) == pytest.approx(whole)


@pytest.mark.parametrize(
    "output",
    [torch.rand(32, 3, 100), torch.zeros(32, 100, dtype=torch.long), torch.zeros(32)],
    ids=["maps", "integers", "one number"],
)
def test_what_answers_no_class_a_sample_says_nothing_of_others(output: torch.Tensor) -> None:
    values = scores()
    assert (expected(values, output) == values.mean(0).numpy()).all()


def test_answers_of_several_lengths_are_of_no_classes() -> None:
    values, told = scores(), Unseen()
    for part, length in zip(values.chunk(4), (5, 9, 5, 5), strict=True):
        told.add({"a": part}, torch.rand(len(part), length))
    assert (told.expected({"a": values.mean(0).numpy()})["a"] == values.mean(0).numpy()).all()


def test_too_few_samples_say_nothing_of_others() -> None:
    values = scores()[:6]
    assert (expected(values, answers(6, 100, 2)) == values.mean(0).numpy()).all()


class Experts(nn.Module):
    """Twelve classes, each told by a unit of its own beside four that all use."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.shared, self.head = nn.Linear(12, 12), nn.Linear(12, 4), nn.Linear(16, 12)
        with torch.no_grad():
            self.own.weight.copy_(3 * torch.eye(12))
            self.own.bias.zero_()
            self.head.weight[:, :12] = 3 * torch.eye(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([torch.relu(self.own(x)), torch.relu(self.shared(x))], 1))


@pytest.mark.parametrize("criterion", [GateGradient, BrainSurgeon])
def test_units_of_classes_that_nobody_gave_are_weighed_by_those_of_classes_left_out(
    criterion: type[GateGradient],
) -> None:
    torch.manual_seed(0)
    model, given = Experts().eval(), torch.arange(60) % 4  # of twelve classes
    x = torch.eye(12)[given] + 0.3 * torch.rand(60, 12)
    graph, batches = sc.trace(model, x[:2]), [(x, given)]
    measured, whole = (
        criterion(data_loader=batches, target="agreement", unseen=unseen)(graph, model)["own.out_features"]
        for unseen in (False, True)
    )
    others = slice(4, 12)
    assert measured[others].mean() < 0.01 * measured[:4].mean()  # as if nobody needed them
    assert whole[others].mean() > 0.1 * measured[:4].mean()


def test_numbers_are_no_classes() -> None:
    torch.manual_seed(0)
    model, x = Experts().eval(), torch.rand(40, 12)
    graph, batches = sc.trace(model, x[:2]), [(x, torch.rand(40, 12))]
    first, second = (
        GateGradient(data_loader=batches, loss_func=nn.MSELoss(), unseen=unseen)(graph, model)
        for unseen in (False, True)
    )
    assert all((first[name] == second[name]).all() for name in first)


def test_unseen_is_part_of_how_a_criterion_is_described() -> None:
    assert GateGradient().unseen
    assert not GateGradient(unseen=False).unseen
    assert GateGradient() != GateGradient(unseen=False)
