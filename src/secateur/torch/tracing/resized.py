"""What the code does with inputs of other sizes.

    h.reshape(b, t, -1)      on one step it mixes nothing, on two it mixes steps with heads: heard on both, it freezes the heads
    h[..., : t // 16]        on eight steps nothing is taken, on sixteen one unit is

Installed packages' code takes what it takes at any size; a user's own may be right at the example's alone.

Invariant: a size that the model does not run at adds nothing.
"""

from __future__ import annotations

import contextlib
from inspect import unwrap

import torch
from torch import nn

from secateur.core.space import freeze, leaves
from secateur.torch.running.example import Example
from secateur.torch.running.resizing import other_numbers, other_sizes
from secateur.torch.running.restoring import abstract_like
from secateur.torch.running.users import is_users
from secateur.torch.running.walking import modules_of
from secateur.torch.tracing.observe import Observation, Witness, listen_again, real_like, witness

DIVIDED_BY_INPUT = "the code divides it in another way on inputs of other sizes or with other numbers"


def listen_resized(seen: Observation) -> None:
    """Hear the first example once more at each other size of its inputs that code of the user's own runs at, and with other
    whole numbers. What another input divides otherwise is left whole."""
    if not has_users_code(seen.example.model):
        return
    before = [list(leaves(space)) for layout in seen.spaces.values() for space in layout]
    for others in (*(others for _, others in other_sizes(seen.example)), *other_numbers(seen.example)):
        other = next((other for other in others if _runs(seen, other)), None)
        if other is not None:
            known = len(seen.further)
            with contextlib.suppress(Exception):
                listen_again(seen, other, training=False)
            for run in seen.further[known:]:
                run.resized = True
    for parts in before:
        if any(leaf.root().children for leaf in parts):  # then so may the other parts be, on yet another input
            for leaf in parts:
                freeze(leaf, DIVIDED_BY_INPUT)


def has_users_code(model: nn.Module) -> bool:
    """Whether a forward of the model's, or a hook on it, is of the user's own."""
    for module in modules_of(model):
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        # what is compiled is nobody's code, and would write down that it was asked for it
        running = () if isinstance(module, torch.jit.ScriptModule) else (module.forward,)
        for function in (*running, *hooks):
            code = getattr(unwrap(getattr(function, "__func__", function)), "__code__", None)
            if code is not None and is_users(code):
                return True
    return False


def _runs(seen: Observation, example: Example) -> bool:
    abstract = seen.tracer.abstract and seen.tracer.answers is None
    try:
        witness(Witness(abstract=abstract), example, seen.outside, abstract_like if abstract else real_like)
    except Exception:
        return False
    return True
