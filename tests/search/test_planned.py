"""Plans within a budget: what saves nothing of what is bounded stays."""

import torch
from torch import nn

import secateur as sc
from secateur.core.cost import Polynomial, Term


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 12), nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.b(self.a(x).relu()).relu())


def test_a_width_that_no_bounded_cost_has_a_term_of_stays_whole() -> None:
    graph = sc.trace(Two(), torch.randn(2, 4))
    (of_a,) = [term for term in graph.costs["macs"].terms if term.module == "a"]  # type: ignore[attr-defined]
    graph = graph.with_cost("of a", Polynomial((Term(1, of_a.axes, "a"),)))
    plan = sc.plan(graph, sc.criteria.L1(), {"of a": "50%"})
    assert list(plan.kept) == ["a.out_features"]
    both = sc.plan(graph, sc.criteria.L1(), {"of a": "50%", "params": "50%"})
    assert len(both.kept) == 2
