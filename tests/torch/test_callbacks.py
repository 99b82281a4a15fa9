"""Pruning inside other people's training loops: ours that speak as they do, and the real ones where they are installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.zoo.shim import declare_torchvision_operators
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from secateur.errors import ConfigError
from secateur.torch.training.callbacks import PruningCallback

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(64) % 3


class Shell(nn.Module):
    """A network in a shell, as a LightningModule is one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class HuggingFaceLoop:
    """Calls callbacks as transformers.Trainer does: every event, everything by keyword."""

    def __init__(self, model: nn.Module, callback: Any) -> None:
        self.model, self.callback = model, callback
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.99**step)
        self.state, self.sizes = SimpleNamespace(epoch=0.0, global_step=0), []

    def call(self, event: str) -> None:
        passed = {
            "model": self.model,
            "optimizer": self.optimizer,
            "lr_scheduler": self.scheduler,
            "train_dataloader": None,
        }
        control = getattr(self.callback, event)(SimpleNamespace(), self.state, SimpleNamespace(), **passed)
        assert control is None

    def train(self, epochs: int) -> None:
        self.call("on_init_end")
        self.call("on_train_begin")
        for epoch in range(epochs):
            self.call("on_epoch_begin")
            for number, batch in enumerate(zip(X.split(16), Y.split(16), strict=True)):
                self.call("on_step_begin")
                train_on(self.model, self.optimizer, batch)
                self.scheduler.step()
                self.state.global_step += 1
                self.state.epoch = epoch + (number + 1) / 4
                self.call("on_step_end")
                self.sizes.append(sum(p.numel() for p in self.model.parameters()))
            self.call("on_epoch_end")
        self.call("on_train_end")


class LightningLoop:
    """Calls callbacks as Lightning does: the trainer and the module, by place."""

    def __init__(self, model: nn.Module, callback: Any) -> None:
        self.model, self.callback = model, callback
        self.optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)]
        self.current_epoch, self.global_step, self.sizes = 0, 0, []

    def train(self, epochs: int) -> None:
        self.callback.setup(self, self.model, stage="fit")
        self.callback.on_fit_start(self, self.model)
        self.callback.on_train_start(self, self.model)
        for self.current_epoch in range(epochs):
            for number, batch in enumerate(zip(X.split(16), Y.split(16), strict=True)):
                train_on(self.model, self.optimizers[0], batch)
                self.global_step += 1
                self.callback.on_train_batch_end(self, self.model, None, batch, number)
                self.sizes.append(sum(p.numel() for p in self.model.parameters()))
            self.callback.on_train_epoch_end(self, self.model)
        self.callback.on_fit_end(self, self.model)
        self.callback.teardown(self, self.model, stage="fit")


def train_on(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert model.training
    functional.cross_entropy(model(batch[0]), batch[1]).backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    model.zero_grad()


def followed(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """The optimizer holds what the model has, with state of its shapes, and has gone on from the state it had."""
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    shaped = [
        v.shape == p.shape for p, s in optimizer.state.items() for v in s.values() if torch.is_tensor(v) and v.dim()
    ]
    return held == [id(p) for p in model.parameters()] and len(optimizer.state) == len(held) and all(shaped)


@pytest.mark.parametrize("loop", [HuggingFaceLoop, LightningLoop])
def test_shares_are_of_the_whole_network_and_pruning_happens_when_an_epoch_is_over(loop: Any) -> None:
    callback = PruningCallback({1: {"params": "80%"}, 3: {"params": "50%"}}, X[:1])
    run = loop(Shell(), callback)
    run.train(4)
    whole = run.sizes[0]
    assert run.sizes[:4] == [whole] * 4
    assert all(0.75 * whole < size <= 0.8 * whole for size in run.sizes[4:12])
    assert all(0.45 * whole < size <= 0.5 * whole for size in run.sizes[12:])
    assert list(callback.results) == [1, 3]
    assert all(result.verification.passed for result in callback.results.values())
    optimizer = run.optimizer if hasattr(run, "optimizer") else run.optimizers[0]
    assert followed(run.model, optimizer)
    if hasattr(run, "optimizer"):
        assert all(float(state["step"]) == 16 for state in optimizer.state.values())  # nothing began anew
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.99**16)


@pytest.mark.parametrize("loop", [HuggingFaceLoop, LightningLoop])
def test_steps_can_be_counted_and_a_part_be_pruned(loop: Any) -> None:
    callback = PruningCallback({3: {"macs": "60%"}}, X[:1], unit="step", module="net", config={"exclude": ["0"]})
    run = loop(Shell(), callback)
    run.train(1)
    assert run.sizes[0] == run.sizes[1] > run.sizes[2] == run.sizes[3]
    assert run.model.net[0].out_features == 32
    assert run.model.net[3].out_features < 24


def test_a_trainer_that_wraps_its_optimizer_is_followed() -> None:
    model = Shell()
    callback = PruningCallback({1: {"params": "50%"}}, X[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback.start(model)
    callback.reached("epoch", 1, model, [SimpleNamespace(optimizer=optimizer), None])
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def test_a_schedule_that_cannot_be_is_refused_before_training() -> None:
    for schedule in ({}, {0: {"macs": "50%"}}, {1.5: {"macs": "50%"}}):
        with pytest.raises(ConfigError, match="schedule"):
            PruningCallback(schedule, X[:1])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unit"):
        PruningCallback({1: {"macs": "50%"}}, X[:1], unit="batch")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Did you mean 'macs'"):
        PruningCallback({1: {"mcas": "50%"}}, X[:1]).start(Shell())
    with pytest.raises(AttributeError):
        _ = PruningCallback({1: {"macs": "50%"}}, X[:1]).no_such_thing


def test_the_module_imports_no_trainer() -> None:
    source = Path(sys.modules["secateur.torch.training.callbacks"].__file__ or "").read_text("utf-8")
    assert "import transformers" not in source
    assert "import lightning" not in source


@pytest.mark.parametrize("way", [{}, {"bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_transformers_trainer_itself(tmp_path: Path, way: dict[str, bool]) -> None:
    pytest.importorskip("accelerate")
    declare_torchvision_operators()
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model = BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=2, **sizes))
    data = [{"input_ids": torch.randint(1, 40, (8,)), "labels": torch.tensor(i % 2)} for i in range(16)]
    callback = PruningCallback({1: {"params": "70%"}}, {"input_ids": data[0]["input_ids"][None]})
    options = TrainingArguments(
        str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **way,  # type: ignore[arg-type]
    )
    trainer = Trainer(model, options, train_dataset=data, callbacks=[callback])  # type: ignore[arg-type]
    trainer.train()
    assert callback.results[1].params == sum(p.numel() for p in model.parameters())
    assert {id(p) for g in trainer.optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}


def test_lightning_itself(tmp_path: Path) -> None:
    declare_torchvision_operators()
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Shell().net

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    model, callback = Module(), PruningCallback({1: {"macs": "60%"}}, X[:1], module="net")
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[callback], default_root_dir=tmp_path, **quiet
    )
    trainer.fit(model, DataLoader(TensorDataset(X, Y), batch_size=16))
    assert callback.results[1].params == sum(p.numel() for p in model.parameters())
    assert followed(model, trainer.optimizers[0])
