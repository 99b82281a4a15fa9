"""How steeply a distance between answers rises in each weight: two factors a contraction, and the way down from a gradient.

    y = W x          curvature of W  ≈  A ⊗ B,   A the second moment of x (1 appended for a bias), B that of ∂ draw / ∂y
                     way down        =  − (B + λ)⁻¹ G (A + λ)⁻¹        λ = damping × mean diagonal

Kronecker factors after Martens and Grosse, arXiv 1503.05671; of convolutions arXiv 1602.01407; both of pruning: The LLM Surgeon,
arXiv 2312.17244.  (R rows, G groups, D inputs of one output, O outputs of a group.)

Invariant: a factor is never larger than `WIDEST` squared numbers; what is wider is taken as independent.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from secateur.torch.compensation.rows import input_rows, output_rows, positions, weight_of_rows, weight_rows
from secateur.torch.running.contractions import Site
from secateur.torch.running.distributed import Group, reduce_sum
from secateur.torch.running.padding import NOTHING_PADDED, Padding

WIDEST = 4096
_ROWS = 4096  # of each contraction in one batch
Change = dict[str, torch.Tensor]  # of parameters by name, each in its own shape


@dataclass(slots=True)
class Factor:
    """A second moment of rows ``[R, G, F]``; state, because it grows with every batch."""

    sum: torch.Tensor | None = None  # [G, F, F], or its diagonal [G, F]
    rows: int = 0

    def add(self, rows_RGF: torch.Tensor) -> None:
        """More rows."""
        rows_GRF = rows_RGF.float().transpose(0, 1)
        new = (rows_GRF.mT @ rows_GRF).double() if rows_GRF.shape[2] <= WIDEST else rows_GRF.square().sum(1).double()
        self.sum = new if self.sum is None else self.sum + new
        self.rows += len(rows_RGF)

    def summed(self, group: Group) -> None:
        """Of all processes."""
        if self.sum is not None:
            count = self.sum.new_tensor(self.rows)
            reduce_sum([self.sum, count], group)
            self.rows = int(count)

    def solved(self, right_GFC: torch.Tensor, damping: float) -> torch.Tensor:
        """(moment + λ)⁻¹ of this."""
        assert self.sum is not None
        mean = self.sum / max(self.rows, 1)
        diagonal = mean if mean.dim() == 2 else mean.diagonal(dim1=1, dim2=2)
        light = (damping * diagonal.mean(1)).clamp_min(torch.finfo(torch.float32).tiny)
        if mean.dim() == 2:
            return right_GFC / (mean + light[:, None])[..., None]
        held = mean + torch.diag_embed(light[:, None].expand_as(diagonal))
        factor, failed = torch.linalg.cholesky_ex(held)
        return self.solved(right_GFC, damping * 10) if failed.any() else torch.cholesky_solve(right_GFC, factor)


@dataclass(slots=True)
class Curved:
    """One contraction's weight, with its bias if that is its own, and its factors."""

    site: Site
    bias: str | None
    inputs: Factor = field(default_factory=Factor)
    outputs: Factor = field(default_factory=Factor)

    def way_down(self, gradient: Change, damping: float) -> Change:
        """Where a distance with this gradient falls fastest for how far the answers move."""
        rows_GOD = weight_rows(replace(self.site, weight=gradient[self.site.name])).double()
        if self.bias is not None:
            shift_GO1 = gradient[self.bias].double().view(len(rows_GOD), -1, 1)
            rows_GOD = torch.cat([rows_GOD, shift_GO1], 2)
        down = -self.inputs.solved(self.outputs.solved(rows_GOD, damping).mT, damping).mT.float()
        found = {self.site.name: weight_of_rows(self.site, down[..., : self._width])}
        return found if self.bias is None else {**found, self.bias: down[..., -1].flatten()}

    @property
    def _width(self) -> int:
        return weight_rows(self.site).shape[2]


class Curvature:
    """A tap that looks at one batch's contractions; ``hear`` takes what came back to them. State: edges of the graph."""

    def __init__(self, curved: dict[str, Curved], seed: int = 0, padding: Padding = NOTHING_PADDED) -> None:
        self.curved, self.seed, self.padding = curved, seed, padding
        self.edges: list[torch.autograd.graph.GradientEdge] = []
        self._at: list[tuple[Curved, Site, torch.Tensor]] = []

    def before(self, site: Site) -> torch.Tensor:
        return site.x

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        """Take rows of the input, and note where the gradient of the output will come by."""
        curved = self.curved.get(site.name)
        if curved is None or not y.requires_grad:
            return y
        at = positions(y, site, _ROWS, self.seed, self.padding)
        rows_RGD = input_rows(site, at, tuple(y.shape[-site.spatial :]) if site.spatial else ()).detach()
        if curved.bias is not None:
            rows_RGD = torch.cat([rows_RGD, rows_RGD.new_ones(*rows_RGD.shape[:2], 1)], 2)
        curved.inputs.add(rows_RGD)
        # not the tensor: code may go on in place, and then it is another one
        self.edges.append(torch.autograd.graph.get_gradient_edge(y))
        self._at.append((curved, replace(site, x=site.x.new_empty(0), again=None), at))
        return y

    def hear(self, gradients: tuple[torch.Tensor | None, ...]) -> None:
        """The gradients of a draw by the outputs, in the order of ``edges``."""
        for (curved, site, at), gradient in zip(self._at, gradients, strict=True):
            if gradient is not None:
                curved.outputs.add(output_rows(gradient, site, at).unflatten(1, (_groups(site), -1)))


def _groups(site: Site) -> int:
    return len(weight_rows(site))
