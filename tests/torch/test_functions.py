"""Contractions inside ``torch.autograd.Function``: seen, and judged by gradients like any other."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.torch.running.contractions import Site, taps

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(16) % 4


class _Product(torch.autograd.Function):
    """A linear layer, as Megatron-Core writes it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradients[0] @ weight, gradients[0].flatten(0, -2).t() @ x.flatten(0, -2)


class _Rounded(torch.autograd.Function):
    """What it is given in steps, whose gradient passes as if there were none; another way to write a function."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return torch.nn.functional.linear((x * 2**20).round() / 2**20, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradients[0] @ weight, gradients[0].t() @ x


class _Linear(nn.Linear):
    function: Any = _Product

    def forward(self, input: Tensor) -> Tensor:
        return self.function.apply(input, self.weight) + self.bias


class _RoundedLinear(_Linear):
    function = _Rounded


def _net(kind: type[nn.Linear]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(kind(6, 12), nn.ReLU(), kind(12, 12), nn.ReLU(), kind(12, 4)).eval()


def _loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


@pytest.mark.parametrize("mode", ["progressive", "gradnas"])
@pytest.mark.parametrize("kind", [_Linear, _RoundedLinear])
def test_every_mode_finds_the_same_as_without_functions(mode: str, kind: type[nn.Linear]) -> None:
    config = {"data_loader": [(X, LABELS)], "collect_func": lambda batch: batch[0], "loss_func": _loss}
    config |= {"steps": 1, "compensate": "none"}  # a bias that is added outside is not fitted
    found = {}
    for each in (nn.Linear, kind):
        _, result = sc.prune(_net(each), mode, {"params": "60%"}, X, config)
        found[each] = result.plan.sizes
    assert found[nn.Linear] == found[kind]


def test_gradients_upstream_are_those_of_the_functions_own_backward() -> None:
    model = _net(_RoundedLinear)
    x = X.clone().requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None
    seen = _Seen()
    again = X.clone().requires_grad_()
    with taps(model, seen):
        out = model(again)
    out.sum().backward()
    assert torch.equal(again.grad, x.grad)  # type: ignore[arg-type]
    assert seen.names == ["0.weight", "2.weight", "4.weight"]
    assert all(p.grad is not None for p in model.parameters())


class _Seen:
    def __init__(self) -> None:
        self.names: list[str] = []

    def before(self, site: Site) -> Tensor:
        self.names.append(site.name)
        return site.x

    def after(self, site: Site, y: Tensor) -> Tensor:
        return y


def test_what_pytorch_calls_is_itself_again_afterwards() -> None:
    own = vars(torch.autograd.Function)["apply"]
    model = _net(_Linear)
    with taps(model, _Seen()), taps(model, _Seen()):
        assert vars(torch.autograd.Function)["apply"] is not own
        model(X)
    assert vars(torch.autograd.Function)["apply"] is own
