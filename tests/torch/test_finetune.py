"""Fine-tuning on real digits: what is learnt, what is kept, what is left untouched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from secateur.errors import ConfigError, InputError, SecateurError
from secateur.torch.training.distillation import Distillation, logit_loss, survivors
from secateur.torch.training.finetune import finetune
from secateur.torch.training.optimizer import remap_optimizer

DIGITS = load_digits()
IMAGES = torch.tensor(DIGITS.data, dtype=torch.float32).view(-1, 1, 8, 8) / 16
LABELS = torch.tensor(DIGITS.target)
TRAIN = TensorDataset(IMAGES[:1200], LABELS[:1200])
TEST = (IMAGES[1200:], LABELS[1200:])


def loader(shuffle: bool = True) -> DataLoader:
    return DataLoader(TRAIN, batch_size=60, shuffle=shuffle)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(288, 10),
    )


def accuracy(model: nn.Module) -> float:
    return float((model(TEST[0]).argmax(1) == TEST[1]).float().mean())


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    model = network()
    finetune(model, loader(), epochs=5)
    return model.eval()


@pytest.fixture
def pruned(trained: nn.Sequential) -> nn.Sequential:
    model = copy.deepcopy(trained)
    sc.prune(model, "magnitude", {"macs": "25%"}, IMAGES[:1])
    return model


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_training_from_scratch_and_after_pruning_learns_the_digits(trained: nn.Module, pruned: nn.Module) -> None:
    whole = accuracy(trained)
    assert whole > 0.88
    assert accuracy(pruned) < whole - 0.05
    result = finetune(pruned, loader(), epochs=5, score_func=accuracy)
    assert accuracy(pruned) > whole - 0.03
    assert accuracy(pruned) == pytest.approx((result.score_before, *result.scores)[result.best_epoch])
    assert result.losses[0] > result.losses[-1]
    assert "5 epochs" in str(result)


def test_the_same_seed_gives_the_same_weights_and_draws_nothing(pruned: nn.Module) -> None:
    twin = copy.deepcopy(pruned)
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    first = finetune(pruned, loader(), epochs=1)
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(12)
    assert finetune(twin, loader(), epochs=1) == first
    assert same(twin, state(pruned))
    other = copy.deepcopy(pruned)
    finetune(other, loader(), epochs=1, config={"seed": 5})
    finetune(twin, loader(), epochs=1)
    assert not same(other, state(twin))


def test_the_best_epoch_is_put_back_and_patience_stops(pruned: nn.Module) -> None:
    told = iter([0.1, 0.5, 0.9, 0.3, 0.4, 1.0])
    seen: list[dict[str, torch.Tensor]] = []

    def score(model: nn.Module) -> float:
        seen.append(state(model))
        assert not model.training
        assert not torch.is_grad_enabled()
        return next(told)

    result = finetune(pruned, loader(), epochs=5, score_func=score, config={"patience": 2})
    assert (result.scores, result.best_epoch, len(result.losses)) == ((0.5, 0.9, 0.3, 0.4), 2, 4)
    assert same(pruned, seen[2])
    assert not same(pruned, seen[4])


def test_of_equal_scores_the_lower_loss_is_kept(pruned: nn.Module) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def score(model: nn.Module) -> float:
        seen.append(state(model))
        return 0.5

    result = finetune(pruned, loader(), epochs=4, score_func=score, config={"lr": 1e-3})
    assert result.losses[1:] == tuple(sorted(result.losses[1:], reverse=True))  # it learns, whatever the score says
    assert result.best_epoch == 4
    assert same(pruned, seen[4])
    patient = finetune(pruned, loader(), epochs=4, score_func=score, config={"patience": 2})
    assert len(patient.losses) == 2  # the score did not rise


def test_a_model_that_only_gets_worse_is_given_back_as_it_came(pruned: nn.Module) -> None:
    before = state(pruned)
    told = iter([0.9, 0.2])
    assert finetune(pruned, loader(), epochs=1, score_func=lambda _: next(told)).best_epoch == 0
    assert same(pruned, before)


def test_flags_gradients_and_learning_rates_are_as_before(pruned: nn.Module) -> None:
    pruned.train()
    pruned[1].eval()
    pruned[0].weight.requires_grad_(False)
    frozen = pruned[0].weight.clone()
    optimizer = torch.optim.SGD([p for p in pruned.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    finetune(pruned, loader(), epochs=1, config={"optimizer": optimizer})
    assert pruned.training
    assert not pruned[1].training
    assert torch.equal(pruned[0].weight, frozen)
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert "initial_lr" not in optimizer.param_groups[0]
    assert optimizer.state
    assert all(p.grad is None for p in pruned.parameters())


@pytest.mark.parametrize("fault", ["loss", "data", "nan"])
def test_after_an_error_model_and_optimizer_are_as_before(pruned: nn.Module, fault: str) -> None:
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.05, momentum=0.9)
    finetune(pruned, loader(), epochs=1, config={"optimizer": optimizer})
    before, momentum = state(pruned), optimizer.state[pruned[0].weight]["momentum_buffer"].clone()
    calls = 0

    def loss(output: torch.Tensor, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if fault == "loss" and calls == 5:
            raise KeyError("no such label")
        value = nn.functional.cross_entropy(output, batch[1])
        return value * float("nan") if fault == "nan" and calls == 5 else value

    batches = list(loader())
    if fault == "data":
        batches[7] = [torch.zeros(1), torch.zeros(1)]
    with pytest.raises((KeyError, RuntimeError, SecateurError)):
        finetune(pruned, batches, config={"optimizer": optimizer, "loss_func": loss})
    assert same(pruned, before)
    assert torch.equal(optimizer.state[pruned[0].weight]["momentum_buffer"], momentum)


def test_an_optimizer_can_be_made_from_the_parameters_or_remapped(trained: nn.Module) -> None:
    model = copy.deepcopy(trained)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    finetune(model, loader(), epochs=1, config={"optimizer": optimizer})
    sc.prune(model, "magnitude", {"macs": "50%"}, IMAGES[:1])
    with pytest.raises(InputError, match="remap_optimizer"):
        finetune(model, loader(), epochs=1, config={"optimizer": optimizer})
    before = state(model)
    finetune(model, loader(), epochs=1, config={"optimizer": remap_optimizer(optimizer, model)})
    assert not same(model, before)
    before = state(model)
    finetune(model, loader(), epochs=1, config={"optimizer": lambda p: torch.optim.RMSprop(p, lr=1e-3)})
    assert not same(model, before)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"config": {"patiense": 2}}, "Did you mean 'patience'"),
        ({"config": {"patience": 0}, "score_func": accuracy}, "'patience'"),
        ({"config": {"patience": 2}}, "no effect without a score_func"),
        ({"config": {"scheduler": "cosin"}}, "'scheduler'"),
        ({"epochs": 0}, "epochs"),
        ({"config": {"lr": -1.0}}, "'lr': a number above 0 is needed"),
        ({"config": {"lr": 0.1, "optimizer": lambda p: torch.optim.SGD(p)}}, "no effect beside an optimizer"),
        ({"config": {"weight_decay": 0.1, "optimizer": torch.optim.SGD}}, "weight_decay has no effect beside"),
        ({"config": {"lr": float("inf")}}, "'lr': a finite number is needed"),
        ({"config": {"optimizer": lambda p: None}}, r"optimizer\(parameters\) gives a torch.optim.Optimizer, not None"),
        ({"config": {"scheduler": lambda o, n: None}}, r"gives something with step\(\), not None"),
        ({"config": {"loss_func": lambda o, b: o.sum().detach()}}, "the loss has no gradient"),
        ({"config": {"loss_func": lambda o, b: o.sum() / 0}}, "gives no finite number for that batch"),
        (
            {"config": {"lr": 1e30, "clip_norm": None}, "epochs": 2},
            r"lower the learning rate \(1.0e\+30 at its highest",
        ),
        ({"teacher": nn.Linear(2, 2), "config": {"loss_func": lambda o, b: o.sum(1)}}, "."),
        ({"config": {"loss_func": lambda o, b: o}}, "one element"),
        ({"score_func": lambda m: "good"}, "gives a number"),
    ],
)
def test_options_that_cannot_be_used_are_refused(pruned: nn.Module, kwargs: dict[str, Any], message: str) -> None:
    before = state(pruned)
    with pytest.raises((ConfigError, InputError, RuntimeError), match=message):
        finetune(pruned, loader(), **{"epochs": 1, **kwargs})
    assert same(pruned, before)


def test_the_batch_whose_values_are_no_numbers_is_named(pruned: nn.Module) -> None:
    batches = [tuple(batch) for batch in loader()]
    batches[2] = (batches[2][0] * float("nan"), batches[2][1])
    with pytest.raises(InputError, match="batch 2 of the data has values that are no finite numbers"):
        finetune(pruned, batches, epochs=1)


def test_features_that_nobody_names_have_no_weight(trained: nn.Module) -> None:
    with pytest.raises(ConfigError, match="feature_weight has no effect without features"):
        Distillation(teacher=trained, feature_weight=0.5)


def test_schedules_are_followed(pruned: nn.Module) -> None:
    rates: list[float] = []
    optimizer = torch.optim.SGD(pruned.parameters(), lr=1.0)
    optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    batches = [(IMAGES[:4], LABELS[:4])] * 20

    def loss(output: torch.Tensor, batch: Any) -> torch.Tensor:
        return 0 * output.sum()

    given = {"optimizer": optimizer, "loss_func": loss}
    finetune(pruned, batches, epochs=1, config={**given, "warmup": 0.2})
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert max(rates) == rates[4] == 1.0
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.02
    rates.clear()
    steps: list[int] = []

    def halves(held: torch.optim.Optimizer, num_steps: int) -> Any:
        steps.append(num_steps)
        return torch.optim.lr_scheduler.StepLR(held, 10, gamma=0.5)

    finetune(pruned, batches, epochs=2, config={**given, "scheduler": halves})
    assert steps == [40]
    assert rates[::10] == [1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_on_request(pruned: nn.Module, dtype: str) -> None:
    dtypes = set()
    pruned[0].register_forward_hook(lambda m, args, output: dtypes.add(output.dtype))
    losses = finetune(pruned, loader(), epochs=2, config={"amp": dtype}).losses
    assert dtypes == {getattr(torch, dtype)}
    assert pruned[0].weight.dtype is torch.float32
    assert losses[1] < losses[0]


class Unsized:
    """Batches as a Hugging Face loader gives them, with no length."""

    def __iter__(self) -> Any:
        return iter([{"x": IMAGES[i : i + 50], "labels": LABELS[i : i + 50]} for i in range(0, 200, 50)])


class WithLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        from types import SimpleNamespace

        logits = self.net(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)


def test_batches_as_dicts_with_the_models_own_loss() -> None:
    model = WithLoss()
    result = finetune(model, Unsized(), epochs=3, teacher=copy.deepcopy(model))
    assert len(result.losses) == 3
    assert result.losses[-1] < result.losses[0]


def test_distillation_brings_the_logits_nearer_than_labels_do(trained: nn.Sequential, pruned: nn.Sequential) -> None:
    with torch.no_grad():
        taught = trained(TEST[0])
    distances = []
    before = state(trained)
    for teacher in (None, Distillation(teacher=trained, weight=1.0, temperature=4.0)):
        student = copy.deepcopy(pruned)
        finetune(student, loader(), epochs=4, teacher=teacher)
        with torch.no_grad():
            distances.append(float(logit_loss(student.eval()(TEST[0]), taught, 4.0)))
    assert distances[1] < 0.8 * distances[0]
    assert same(trained, before)
    assert not trained.training
    assert not trained[3]._forward_hooks


def test_no_label_is_needed_where_the_teacher_says_it_all(trained: nn.Sequential, pruned: nn.Sequential) -> None:
    images = DataLoader(IMAGES[:600], batch_size=60)
    result = finetune(pruned, images, epochs=2, teacher=Distillation(teacher=trained, weight=1.0))
    assert result.losses[1] < result.losses[0]
    with pytest.raises(InputError, match="no loss"):
        finetune(pruned, images, epochs=1, teacher=trained)


@pytest.mark.parametrize("rounds", [("40%",), ("70%", "60%")])
def test_features_are_compared_on_the_units_that_were_kept(trained: nn.Sequential, rounds: tuple[str, ...]) -> None:
    student = copy.deepcopy(trained)
    kept = torch.arange(32)
    for share in rounds:
        _, result = sc.prune(student, "magnitude", {"macs": share}, IMAGES[:1])
        kept = kept[torch.tensor(result.plan.kept["3.out_channels"])]
    found = survivors(student, trained, "3")
    assert found is not None
    assert (found[0], found[1].tolist()) == (1, kept.tolist())

    def distance() -> float:
        with torch.no_grad():
            ours, theirs = student[:4].eval()(TEST[0]), trained[:4](TEST[0])[:, kept]
        return float((ours - theirs).square().mean())

    before = distance()
    wish = Distillation(teacher=trained, weight=0.0, features=["3", "4"], feature_weight=10.0)
    finetune(student, loader(), epochs=2, teacher=wish)
    assert distance() < 0.7 * before


def test_what_cannot_be_compared_is_refused(trained: nn.Sequential, pruned: nn.Sequential) -> None:
    for wish, message in (
        (Distillation(teacher=trained, features=["5"]), "name a convolution"),
        (Distillation(teacher=trained, features=["33"]), "no module '33'"),
        (Distillation(teacher=pruned), "the model itself"),
        (Distillation(teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 7))), "same two or more classes"),
        (
            Distillation(teacher=nn.Sequential(nn.Flatten(), nn.Linear(65, 7))),
            r"the teacher \(Sequential\) cannot be run on",
        ),
    ):
        with pytest.raises(InputError, match=message):
            finetune(pruned, loader(), epochs=1, teacher=wish)
    for wrong in ({"weight": 2.0}, {"temperature": 0.0}, {"features": "3"}):
        with pytest.raises(ConfigError):
            Distillation(teacher=trained, **wrong)
