"""`ClassCounts`: which of its classes a classifier answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from secateur.torch.measuring.classes import ClassCounts


def told(classes: int, *batches: list[int]) -> ClassCounts:
    answered = ClassCounts()
    for batch in batches:
        answered.add(torch.nn.functional.one_hot(torch.tensor(batch), classes).float())
    return answered


def test_classes_are_counted_over_batches() -> None:
    answered = told(4, [0, 0, 2], [2, 1])
    assert answered.counts_K.tolist() == [2, 1, 2, 0]
    assert answered.share(None) == 0.75


def test_as_many_classes_are_expected_as_independent_samples_would_be_answered_with() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 1000, (384,), generator=generator).tolist()
    assert told(1000, drawn).share_of_expected(None) == pytest.approx(1, abs=0.05)
    assert told(1000, [n % 42 for n in drawn]).share_of_expected(None) == pytest.approx(42 / 319, abs=0.01)
    assert told(10, [n % 10 for n in drawn]).share_of_expected(None) == pytest.approx(1, abs=1e-6)
    assert told(1, [0, 0]).share_of_expected(None) == 1


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [torch.zeros(3, 5, 7)],
        [torch.zeros(3, 5), torch.zeros(3, 6)],
        [torch.zeros(3, 5, dtype=torch.long)],
        ["no tensor"],
        [SimpleNamespace(logits=torch.zeros(3, 5), last_hidden_state=None)],
    ],
    ids=["nothing", "tokens", "other lengths", "integers", "no tensor", "hidden states"],
)
def test_what_answers_no_classes_counts_as_all_answered(outputs: list[object]) -> None:
    answered = ClassCounts()
    for output in outputs:
        answered.add(output)
    assert answered.share(None) == answered.share_of_expected(None) == 1
