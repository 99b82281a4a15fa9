"""Example inputs, written on the command line.

    1x3x224x224                a float tensor, the next positional argument
    ids:1x16                   token numbers (int64)
    mask:1x16                  ones (int64)
    pixel_values=1x3x32x32     any of these as a keyword argument

Invariant: the result is what `secateur.trace` takes as ``dummy_input``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from secateur.core.text import visible
from secateur.errors import InputError, nearest
from secateur.scenario.models import default_inputs

_FORM = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?:(?P<kind>[a-z]+):)?(?P<shape>[0-9]{1,9}(?:x[0-9]{1,9})*)")
_LARGEST = 10**9

KINDS: dict[str, Callable[[tuple[int, ...]], Tensor]] = {
    "float": lambda shape: torch.rand(shape, generator=torch.Generator().manual_seed(0)),
    "ids": lambda shape: torch.ones(shape, dtype=torch.int64),
    "mask": lambda shape: torch.ones(shape, dtype=torch.int64),
    "bool": lambda shape: torch.ones(shape, dtype=torch.bool),
}


def example_for(model: nn.Module, spec: str, inputs: Sequence[str]) -> tuple[object, ...]:
    """What the model is run on: as given, or as its architecture says."""
    texts = list(inputs) or default_inputs(model, spec)
    if not texts:
        raise InputError(f"{visible(spec)} does not say what it takes; add for example --input 1x3x224x224")
    return read_inputs(texts)


def read_inputs(texts: Sequence[str]) -> tuple[object, ...]:
    """Positional tensors, then a dict of the named ones. Raises InputError for what cannot be read."""
    positional: list[Tensor] = []
    named: dict[str, Tensor] = {}
    for text in texts:
        name, tensor = _read(text)
        if name is None:
            positional.append(tensor)
        elif name in named:
            raise InputError(f"the input {name!r} is given twice")
        else:
            named[name] = tensor
    return (*positional, named)


def _read(text: str) -> tuple[str | None, Tensor]:
    form = _FORM.fullmatch(text)
    if form is None:
        raise InputError(f"cannot read the input {visible(text)!r}; write 1x3x224x224, ids:1x16 or name=ids:1x16")
    kind = form["kind"] or "float"
    if kind not in KINDS:
        raise InputError(f"no kind of input is called {kind!r}.{nearest(kind, KINDS)} Known are {', '.join(KINDS)}")
    shape = tuple(map(int, form["shape"].split("x")))
    if not 0 < math.prod(shape) <= _LARGEST:
        raise InputError(f"the input {text!r} must have between one and {_LARGEST:,} elements")
    return form["name"], KINDS[kind](shape)
