"""What kernels hold beside their result while they run, as a profiler sees it.

    convolution on a CPU:   copies of input, weight and output in blocks ──► compute ──► the output copied back
                            +in +w +out'                                     −in −w      +out  −out'

A transposed one copies its output twice. Recurrent layers project a sequence whole, for all gates at once; an LSTM's
kernel copies its weights as well, one layer and direction after the other, and takes as many numbers for its input and its
state as for two gates of each where these are more.

Matrix products, 1 × 1 convolutions, element-wise operators and attention work in place of their result, or next to it in little.
What cuDNN takes on a GPU is its own choice at run time, and not said here.

Invariant: what is taken here is given back here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from secateur.core.space import Space, is_frozen

CostTerm = tuple[int, tuple[Space, ...], str]  # coefficient, sizes, and the module that pays

_BLOCK = 16  # channels; a model's input with fewer is read as it lies
_BLOCKED = (torch.float32, torch.bfloat16, torch.float16)  # other types take another path


@dataclass
class Scratch:
    """Copies that kernels make, each with the allocation before which it happens. State: it grows as operators run."""

    events: list[tuple[int, CostTerm]] = field(default_factory=list)

    def note(
        self,
        name: str,
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        span: tuple[int, int],
        term: Callable[[torch.Tensor], CostTerm],
    ) -> None:
        """An operator ran, whose own allocations are those of ``span``."""
        if name != "convolution" or len(outputs) != 1 or _is_product(inputs[0], inputs[1], outputs[0]):
            return
        copies = [term(tensor) for tensor in (*inputs[:2], *outputs)]
        if _few(copies[0]):
            del copies[0]
        released = [(-number, spaces, pays) for number, spaces, pays in copies]
        again = copies[-1:] if _grows(inputs[0], outputs[0]) else []
        self.events += [(span[0], event) for event in [*copies, *released[:-1], *again]]
        self.events += [(span[1], event) for event in released[-1:] * (1 + len(again))]

    def recurrent(
        self,
        name: str,
        args: Sequence[object],
        span: tuple[int, int],
        spaces: Callable[[torch.Tensor], Sequence[Space]],
        module: str,
    ) -> None:
        """A recurrent function ran on ``args``, step by step, whose own allocations are those of ``span``: the layers and
        directions take equal parts of it, one after the other.
        """
        x = args[0] if args else None
        lists = [arg for arg in args if isinstance(arg, list | tuple) and arg and isinstance(arg[0], torch.Tensor)]
        matrices = [weight for weight in lists[-1] if weight.dim() == 2] if lists else []
        if not isinstance(x, torch.Tensor) or len(matrices) < 2 or span[0] == span[1]:
            return
        size, rows = x.element_size(), spaces(x)[:-1]
        projected = any(len(weight) != len(matrices[0]) for weight in matrices)
        blocked = name == "lstm" and x.dtype in _BLOCKED and not projected
        laid_out = [(size, tuple(spaces(x)), module)] if blocked and args[-1] is True else []  # batch_first
        self.events += [(span[0], term) for term in laid_out]
        layers = list(zip(matrices[:: 2 + projected], matrices[1 :: 2 + projected], strict=True))
        ends = [span[0] + (span[1] - span[0]) * number // len(layers) for number in range(len(layers) + 1)]
        for number, (of_input, of_state) in enumerate(layers):
            gates = [(size, (*rows, spaces(of_input)[0]), module)]
            copies: list[CostTerm] = []
            blocks: list[CostTerm] = []
            if blocked:
                copies = [(size, tuple(spaces(weight)), module) for weight in (of_input, of_state)]
                blocks = [(2 * size, (*rows, spaces(weight)[1]), module) for weight in (of_input, of_state)]
            self.events += [(ends[number], term) for term in (*copies, *gates)]
            late = (*_back(gates), *blocks, *_back(blocks), *_back(copies))
            self.events += [(ends[number + 1], term) for term in late]
        self.events += [(span[1], term) for term in _back(laid_out)]

    def among(self, allocations: Sequence[CostTerm]) -> Iterator[CostTerm]:
        """Allocations and copies in the order in which they happen."""
        begun = 0
        for place, event in self.events:
            yield from allocations[begun:place]
            yield event
            begun = place
        yield from allocations[begun:]


def _back(held: Sequence[CostTerm]) -> list[CostTerm]:
    return [(-number, spaces, pays) for number, spaces, pays in held]


def _is_product(x: torch.Tensor, weight: torch.Tensor, output: torch.Tensor) -> bool:
    """Nothing is laid out anew: 1 × 1 at every position, or a type that takes another path."""
    one_by_one = set(weight.shape[2:]) == {1} and x.shape[2:] == output.shape[2:] and weight.shape[1] == x.shape[1]
    return one_by_one or x.dtype not in _BLOCKED


def _few(x: CostTerm) -> bool:
    """The channels of a picture. (Those of a width may become few: what a plan costs must be what its network is counted to.)"""
    return len(x[1]) > 1 and x[1][1].size < _BLOCK and is_frozen(x[1][1])


def _grows(x: torch.Tensor, output: torch.Tensor) -> bool:
    """As only a transposed convolution does, but for padding beyond need."""
    return all(after > before for before, after in zip(x.shape[2:], output.shape[2:], strict=False))
