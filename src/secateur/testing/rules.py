"""The conformance kit for operator rules: narrow every free width of a sample by lot, and compare with the masked sample.

    @pytest.mark.parametrize("check", check_rule(Sample(torch.ops.mylib.scaled_add, (3, 4), (3, 4), (4,))), ids=str)
    def test_my_rule(check): check()

    Sample(function, shapes)  ──►  a module whose tensors are parameters  ──►  trace ──► random plans ──► verify, apply, recount

Invariant: a sample that passes has been run narrowed, at several random kept sets, and counted the same costs.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.verification import Verification
from secateur.errors import VerificationError
from secateur.testing.check import Check
from secateur.testing.plans import random_plan
from secateur.torch.apply import apply
from secateur.torch.rules import Sample
from secateur.torch.trace import trace
from secateur.torch.verify import verify

NO_INPUT: tuple[object, ...] = ()


def check_rule(sample: Sample, *, num_plans: int = 3) -> list[Check]:
    """Named checks of the rules of all operators that a sample runs.

    Let the sizes in a sample come from its tensors, not from numbers: a number in the code freezes what it describes.
    """
    case = RuleCase(sample, num_plans)
    claims = (
        case.every_operator_has_a_rule,
        case.leaves_something_to_narrow,
        case.narrowed_computes_what_masked_does,
        case.compares_an_exact_width,
        case.costs_what_was_foretold,
    )
    return [Check(claim.__name__, claim) for claim in claims]


class SampleModule(nn.Module):
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

    def forward(self) -> object:
        """The sample's function of its tensors."""
        return self.function(*(getattr(self, name) for name in self.names))


class RuleCase:
    """One sample, traced and narrowed once; a class because every check wants the same graph and plans."""

    def __init__(self, sample: Sample, num_plans: int = 3) -> None:
        self.sample, self.num_plans = sample, num_plans

    @cached_property
    def model(self) -> nn.Module:
        """The sample as a module."""
        return SampleModule(self.sample).eval()

    @cached_property
    def graph(self) -> Graph:
        """What its rules say."""
        return trace(self.model, NO_INPUT, interface=False)

    @cached_property
    def plans(self) -> list[Plan]:
        """Plans by lot. None keeps a single unit of many: sizes of one take other paths, which `costs` could not follow."""
        return [random_plan(self.graph, seed, avoid_one=True) for seed in range(self.num_plans)]

    @cached_property
    def verifications(self) -> list[Verification]:
        """What was compared. Raises VerificationError where a rule is wrong."""
        return [verify(self.model, plan, self.graph) for plan in self.plans]

    def every_operator_has_a_rule(self) -> None:
        lacking = [note for note in self.graph.notes if note.startswith("no rule for")]
        assert not lacking, "; ".join([*lacking, *sorted({w.frozen for w in self.graph.widths if w.frozen})])

    def leaves_something_to_narrow(self) -> None:
        assert self.graph.free, f"everything is frozen: { {w.name: w.frozen for w in self.graph.widths} }"

    def narrowed_computes_what_masked_does(self) -> None:
        try:
            worst = max(verification.max_difference for verification in self.verifications)
        except VerificationError as error:
            raise AssertionError(f"the narrowed sample computes something else than the masked one: {error}") from error
        assert worst <= self.verifications[0].tolerance, f"narrowed and masked differ by {worst:.1e}"

    def compares_an_exact_width(self) -> None:
        exact = [width.name for width in self.graph.free if width.exact]
        assert exact, (
            "no width is exact: the rule says of none that removed units are zero, so nothing could be compared"
        )

    def costs_what_was_foretold(self) -> None:
        for plan in self.plans:
            if any(plan.sizes[name] == 1 for name in plan.kept):
                continue  # a reshape of one need not copy, einsum multiplies
            again = trace(apply(self.model, plan, verify=False), NO_INPUT, interface=False, check=False)
            for metric in self.graph.costs:
                foretold, counted = self.graph.cost(metric, plan.sizes), again.cost(metric)
                assert foretold == counted, f"{metric}: the plan says {foretold}, the narrowed module counts {counted}"
