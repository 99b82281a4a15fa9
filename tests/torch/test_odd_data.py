"""Data that cannot tell what is asked of it: a sentence that names it, before time is spent."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.errors import ConfigError, Infeasible, InputError, TraceError
from secateur.pruners import SaliencyRule, Sparsifier
from secateur.torch.compensation.evidence import Compensation

Batches = Sequence[tuple[Tensor, Tensor]]
_DRAWN = torch.Generator().manual_seed(0)
BATCHES = [(torch.rand(16, 6, generator=_DRAWN), torch.arange(16) % 4) for _ in range(3)]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


class Twofold(nn.Module):
    """What a network gives, seen in two ways."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        self.inner, self.first, self.second = network(), first, second

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.inner(x)
        return self.first(z), self.second(z)


def pruned(mode: str, batches: Batches, model: nn.Module | None = None, **options: Any) -> sc.PruneResult:
    config = {"data_loader": batches, **options}
    return sc.prune(model or network(), mode, {"params": "60%"}, BATCHES[0][0][:2], config)[1]


def test_labels_that_all_stand_for_none_are_told() -> None:
    ignored = [(x, torch.full_like(y, -100)) for x, y in BATCHES]
    with pytest.raises(InputError, match="every label of a batch is -100"):
        pruned("gradnas", ignored)


@pytest.mark.parametrize("mode", ["gradnas", "progressive"])
@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_the_batch_with_values_that_are_no_numbers_is_named(mode: str, strange: float) -> None:
    x = BATCHES[1][0].clone()
    x[3, 2] = strange
    with pytest.raises(InputError, match="batch 1 of the data has values that are no finite numbers"):
        pruned(mode, [BATCHES[0], (x, BATCHES[1][1])])


_RUN = {
    **{mode: (lambda batches, mode=mode: pruned(mode, batches)) for mode in ("magnitude", "minitron", "progressive")},
    "finetune": lambda batches: sc.training.finetune(network(), batches, epochs=1),
    "measure": lambda batches: sc.measure(network(), batches),
}


@pytest.mark.parametrize("run", _RUN.values(), ids=_RUN)
@pytest.mark.parametrize("bad", [torch.rand(16, 7), torch.rand(16, 6).double(), "text", None, {"x": 1}], ids=repr)
def test_a_later_batch_that_the_model_does_not_take_is_named(run: Any, bad: object) -> None:
    with pytest.raises(InputError, match=r"cannot be run on batch 1 \(from 0\)") as told:
        run([BATCHES[0], (bad, BATCHES[1][1])])
    assert told.value.__cause__ is not None
    assert type(told.value.__cause__).__name__ in str(told.value)


@pytest.mark.parametrize("run", _RUN.values(), ids=_RUN)
@pytest.mark.parametrize("place", [0, 1])
def test_a_batch_without_samples_is_named(run: Any, place: int) -> None:
    batches = [BATCHES[0], BATCHES[1]]
    batches[place] = (torch.rand(0, 6), torch.arange(0))
    with pytest.raises(InputError, match=rf"batch {place} of the data \(from 0\) has no samples"):
        run(batches)


def test_a_fault_of_a_loss_in_a_later_batch_comes_through_as_it_is() -> None:
    def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        if batch[1] is None:
            raise RuntimeError("of my own")
        return output.sum()

    with pytest.raises(RuntimeError, match=r"^of my own$"):
        pruned("gradnas", [BATCHES[0], (BATCHES[1][0], None)], loss_func=loss)  # type: ignore[list-item]


def test_very_few_samples_are_told_and_enough_are_not() -> None:
    with pytest.warns(UserWarning, match="3 samples in all"):
        pruned("magnitude", [(BATCHES[0][0][:3], BATCHES[0][1][:3])], compensate="least_squares")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruned("magnitude", BATCHES, compensate="least_squares")


def test_what_a_model_gives_in_place_of_logits_is_described() -> None:
    model = Twofold(lambda z: z.argmax(1), lambda z: z.amax(1))
    with pytest.raises(InputError, match=r"the model gives a tuple of 2: a tensor \(16,\) of int64"):
        pruned("gradnas", BATCHES, model)


def test_several_answers_are_told_and_not_fitted() -> None:
    model = Twofold(lambda z: z, lambda z: z * 2)
    result = pruned("magnitude", BATCHES, model, compensate="answers")
    assert "the model gives 2 tensors of numbers" in result.left_as_they_are["all weights together"]
    assert isinstance(result.compensation, Compensation)
    assert result.compensation.answers is None


class Numbered(nn.Module):
    """A width of 64 whose positions are numbers, between others that are free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 64), nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.c(torch.relu(self.b(h * torch.arange(h.shape[1]))))


@pytest.mark.parametrize("constraints", [{"params": "1%"}, {"macs": "1%"}])
def test_a_bound_out_of_reach_names_what_keeps_the_network_large_and_why(constraints: dict[str, str]) -> None:
    said = r"The widest of what is kept whole is a\.out_features, 64 units \(its positions are numbers in arange\)"
    with pytest.raises(Infeasible, match=said):
        sc.prune(Numbered(), "magnitude", constraints, BATCHES[0][0][:2])


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_told_in_words_of_our_own(layout: torch.layout) -> None:
    nested = torch.nested.nested_tensor([torch.rand(3, 6), torch.rand(2, 6)], layout=layout)
    with pytest.raises(TraceError, match="Sequential is given nested tensors"):
        sc.trace(network(), nested)


@pytest.mark.parametrize("level", [1.5, -0.1, "a", True])
def test_a_rules_own_level_that_is_no_share_is_told(level: Any) -> None:
    with pytest.raises(ConfigError, match="sparsity_level is a share from 0 to 1"):
        Sparsifier(SaliencyRule(sparsity_level=level)).prepare(network(), dummy_input=BATCHES[0][0])
