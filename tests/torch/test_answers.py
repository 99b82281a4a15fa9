"""``compensate="answers"``: all weights fitted together to what the whole network answers."""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.torch.compensation import Compensator
from secateur.torch.compensation.answers import _Fitter, fit_to_answers
from secateur.torch.compensation.lesson import Lesson, has_no_answer
from secateur.torch.compensation.supply import Portion, in_turn
from secateur.torch.running.data import Data
from secateur.torch.running.example import Example


def _lesson(x: torch.Tensor, size: int = 32) -> Lesson:
    batches = list(x.split(size))
    held_out = [torch.arange(len(batch)) % 4 == 0 for batch in batches]
    return Lesson(data=Data(loader=batches), batches=batches, held_out=held_out)


def _silent(share: float, word: str) -> None: ...


def _apart(a: nn.Module, b: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((a.eval()(x) - b.eval()(x)).square().sum(1).mean() / 2)


def _of_rank(rank: int) -> torch.Tensor:
    """Samples whose features repeat each other, so that what is removed can be given back."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(256, rank, generator=generator) @ torch.randn(rank, 12, generator=generator)


def test_a_linear_layer_gets_what_least_squares_gives() -> None:
    torch.manual_seed(0)
    x = _of_rank(5) + 0.1 * torch.randn(256, 12) + 2
    original = nn.Linear(12, 6)
    student = nn.Sequential(nn.Linear(8, 6))
    shorter = x[:, :8]
    start = student(shorter)
    batches = list(shorter.split(32))
    held = [torch.arange(32) % 4 == 0 for _ in batches]
    wanted = original(x).detach()
    teacher = nn.Sequential(_Answers(shorter, wanted))
    fit_to_answers(student, teacher, Lesson(data=Data(loader=batches), batches=batches, held_out=held), _silent)
    used = (torch.arange(256) % 32) % 4 != 0
    ones = torch.cat([shorter, torch.ones(256, 1)], 1)
    best = torch.linalg.lstsq(ones[used], wanted[used]).solution
    before, left, least = (float((wanted - y).square().mean()) for y in (start, student(shorter), ones @ best))
    assert left - least <= 1e-3 * (before - least)


class _Answers(nn.Module):
    """Knows the answer to each sample."""

    def __init__(self, x: torch.Tensor, answers: torch.Tensor) -> None:
        super().__init__()
        self.x, self.answers = x, answers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answers[torch.cdist(x, self.x).argmin(1)]


class _Everything(nn.Module):
    """Convolutions of every kind, a batch norm, an activation that works in place."""

    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, hidden, 3, padding=1), nn.BatchNorm2d(hidden)
        self.deep = nn.Conv2d(hidden, hidden, 3, padding="same", groups=hidden, bias=False)
        self.grouped = nn.Conv2d(hidden, 8, 3, stride=2, groups=2)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.relu_(self.norm(self.stem(x)))
        h = self.grouped(nn.functional.silu(self.deep(h)))
        return self.head(self.up(h).relu().mean((2, 3)))


def test_answers_to_samples_never_seen_come_nearer_through_convolutions_of_every_kind() -> None:
    torch.manual_seed(0)
    original = _Everything().eval()
    student = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    x, fresh = torch.randn(128, 2, 8, 8), torch.randn(64, 2, 8, 8)
    before = _apart(student, original, fresh)
    done = fit_to_answers(student, original, _lesson(x), _silent)
    assert done is not None
    assert done.steps >= 1
    assert done.after < done.before
    assert _apart(student, original, fresh) < 0.9 * before


class _Tied(nn.Module):
    """A weight with two places, one that does not train, and a bias that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.a, self.b, self.frozen = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.bias = self.a.bias
        self.frozen.weight.requires_grad_(False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.b(torch.tanh(self.a(self.embed(ids).mean(1))))
        return torch.tanh(self.frozen(h)) @ self.embed.weight.T


def test_weights_with_two_places_and_frozen_ones_stay_bit_for_bit() -> None:
    torch.manual_seed(0)
    original = _Tied()
    student = copy.deepcopy(original)
    with torch.no_grad():
        student.a.weight.mul_(0.5)
    was = copy.deepcopy(student.state_dict())
    done = fit_to_answers(student, original, _lesson(torch.randint(9, (64, 4)), 16), _silent)
    assert done is not None
    assert done.steps >= 1
    changed = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, was[name])}
    assert changed <= {"a.weight", "b.weight", "frozen.bias"}
    assert "a.weight" in changed


@pytest.mark.parametrize(
    ("samples", "size", "steps"),
    [(512, 32, (4, 4)), (300, 60, (2, 3)), (128, 16, (1, 8)), (512, 512, (1, 1))],
    ids=["parts", "the last part is filled up", "too few for parts", "a single batch"],
)
def test_a_step_looks_at_a_part_of_the_samples(samples: int, size: int, steps: tuple[int, int]) -> None:
    model = nn.Linear(4, 3)
    fitter = _Fitter(model, copy.deepcopy(model), _lesson(torch.randn(samples, 4), size))
    assert (fitter.steps_a_time, fitter.batches_a_step) == steps


