"""Operator rules: what each ATen operator says about dimensions. One file a family.

    @rule("mm")
    def mm(trace, out, a, b): ...      # unify the contracted spaces, say what the output is made of
    @sample("mm")
    def _(): return Sample(torch.mm, (3, 4), (4, 5))

An operator without a rule freezes what it touches. ``docs/writing-a-rule.md`` explains how to add one for a custom operator;
the conformance test narrows every sample and compares it with the masked result.
"""

from secateur.torch.rules.protocol import Trace
from secateur.torch.rules.registry import FUNCTION_RULES, RULES, Sample, find, rule, sample, samples

__all__ = ["FUNCTION_RULES", "RULES", "Sample", "Trace", "find", "rule", "sample", "samples"]

from secateur.torch.rules import (  # noqa: F401  registering is what importing these is for
    attention,
    convolution,
    factories,
    gradients,
    indexing,
    joining,
    linalg,
    losses,
    matmul,
    norms,
    pointwise,
    pooling,
    quantisation,
    recurrent,
    reductions,
    shape,
    slicing,
)
