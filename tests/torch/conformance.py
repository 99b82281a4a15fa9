"""Is an operator's rule right? Narrow every free width of a sample at random, and compare with the masked sample.

    Sample(function, shapes)  ──►  a module whose tensors are parameters  ──►  trace ──► random plans ──► verify, apply, recount

Invariant: a sample that passes has been run narrowed, at several random kept sets, and counted the same costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from tests.fuzz.oracle import random_plan
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.verification import Verification
from secateur.torch.apply import apply
from secateur.torch.rules import Sample
from secateur.torch.trace import trace
from secateur.torch.tracing import tracer
from secateur.torch.verify import verify

NO_INPUT: tuple[Any, ...] = ()


class Call(nn.Module):
    """A sample as a module: its tensors are parameters (integers: buffers), so that each of their axes may be a width."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self.function, self.names = sample.function, [f"tensor{i}" for i in range(len(sample.tensors))]
        generator = torch.Generator().manual_seed(0)
        for name, given in zip(self.names, sample.tensors, strict=True):
            tensor = given if isinstance(given, torch.Tensor) else torch.randn(given, generator=generator)
            if tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def forward(self) -> Any:
        return self.function(*(getattr(self, name) for name in self.names))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a sample showed: its graph, how often it was compared, and the operators that ran."""

    graph: Graph
    verifications: tuple[Verification, ...]
    operators: frozenset[Any]


def judge(sample: Sample, seeds: int = 3) -> Judged:
    """Narrow a sample at random and compare. Raises VerificationError or AssertionError where its rule is wrong."""
    model = Call(sample).eval()
    with operators_seen() as seen:
        graph = trace(model, NO_INPUT, interface=False)
    compared = []
    for seed in range(seeds):
        plan = random_plan(graph, seed, avoid_one=True)
        compared.append(verify(model, plan, graph))
        recount(apply(model, plan, verify=False), graph, plan)
    return Judged(graph=graph, verifications=tuple(compared), operators=frozenset(seen))


def recount(small: nn.Module, graph: Graph, plan: Plan) -> None:
    """The narrowed module, traced afresh, must cost what the plan's polynomials say."""
    again = trace(small, NO_INPUT, interface=False, check=False)
    if any(plan.sizes[name] == 1 for name in plan.kept):
        return  # sizes of one take other paths: a reshape need not copy, einsum multiplies
    for metric in graph.costs:
        foretold, counted = graph.cost(metric, plan.sizes), again.cost(metric)
        assert foretold == counted, f"{metric}: the plan says {foretold}, the narrowed module counts {counted}"


@contextmanager
def operators_seen() -> Iterator[set[Any]]:
    """The operators (packets, or Python functions) that a trace in the block asks a rule for."""
    seen: set[Any] = set()
    real = tracer.find

    def find(operator: Any) -> Any:
        seen.add(getattr(operator, "overloadpacket", operator))
        return real(operator)

    with mock.patch.object(tracer, "find", find):
        yield seen