def _turns(known: list[torch.Tensor], beyond: list[torch.Tensor], count: int) -> list[Portion]:
    given = [Portion(batch, torch.arange(len(batch)) % 2 == 0, number) for number, batch in enumerate(known)]
    supply = in_turn(given, lambda: beyond, lambda batch: Example.of(nn.Identity(), batch))
    return list(islice(supply, count))


def test_what_a_loader_has_beyond_is_looked_at_before_anything_comes_again() -> None:
    rows = torch.arange(16).view(4, 4, 1).unbind()
    seen = _turns([*rows[:2]], [*rows[2:]], 6)
    assert [one.number for one in seen] == [0, 1, None, None, 0, 1]
    assert all(one.batch is row for one, row in zip(seen[:4], rows, strict=True))
    assert not any(bool(one.held_S.any()) for one in seen[2:4])


def test_a_sample_left_out_stays_left_out_where_a_loader_gives_it_again() -> None:
    x = torch.randn(8, 3)
    other_order = torch.tensor([1, 0, 5, 7])
    seen = _turns([x[:4]], [x[other_order]], 2)
    assert seen[1].held_S.tolist() == [False, True, False, False]


def test_answers_are_fitted_to_what_a_loader_has_beyond_the_samples_that_layers_are_fitted_to() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 6))
    mix = torch.randn(16, 16)
    x, fresh = torch.randn(1536, 16) @ mix, torch.randn(256, 16) @ mix
    plan = sc.plan(sc.trace(net, x[:2]), "l2", {"params": "50%"})
    apart = {}
    for samples in (256, 1536):
        small = sc.apply(copy.deepcopy(net), plan)
        Compensator(net, Data(loader=list(x[:samples].split(32))), method="answers", samples=256).fit(small, plan)
        apart[samples] = _apart(small, net, fresh)
    assert apart[1536] < 0.9 * apart[256]


def test_with_nothing_to_leave_out_nothing_changes() -> None:
    original, student = nn.Linear(4, 3), nn.Linear(4, 3)
    was = copy.deepcopy(student.state_dict())
    one = torch.randn(1, 4)
    lesson = Lesson(data=Data(loader=[one]), batches=[one], held_out=[torch.tensor([False])])
    assert fit_to_answers(student, original, lesson, _silent) is None
    assert all(torch.equal(tensor, was[name]) for name, tensor in student.state_dict().items())


def test_of_several_answers_none_is_fitted_at_the_cost_of_the_others() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.layer(x), self.layer.weight.sum(1)

    lesson = _lesson(torch.randn(64, 4))
    assert "2 tensors of numbers" in str(has_no_answer(Two(), lesson.data, lesson.batches[0]))


def test_whether_there_is_one_answer_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[nn.Module] = []
    monkeypatch.setattr(
        "secateur.torch.compensation.compensator.has_no_answer", lambda model, data, batch: looked.append(model)
    )
    net = nn.Linear(4, 3)
    compensator = Compensator(net, Data(loader=[torch.randn(16, 4)]), method="answers")
    assert (compensator.tells_apart, compensator.tells_apart, looked) == (True, True, [net])


def test_a_network_that_answers_right_already_stays_bit_for_bit() -> None:
    torch.manual_seed(0)
    original = _Everything().eval()
    student = copy.deepcopy(original)
    fit_to_answers(student, original, _lesson(torch.randn(64, 2, 8, 8)), _silent)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), original.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_progressive_says_what_fitting_answers_did_and_keeps_the_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 6)).to(dtype)
    x = _of_rank(6).to(dtype)
    config: dict[str, Any] = {"data_loader": list(x.split(32)), "steps": 2}
    small, result = sc.prune(net, "progressive", {"params": "40%"}, x[:2], config)
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert result.compensation is not None
    told = result.compensation.as_dict()["answers"]
    assert told is not None
    assert told["after"] <= told["before"]


def test_layers_alone_are_fitted_where_that_is_asked_for() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Linear(48, 6))
    x = _of_rank(6)
    plan = sc.plan(sc.trace(net, x[:2]), "l2", {"params": "50%"})
    small = sc.apply(copy.deepcopy(net), plan)
    done = Compensator(net, Data(loader=list(x.split(32)))).fit(small, plan)
    assert done.answers is None


class _Aside(nn.Module):
    """One branch that nothing returned depends on, a complex weight, and perhaps an answer without gradients."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.detached, self.on, self.off = detached, nn.Linear(6, 6), nn.Linear(6, 6)
        self.phase = nn.Parameter(torch.randn(6, 6, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.off(x)
        y = (self.on(x).to(self.phase) @ self.phase).real
        return y.detach() if self.detached else y


@pytest.mark.parametrize("detached", [False, True])
def test_what_leads_nowhere_is_left_alone(detached: bool) -> None:
    torch.manual_seed(0)
    original = _Aside(detached)
    student = copy.deepcopy(original)
    with torch.no_grad():
        student.on.weight.mul_(0.5)
    was = copy.deepcopy(student.state_dict())
    done = fit_to_answers(student, original, _lesson(torch.randn(64, 6)), _silent)
    changed = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, was[name])}
    assert (done is None) == detached
    assert changed == (set() if detached else {"on.weight", "on.bias"})
