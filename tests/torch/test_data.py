"""Batches: read again each time, moved as they are, and their loss."""

from __future__ import annotations

import random
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import secateur as sc
from secateur.errors import InputError
from secateur.torch.evaluating.evaluator import Evaluator
from secateur.torch.running.data import Data, to_device
from secateur.torch.running.digests import digest_of_data

META = torch.device("meta")
LINEAR = nn.Linear(2, 3)


@dataclass(frozen=True)
class Pair:
    x: torch.Tensor
    y: Any
    name: str = "pair"


class Point(NamedTuple):
    x: torch.Tensor
    y: int


class Encoding(UserDict[str, Any]):
    """Moves its own tensors, as Hugging Face's BatchEncoding does."""

    def to(self, device: torch.device) -> Encoding:
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


def test_a_loader_that_can_be_read_once_is_refused_and_reading_draws_no_random_number() -> None:
    for once in (iter([1]), (x for x in [1]), map(str, [1])):
        with pytest.raises(InputError, match="only once"):
            Data(loader=once)
    with pytest.raises(InputError, match="iterated"):
        Data(loader=3)  # type: ignore[arg-type]
    state = torch.get_rng_state()
    Data(loader=DataLoader(list(range(4)), shuffle=True))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loader_over_an_iterable_data_set_is_read_again() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter([torch.ones(2), torch.zeros(2)])

    data = Data(loader=DataLoader(Stream(), batch_size=None))
    assert len(list(data.batches(LINEAR))) == len(list(data.batches(LINEAR))) == 2


@pytest.mark.parametrize(
    ("make", "tensors"),
    [
        (lambda x: x, lambda b: [b]),
        (lambda x: (x, {"mask": [x, None, 3]}), lambda b: [b[0], b[1]["mask"][0]]),
        (lambda x: Point(x, 2), lambda b: [b.x]),
        (lambda x: Pair(x, (x, "label")), lambda b: [b.x, b.y[0]]),
        (lambda x: (Encoding(ids=x, mask=x), 1), lambda b: [b[0]["ids"], b[0]["mask"]]),
        (lambda x: nn.utils.rnn.pack_sequence([x]), lambda b: [b.data]),
    ],
)
def test_every_tensor_of_a_batch_is_moved_and_the_batch_stays_as_it_was(
    make: Callable[[torch.Tensor], Any], tensors: Callable[[Any], list[torch.Tensor]]
) -> None:
    batch = make(torch.ones(2, 2))
    moved = to_device(batch, META)
    assert type(moved) is type(batch)
    assert all(t.device == META for t in tensors(moved))
    assert all(t.device == torch.device("cpu") for t in tensors(batch))
    if isinstance(moved, nn.utils.rnn.PackedSequence):
        assert moved.batch_sizes.device.type == "cpu"


def test_hugging_face_batches_and_outputs_are_moved() -> None:
    from tests.zoo.shim import declare_torchvision_operators

    declare_torchvision_operators()
    transformers = pytest.importorskip("transformers")
    outputs = pytest.importorskip("transformers.modeling_outputs")
    encoding = transformers.BatchEncoding({"input_ids": torch.ones(2, 3)})
    moved = to_device({"text": encoding}, META)["text"]
    assert moved["input_ids"].device == META
    assert encoding["input_ids"].device.type == "cpu"
    output = to_device(outputs.SequenceClassifierOutput(logits=torch.ones(2)), META)
    assert output.logits.device == output["logits"].device == META


def test_the_loss_is_that_of_loss_func_or_of_the_output_or_cross_entropy() -> None:
    class Output:
        loss = torch.tensor(7.0)

    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    own = Data(loader=[0], loss=lambda output, batch: output.sum())
    assert own.loss_of(logits, None) == logits.sum()
    data = Data(loader=[0])
    assert data.loss_of(Output(), None) == 7
    assert data.loss_of(logits, (None, labels)) == nn.functional.cross_entropy(logits, labels)
    for output, batch in ((logits, labels), (logits, (0, labels[:2])), (logits, (0, labels.float())), (3, (0, labels))):
        with pytest.raises(InputError, match="loss_func"):
            data.loss_of(output, batch)
    with pytest.raises(InputError, match="one element"):
        Data(loader=[0], loss=lambda output, batch: output).loss_of(logits, None)


def shuffled(generator: torch.Generator) -> DataLoader[Any]:
    return DataLoader([torch.full((2,), float(i)) for i in range(12)], batch_size=2, shuffle=True, generator=generator)  # type: ignore[arg-type]


def order_of(batches: Any) -> list[float]:
    return [float(batch[0, 0]) for batch in batches]


def test_a_loader_with_its_own_generator_gives_the_same_batches_each_time_and_keeps_it_where_it_was() -> None:
    generator = torch.Generator().manual_seed(3)
    data = Data(loader=shuffled(generator))
    state = generator.get_state()
    first = order_of(data.batches(LINEAR))
    next(iter(data.batches(LINEAR)))  # a pass that stops on the way
    assert digest_of_data(data, 0) == digest_of_data(data, 0)
    assert order_of(data.batches(LINEAR)) == first
    assert torch.equal(generator.get_state(), state)


def test_training_sees_the_loaders_next_pass() -> None:
    data = Data(loader=shuffled(torch.Generator().manual_seed(3)))
    assert order_of(data.next_pass(LINEAR)) != order_of(data.next_pass(LINEAR))


class Noisy(list[torch.Tensor]):
    """A data set that draws from generators of its own, of each kind."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(2) for _ in range(4))
        self.numpy, self.legacy, self.python = np.random.default_rng(0), np.random.RandomState(0), random.Random(0)

    def __getitem__(self, place: Any) -> torch.Tensor:
        return super().__getitem__(place) + self.numpy.random() + self.legacy.rand() + self.python.gauss(0, 1)


def test_a_data_set_with_generators_of_its_own_gives_the_same_numbers_each_time() -> None:
    data = Data(loader=DataLoader(Noisy(), batch_size=2))  # type: ignore[arg-type]
    assert order_of(data.batches(LINEAR)) == order_of(data.batches(LINEAR))
    assert order_of(data.next_pass(LINEAR)) != order_of(data.next_pass(LINEAR))


def test_a_score_that_reads_a_shuffling_loader_does_not_depend_on_what_was_scored_before() -> None:
    loader = shuffled(torch.Generator().manual_seed(3))

    def score(model: nn.Module) -> float:
        return float(next(iter(loader))[0, 0])

    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    plan = sc.trace(model, torch.ones(1, 2)).plan({})
    evaluator = Evaluator(model=model, score_func=score)
    assert evaluator(plan) == evaluator(plan)
