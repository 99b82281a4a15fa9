"""Hooks that sit on a parameter itself, not on a module."""

from __future__ import annotations

import torch

_TABLES = {"_backward_hooks": "register_hook", "_post_accumulate_grad_hooks": "register_post_accumulate_grad_hook"}


def hooks_on(parameter: torch.Tensor) -> set[str]:
    """The methods by which its hooks were registered."""
    return {method for table, method in _TABLES.items() if getattr(parameter, table, None)}


def carry_hooks(old: torch.Tensor, new: torch.Tensor) -> None:
    """Let the hooks of one sit on the other too: in the same tables, so that their handles remove them from both."""
    for table in _TABLES:
        if getattr(old, table, None):
            setattr(new, table, getattr(old, table))
