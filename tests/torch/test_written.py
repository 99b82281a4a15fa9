"""Code that writes to its own parameters as it runs: whatever is run on data, the model's weights stay."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.criteria import GateGradient, Taylor
from secateur.torch.evaluating.stopwatch import Stopwatch
from secateur.torch.running.example import Example
from secateur.torch.running.twin import in_use, twin
from secateur.torch.running.written import is_written

IDS = torch.randint(0, 20, (4, 6), generator=torch.Generator().manual_seed(0))
LOADER = [(IDS, torch.tensor([0, 1, 2, 3])) for _ in range(3)]


class Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16, max_norm=0.5)
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 4)
        self.scale, self.outside = nn.Parameter(torch.full((16,), 3.0)), nn.Parameter(torch.full((24,), 2.0))

    def forward(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            self.down.weight.data.clamp_(-0.05, 0.05)
            torch.clamp(self.outside, max=1.0, out=self.outside)
            self.scale[:8] = 1.0
            if self.training:
                self.head.weight.data.mul_(0.5)
        return self.head(self.down(F.relu(self.up(self.embed(ids))) * self.outside) * self.scale).mean(1)


def net() -> nn.Module:
    torch.manual_seed(0)
    return Writer().eval()


WRITTEN = {"embed.weight", "down.weight", "outside", "scale", "head.weight"}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_trace_says_which_parameters_code_writes_to() -> None:
    model = net()
    assert not any(map(is_written, model.parameters()))
    sc.trace(model, IDS)
    assert {name for name, p in model.named_parameters() if is_written(p)} == WRITTEN
    used = twin(model, in_use)
    own = {name for name, p in used.named_parameters() if p.data_ptr() != model.get_parameter(name).data_ptr()}
    assert own == WRITTEN, "all others are in the model's memory"


def test_a_note_is_of_one_tensor_and_goes_with_it() -> None:
    for _ in range(50):
        model = net()
        assert not any(map(is_written, model.parameters())), "at the address of one that is gone"
        sc.trace(model, IDS)
        del model
        gc.collect()


def _fails(model: nn.Module) -> float:
    model(IDS)
    raise KeyboardInterrupt


def _prune(mode: str, **config: Any) -> Callable[[nn.Module], object]:
    return lambda model: sc.prune(model, mode, {"params": "70%"}, IDS, config)


def _timed(model: nn.Module, plan: sc.Plan) -> float:
    return Stopwatch(model, Example(model, (IDS,)))(plan)


def stopped(times: int) -> Callable[[Tensor, Any], Tensor]:
    """A loss that is computed so often, and then interrupted."""
    left = iter(range(times))

    def loss(logits: Tensor, batch: Any) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return F.cross_entropy(logits, batch[1])

    return loss


RUNS: dict[str, Callable[[nn.Module], object]] = {
    "a criterion": lambda model: sc.plan(sc.trace(model, IDS), Taylor(data_loader=LOADER), {"params": "70%"}),
    "gradients": lambda model: sc.plan(sc.trace(model, IDS), GateGradient(data_loader=LOADER), {"params": "70%"}),
    "verification": lambda m: sc.verify(m, sc.plan(g := sc.trace(m, IDS), "l2", {"params": "70%"}), g),
    "a stopwatch": lambda m: _timed(m, sc.plan(sc.trace(m, IDS), "l2", {"params": "70%"})),
    "fastnas": _prune("fastnas", score_func=_fails, data_loader=LOADER),
    **{
        f"progressive, stopped at loss {n}": _prune("progressive", data_loader=LOADER, loss_func=stopped(n))
        for n in (0, 1, 5, 9)
    },
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_model_keeps_its_weights_whatever_is_run(run: Callable[[nn.Module], object]) -> None:
    model = net()
    before = state(model)
    with suppress(KeyboardInterrupt):
        run(model)
    assert state(model).keys() == before.keys()
    changed = [name for name, tensor in state(model).items() if not torch.equal(tensor, before[name])]
    assert not changed
