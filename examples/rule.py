"""An operator rule, to copy: what an operator of your own says about dimensions.

    python examples/rule.py        runs the checks that our own rules run

Replace the operator by yours, say in the rule what happens to each dimension, and give a sample whose sizes come from its
tensors. Nothing else is needed: the rule holds for every network that the operator occurs in.
"""

from __future__ import annotations

import torch

from secateur.rules import Sample, rule
from secateur.testing import check_rule


@torch.library.custom_op("example::scaled_add", mutates_args=())
def scaled_add(x: torch.Tensor, y: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """The operator: x and y have the same dimensions, gain has one number for each index of their last."""
    return x + y * gain


@scaled_add.register_fake
def _(x, y, gain):
    return torch.empty_like(x)  # traces run on tensors without data


@rule(torch.ops.example.scaled_add)
def scaled_add_rule(trace, out, x, y, gain):
    """Called after the operator has run on the traced tensors, with its result and its arguments."""
    spaces = [trace.same(a, b) for a, b in zip(trace.spaces(x), trace.spaces(y), strict=True)]
    spaces[-1] = trace.same(spaces[-1], trace.spaces(gain)[0])
    # along a dimension, the result is zero at removed units where both terms are
    zero = [a and b for a, b in zip(trace.zero(x), trace.zero(y), strict=True)]
    trace.put(out, spaces, zero)


CHECKS = check_rule(Sample(torch.ops.example.scaled_add, (3, 4), (3, 4), (4,)))

if __name__ == "__main__":
    for check in CHECKS:
        check()
        print("holds:", check)
