"""GradNAS: a few backward passes say what goes; language models lose heads and features; losses compare across widths."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tests.zoo.shim import declare_torchvision_operators
from torch import nn
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur.errors import ArtifactError, Infeasible, InputError
from secateur.modes import GradNAS, Task
from secateur.modes.gradnas import degradation
from secateur.torch.frontend import TorchFrontend
from secateur.torch.running.batch_norm import reestimate_batch_norm

declare_torchvision_operators()


def bert() -> tuple[nn.Module, list[Any]]:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        num_labels=3, max_position_embeddings=20, initializer_range=0.2,
    )  # fmt: skip
    mask = torch.ones(4, 10, dtype=torch.long)
    batches = [
        ({"input_ids": torch.randint(0, 50, (4, 10)), "attention_mask": mask}, torch.randint(0, 3, (4,)))
        for _ in range(3)
    ]
    return BertForSequenceClassification(config).eval(), batches


def gptj() -> tuple[nn.Module, list[Any]]:
    from transformers import GPTJConfig, GPTJForCausalLM

    torch.manual_seed(0)
    config = GPTJConfig(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=20, n_inner=48,
        bos_token_id=0, eos_token_id=1, initializer_range=0.2,
    )  # fmt: skip
    ids = [torch.randint(0, 50, (4, 10)) for _ in range(3)]
    return GPTJForCausalLM(config).eval(), [({"input_ids": x}, x) for x in ids]


def of_labels(output: Any, batch: Any) -> torch.Tensor:
    return cross_entropy(output.logits, batch[1])


def of_next_token(output: Any, batch: Any) -> torch.Tensor:
    return cross_entropy(output.logits[:, :-1].flatten(0, 1), batch[1][:, 1:].flatten())


@pytest.mark.parametrize(
    ("make", "loss", "stream"), [(bert, of_labels, "*word_embeddings*"), (gptj, of_next_token, "*wte*")]
)
def test_heads_and_features_of_language_models_are_narrowed(make: Any, loss: Any, stream: str) -> None:
    model, batches = make()
    kinds = {w.kind for w in sc.trace(model, batches[0][0]).free}
    assert {"heads", "features"} <= kinds
    config = {"data_loader": batches, "loss_func": loss, "num_batches": 2, "exclude": [stream]}
    model, result = sc.prune(model, "gradnas", {"params": "60%"}, batches[0][0], config)
    narrowed = {result.plan.graph[name].kind for name in result.plan.kept}
    assert {"heads", "features"} <= narrowed
    assert result.params <= 0.6 * result.before["params"]
    assert result.verification.passed
    assert model(**batches[0][0]).logits.isfinite().all()


def test_at_most_so_many_batches_are_read_and_the_model_is_as_it_was() -> None:
    model, batches = bert()
    before = copy.deepcopy(model.state_dict())
    asked = []

    def loss(output: Any, batch: Any) -> torch.Tensor:
        asked.append(batch)
        return of_labels(output, batch)

    with pytest.raises(Infeasible):
        sc.prune(model, "gradnas", {"params": 5}, batches[0][0], {"data_loader": batches, "loss_func": loss})
    assert asked == []  # refused before any backward pass
    mode = GradNAS.read({"data_loader": batches, "loss_func": loss, "num_batches": 2})
    graph = sc.trace(model, batches[0][0])
    frontend, budget = TorchFrontend.of(model, graph, mode), sc.Budget.of({"params": "80%"}, graph)
    task = Task(graph=graph, frontend=frontend, budget=budget, tell=lambda share, word: None)
    plan = mode.search(task).plan
    assert len(asked) == 2
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert mode.search(task).plan == plan
    assert GradNAS.read({}).num_batches == 128


class TestCheckpoint:
    """Scores are made once for a network and its data."""

    @staticmethod
    def run(folder: Path | None, share: str = "60%", *, model: nn.Module | None = None, **more: Any) -> tuple[Any, int]:
        """The plan, and how often the loss was asked for."""
        calls = []

        def loss(output: Any, batch: Any) -> torch.Tensor:
            calls.extend([1] * torch.is_grad_enabled())  # not where the result is scored
            return of_labels(output, batch)

        given, batches = bert()
        config = {"data_loader": batches, "loss_func": loss, "checkpoint": folder, **more}
        example = batches[0][0]
        found = sc.prune(model or given, "gradnas", {"params": share}, (example["input_ids"],), config)[1].plan
        return found, len(calls)

    def test_other_constraints_and_limits_score_nothing_again(self, tmp_path: Path) -> None:
        assert self.run(tmp_path)[1] == 3
        for share, more in (("60%", {}), ("45%", {}), ("60%", {"exclude": ["*word_embeddings*"]})):
            found, calls = self.run(tmp_path, share, **more)
            assert calls == 0
            assert found == self.run(None, share, **more)[0]

    def test_a_width_that_was_not_scored_before_is(self, tmp_path: Path) -> None:
        self.run(tmp_path, "80%", exclude=["*word_embeddings*"])
        found, calls = self.run(tmp_path)
        assert calls == 3
        assert found == self.run(None)[0]
        assert self.run(tmp_path)[1] == 0

    def test_another_network_or_criterion_is_refused_saying_what_differs(self, tmp_path: Path) -> None:
        self.run(tmp_path)
        other = bert()[0]
        with torch.no_grad():
            next(other.parameters()).mul_(1.5)
        with pytest.raises(ArtifactError, match=r"another search.*weights"):
            self.run(tmp_path, model=other)
        with pytest.raises(ArtifactError, match=r"another search.*num_batches"):
            self.run(tmp_path, num_batches=2)
        with pytest.raises(ArtifactError, match=r"another search.*criterion"):
            self.run(tmp_path, criterion="taylor")


def test_the_loss_at_a_count_is_the_sum_of_the_scores_that_go() -> None:
    graph = sc.trace(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(1, 4))
    found = degradation(graph, {"0.out_features": np.array([4.0, 1.0, 0.5, 2.0, 8.0])})
    assert found == {"0.out_features": {5: 0.0, 4: 0.5, 3: 1.5, 2: 3.5, 1: 7.5}}
    with pytest.raises(InputError, match="add up"):
        degradation(graph, {"0.out_features": np.array([4.0, -1.0, 0.5, 2.0, 8.0])})


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return torch.tensor(x[order], dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y[order])


def trained(seed: int, x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(4):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


def test_the_sum_of_losses_keeps_more_accuracy_than_the_largest_loss() -> None:
    """What the original minimises is the largest loss of any width, whatever the width costs."""
    x, y = digits()
    train_x, train_y, test_x, test_y = x[:1200], y[:1200], x[1200:], y[1200:]
    loader = list(zip(train_x.split(64), train_y.split(64), strict=True))
    accuracy: dict[str, list[float]] = {"sum": [], "largest": []}
    for seed in range(3):
        whole = trained(seed, train_x, train_y)
        for objective, found in accuracy.items():
            config = {"data_loader": loader, "num_batches": 10, "objective": objective, "verify": False}
            model, _ = sc.prune(copy.deepcopy(whole), "gradnas", {"macs": "30%"}, x[:1], config)
            reestimate_batch_norm(model, loader)
            with torch.no_grad():
                found.append(float((model(test_x).argmax(1) == test_y).float().mean()))
    assert np.mean(accuracy["sum"]) > np.mean(accuracy["largest"]) + 0.05


def test_verbose_shows_what_each_width_loses(capsys: pytest.CaptureFixture[str]) -> None:
    model, batches = bert()
    config = {"data_loader": batches, "loss_func": of_labels, "verbose": True, "verify": False}
    sc.prune(model, "gradnas", {"params": "80%"}, batches[0][0], config)
    assert "loss at the smallest" in capsys.readouterr().out


def test_without_data_it_says_so() -> None:
    model, batches = bert()
    with pytest.raises(InputError, match="data_loader"):
        sc.prune(model, "gradnas", {"params": "80%"}, batches[0][0])


def test_text_without_labels_is_scored_by_its_next_tokens() -> None:
    model, batches = gptj()
    bare: dict[str, Any] = {"data_loader": [inputs for inputs, _ in batches]}
    given = {"data_loader": batches, "loss_func": of_next_token}
    results = [sc.prune(copy.deepcopy(model), "gradnas", {"params": "70%"}, batches[0][0], c)[1] for c in (bare, given)]
    assert results[0].plan.kept == results[1].plan.kept
