"""Networks that differentiate inside forward: inner loops, physics, fixed points, reversible and implicit layers."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, ids, wild

ROWS = lambda: (floats(4, 6),)


@wild(lambda: (floats(5, 6), floats(5, 2), floats(4, 6)))
class MAML(nn.Module):
    """Adapts copies of its weights by gradients on a support set, then predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 2)

    def forward(self, support: Tensor, targets: Tensor, query: Tensor) -> Tensor:
        def run(x: Tensor, w: list[Tensor]) -> Tensor:
            return F.linear(torch.relu(F.linear(x, w[0], w[1])), w[2], w[3])

        with torch.enable_grad():
            weights: list[Tensor] = [p if p.requires_grad else p.detach().requires_grad_() for p in self.parameters()]
            for _ in range(2):
                grads = torch.autograd.grad(F.mse_loss(run(support, weights), targets), weights, create_graph=True)
                weights = [w - 0.1 * g for w, g in zip(weights, grads)]
            return run(query, weights)


@wild(lambda: (floats(6, 2),))
class PhysicsInformed(nn.Module):
    """Value, gradient and Laplacian of a network by its coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(2, 12), nn.Linear(12, 10), nn.Linear(10, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            x = x.clone().requires_grad_(True)
            u = self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))
            du = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
            ddu = torch.stack([torch.autograd.grad(du[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)], 1)
        return u, du, ddu.sum(1)


@wild(lambda: (floats(6, 2),))
class FunctionalDerivatives(nn.Module):
    """`torch.func.jacrev`, `vmap` and `jvp` of a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        jacobian = torch.func.vmap(torch.func.jacrev(self.net))(x)
        _, tangent = torch.func.jvp(self.net, (x,), (torch.ones_like(x),))
        return jacobian, tangent


@wild(ROWS)
class DeepEquilibrium(nn.Module):
    """A fixed point found without gradients, one step with them."""

    def __init__(self) -> None:
        super().__init__()
        self.inject, self.inner, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def step(self, z: Tensor, x: Tensor) -> Tensor:
        """One application."""
        return torch.tanh(0.3 * self.inner(z) + x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inject(x)
        z = torch.zeros_like(x)
        with torch.no_grad():
            for _ in range(30):
                new = self.step(z, x)
                if (new - z).norm() < 1e-6 * (1e-8 + new.norm()):
                    break
                z = new
        return self.head(self.step(z, x))


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        return -ctx.scale * g, None


@wild(ROWS)
class GradientReversal(nn.Module):
    """Domain adaptation: a branch whose gradient is turned around."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.label, self.domain = (
            nn.Linear(6, 12),
            nn.Linear(12, 3),
            nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.body(x))
        return self.label(h), self.domain(_Reverse.apply(h, 0.5))


class _Couple(torch.autograd.Function):
    """Reversible coupling: activations are recomputed in the backward pass, weights through a closure."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, f: nn.Module, g: nn.Module, *weights: Tensor) -> Any:
        with torch.no_grad():
            y1 = a + f(b)
            y2 = b + g(y1)
        ctx.f, ctx.g, ctx.number = f, g, len(weights)
        ctx.save_for_backward(y1, y2)
        return y1, y2

    @staticmethod
    def backward(ctx: Any, d1: Tensor, d2: Tensor) -> Any:  # type: ignore[override]
        y1, y2 = (t.detach() for t in ctx.saved_tensors)
        with torch.enable_grad():
            y1 = y1.requires_grad_()
            gy = ctx.g(y1)
            grads_g = torch.autograd.grad(gy, [y1, *ctx.g.parameters()], d2)
            d1 = d1 + grads_g[0]
            b = (y2 - gy).detach().requires_grad_()
            fb = ctx.f(b)
            grads_f = torch.autograd.grad(fb, [b, *ctx.f.parameters()], d1)
        return d1, d2 + grads_f[0], None, None, *grads_f[1:], *grads_g[1:]


@wild(ROWS)
class Reversible(nn.Module):
    """Two streams of six, made from twelve by halves."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(6, 12), nn.Linear(12, 3)
        self.f, self.g = (
            nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6)),
            nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6)),
        )

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.inp(x).chunk(2, 1)
        y = _Couple.apply(a, b, self.f, self.g, *self.f.parameters(), *self.g.parameters())
        return self.out(torch.cat(y, 1))


@wild(ROWS)
class SumsAllParameters(nn.Module):
    """Returns a penalty over `self.parameters()`, and one over names that match."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        penalty = sum(p.pow(2).sum() for p in self.parameters())
        for name, p in self.named_parameters():
            if name.endswith("weight"):
                penalty = penalty + p.abs().sum()
        return self.fc2(torch.relu(self.fc1(x))), torch.as_tensor(penalty)


@wild(ROWS)
class MeanOfParameters(nn.Module):
    """A penalty that is a mean over a weight: the number of units is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc2(torch.relu(self.fc1(x))), self.fc1.weight.pow(2).mean() + self.fc2.weight.std()


@wild(ROWS)
class OrthogonalPenalty(nn.Module):
    """`W W^T - I` in Frobenius norm, and a nuclear norm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        w = self.fc1.weight
        gram = w @ w.T - torch.eye(w.shape[0]).to(w)
        return self.fc2(torch.relu(self.fc1(x))), gram.pow(2).sum() + torch.linalg.matrix_norm(w, "nuc")


@wild(lambda: (floats(4, 6), ids(3, 4)))
class ElasticConsolidation(nn.Module):
    """Copies of old weights and Fisher numbers in buffers named after the parameters; a penalty between."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
        for name, p in self.net.named_parameters():
            key = name.replace(".", "_")
            self.register_buffer(f"old_{key}", p.detach() + 0.1 * torch.randn_like(p))
            self.register_buffer(f"fisher_{key}", torch.rand_like(p))

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(x)
        loss = F.cross_entropy(logits, labels)
        for name, p in self.net.named_parameters():
            key = name.replace(".", "_")
            loss = loss + (getattr(self, f"fisher_{key}") * (p - getattr(self, f"old_{key}")).pow(2)).sum()
        return logits, loss


@wild(ROWS)
class CopiesItself(nn.Module):
    """A target network copied by `deepcopy` in forward, its weights nudged by `load_state_dict`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = copy.deepcopy(self.net)
            target.load_state_dict({k: 0.9 * v for k, v in target.state_dict().items()})
            bootstrap = target(x)
        return self.net(x) - bootstrap


@wild(ROWS)
class TrainsItself(nn.Module):
    """A test-time step of its optimiser in forward: weights are written."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            with torch.enable_grad():
                loss = F.mse_loss(self.fc2(torch.relu(self.fc1(x.detach()))), x.detach())
                grads = torch.autograd.grad(loss, list(self.parameters()), allow_unused=True)
            with torch.no_grad():
                for p, g in zip(self.parameters(), grads):
                    if g is not None:
                        p.sub_(g, alpha=0.01)
        return self.fc2(torch.relu(self.fc1(x)))


@wild(ROWS)
class StraightThrough(nn.Module):
    """Gumbel-softmax with hard choices, a sign with a clipped gradient, noise from `torch.distributions`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.choose, self.fc2 = nn.Linear(6, 12), nn.Linear(6, 4), nn.Linear(12, 3)
        self.table = nn.Parameter(torch.randn(4, 12))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        h = h.sign() + h.clamp(-1, 1) - h.clamp(-1, 1).detach()
        choice = F.gumbel_softmax(self.choose(x), hard=True)
        noise = torch.distributions.Normal(0.0, 1.0).rsample((4, 1)).to(x)
        return self.fc2(h * (choice @ self.table) + noise)
