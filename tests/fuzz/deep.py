"""Blocks that went whole, judged without asking how: the whole network in which each gives on what it was given, or zeros
where its caller adds what it gives (``x + self.block(x)``) and the plan says so.

    layers.0  layers.1  layers.2  ──► apply ──► layers.0  layers.1         which was which? each tensor says its own name
    layers.0  (gives on)  layers.2                                        what that must compute

Invariant: nothing here knows of stacks, renumbering or what a block was seen to pass on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import secateur as sc

from .tagged import BASE, named


def names_now(model: nn.Module, plan: sc.Plan) -> dict[str, str]:
    """What each tensor that stays is called afterwards, by its name before. The model is one to throw away."""
    before = named(model)
    numbers = {id(tensor): place for place, tensor in enumerate({id(t): t for t in before.values()}.values())}
    read: dict[str, int] = {}
    scale = 1
    while scale <= len(numbers):
        with torch.no_grad():
            for tensor in before.values():
                tensor.fill_(numbers[id(tensor)] // scale % BASE)
        for name, tensor in named(sc.apply(model, plan, verify=False)).items():
            if tensor.numel():
                digit = int(tensor.detach().flatten()[0].real)
                read[name] = read.get(name, 0) + scale * digit
        scale *= BASE
    after = {number: name for name, number in read.items()}
    now = {name: after[numbers[id(t)]] for name, t in before.items() if numbers[id(t)] in after}
    # two tensors on one storage tell one name
    return {name: name for name in before if name in read and name not in now.values()} | now


class Skipped(nn.Module):
    """Stands where a block stood, without its branch; what the code asks of the block it still gets."""

    def __init__(self, block: nn.Module, *, zeros: bool) -> None:
        super().__init__()
        self.__dict__["block"], self.__dict__["zeros"] = block, zeros

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        block = self.__dict__["block"]
        if self.__dict__["zeros"]:
            return torch.zeros_like(args[0])
        return block.skipped(*args, **kwargs) if hasattr(block, "skipped") else args[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)


def skip(model: nn.Module, plan: sc.Plan) -> None:
    """Let the modules that go give on what they are given, or zeros."""
    for name, passes in plan.instead.items():
        stack, _, key = name.rpartition(".")
        entries = model.get_submodule(stack)._modules
        block = entries[key]
        assert block is not None
        entries[key] = Skipped(block, zeros=passes is not None and passes.zeros)
