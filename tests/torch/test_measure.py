"""What `measure` says is true, and the model does not notice."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from secateur.core.measurement import Measurement
from secateur.errors import ArtifactError, ConfigError, InputError
from secateur.torch.evaluating.metrics import METRICS, quality
from secateur.torch.measure import Timings, measure

QUICK = Timings(num_runs=3, num_warmup=1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def batches(num: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, 1, 8, 8, generator=generator), torch.randint(0, 5, (16,), generator=generator))
        for _ in range(num)
    ]


def test_quality_and_confusion_are_those_of_a_loop_written_by_hand() -> None:
    model, data = network(), batches()
    found = measure(model, data, ("accuracy", "cross_entropy"), timings=QUICK)
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(x) for x, _ in data])
    labels = torch.cat([y for _, y in data])
    right = (logits.argmax(1) == labels).float().mean().item()
    assert found.quality["accuracy"].value == pytest.approx(right)
    assert found.quality["accuracy"].low < right < found.quality["accuracy"].high
    assert found.quality["cross_entropy"].value == pytest.approx(
        nn.functional.cross_entropy(logits, labels).item(), rel=1e-5
    )
    confusion = torch.tensor(found.confusion)
    assert confusion.sum() == 48
    assert torch.equal(confusion.sum(1), torch.bincount(labels, minlength=5))
    assert confusion.diagonal().sum() / 48 == pytest.approx(right)


def test_costs_and_size_are_the_models() -> None:
    model = network()
    found = measure(model, None, dummy_input=torch.zeros(2, 1, 8, 8), timings=QUICK)
    assert found.costs["params"] == sum(p.numel() for p in model.parameters())
    assert found.size_bytes == sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert found.quality == {}
    assert found.confusion == ()


def test_every_run_is_kept_for_each_batch_size() -> None:
    timings = Timings(batch_sizes=(1, 4), num_runs=4, num_warmup=1)
    found = measure(network(), None, dummy_input=torch.zeros(2, 1, 8, 8), timings=timings)
    assert [(t.batch_size, len(t.seconds)) for t in found.times] == [(1, 4), (4, 4)]
    assert all(second > 0 for t in found.times for second in t.seconds)
    low, high = found.times[0].spread_ms
    assert low <= found.times[0].median_ms <= high


def test_the_model_and_the_random_state_are_as_before() -> None:
    model = network().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    measure(model, batches(), timings=QUICK)
    assert model.training
    assert all(m.training for m in model.modules())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_json_gives_back_an_equal_measurement() -> None:
    found = measure(network(), batches(1), timings=QUICK, name="small")
    assert Measurement.from_json(found.to_json()) == found
    assert "small" in str(found)
    assert "accuracy" in str(found)


@pytest.mark.parametrize("text", ["", "{}", '{"format_version": 1}', '{"format_version": 9, "name": "x"}', "[1]"])
def test_what_is_no_measurement_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="measurement"):
        Measurement.from_json(text)


def test_perplexity_is_that_of_the_next_token() -> None:
    logits = torch.randn(2, 5, 7)
    labels = torch.randint(0, 7, (2, 5))
    values = METRICS["perplexity"].per_sample(logits, (None, labels))
    by_hand = nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 7), labels[:, 1:].reshape(-1))
    assert quality(METRICS["perplexity"], values).value == pytest.approx(math.exp(by_hand.item()), rel=1e-5)


@pytest.mark.parametrize(
    ("data", "metrics", "error", "sentence"),
    [
        ([{"pixels": torch.zeros(2, 1, 8, 8)}], ("accuracy",), InputError, "labels"),
        (batches(1), "accuracy", InputError, "write a list"),
        (batches(1), ("acuracy",), ConfigError, "Did you mean 'accuracy'"),
        (None, ("accuracy",), InputError, "dummy_input"),
    ],
)
def test_what_cannot_be_measured_is_said(data: object, metrics: object, error: type[Exception], sentence: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))

    class Takes(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return model(pixels)

    with pytest.raises(error, match=sentence):
        measure(
            Takes() if isinstance(data, list) and isinstance(data[0], dict) else model, data, metrics, timings=QUICK
        )  # type: ignore[arg-type]


ANSWERS = torch.eye(4)  # of a network that gives back what it takes


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_labels_of_any_whole_type_are_class_numbers(kind: torch.dtype) -> None:
    labels = torch.tensor([0, 1, 1, 0])
    found = measure(nn.Identity(), [(ANSWERS, labels.to(kind))], ("accuracy", "cross_entropy"), timings=QUICK)
    assert found.quality == measure(nn.Identity(), [(ANSWERS, labels)], tuple(found.quality), timings=QUICK).quality
    assert found.quality["accuracy"].value == 0.5


def test_labels_that_stand_for_none_do_not_count() -> None:
    labels = torch.tensor([-100, 1, 2, 0])
    found = measure(nn.Identity(), [(ANSWERS, labels)], ("accuracy", "top5_accuracy", "cross_entropy"), timings=QUICK)
    assert {value.num_samples for value in found.quality.values()} == {3}
    assert found.quality["accuracy"].value == pytest.approx(2 / 3)
    assert sum(map(sum, found.confusion)) == 3


@pytest.mark.parametrize(
    ("inputs", "labels", "said"),
    [
        (ANSWERS, [0, 1, 2, 9], "the labels run from 0 to 9, and the model's output has 4 classes"),
        (ANSWERS, [0, -1, 2, 3], "the labels run from -1 to 3"),
        (ANSWERS, [-100] * 4, "every label is -100"),
        (ANSWERS * float("nan"), [0, 1, 2, 3], "batch 0 of the data has values that are no finite numbers"),
    ],
)
def test_labels_and_answers_that_cannot_be_judged_are_told(inputs: torch.Tensor, labels: list[int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        measure(nn.Identity(), [(inputs, torch.tensor(labels))], ("accuracy", "cross_entropy"), timings=QUICK)


def test_a_name_is_text() -> None:
    with pytest.raises(InputError, match="name is a str, not the int 3"):
        measure(nn.Identity(), None, dummy_input=ANSWERS, name=3, timings=QUICK)  # type: ignore[arg-type]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(400):
        found = quality(METRICS["accuracy"], (torch.rand(60, generator=generator) < 0.9).double())
        hits += found.low <= 0.9 <= found.high
    assert 0.92 <= hits / 400 <= 0.98
