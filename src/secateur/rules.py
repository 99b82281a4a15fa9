"""Operator rules: what an operator says about dimensions, and the algebra to say it in.

    @rule(torch.ops.mylib.scaled_add)
    def scaled_add(trace, out, x, y, gain):
        trace.put(out, [trace.same(a, b) for a, b in zip(trace.spaces(x), trace.spaces(y))])

A space is a dimension; `split` and `cut` take one apart, `merge` and `concat` join several, `freeze` keeps one whole. What a
rule may call on ``trace`` is `Trace`; `testing.check_rule` says whether a rule is right.
"""

from secateur.core.space import (
    ONE,
    Space,
    concat,
    constant,
    cut,
    factors,
    freeze,
    is_frozen,
    leaves,
    mark_inexact,
    merge,
    parts,
    split,
    window,
)
from secateur.torch.rules import Sample, Trace, rule, sample, samples

__all__ = [
    "ONE",
    "Sample",
    "Space",
    "Trace",
    "concat",
    "constant",
    "cut",
    "factors",
    "freeze",
    "is_frozen",
    "leaves",
    "mark_inexact",
    "merge",
    "parts",
    "rule",
    "sample",
    "samples",
    "split",
    "window",
]
