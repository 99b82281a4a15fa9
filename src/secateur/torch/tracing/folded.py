"""Widths that only training has, beside a tensor that evaluation may take in place of what they are of.

    if self.training: return self.v(self.u(x))
    if self.folded is None: self.folded = self.v.weight @ self.u.weight      kept from a call before: pruned, it is still
    return x @ self.folded.t()                                               the product of what was there

Invariant: such a width is frozen, whoever made the tensor; what evaluation reads as well stays as free as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from secateur.core.space import Space, freeze, leaves
from secateur.torch.narrowing.bookkeeping import recomputed
from secateur.torch.running.holding import ATOMS, everything_in
from secateur.torch.running.walking import attributes_of, named_parameters
from secateur.torch.tracing.live import used_in
from secateur.torch.tracing.observe import Observation

_MOST = 10_000  # things that are looked into


def freeze_folded(seen: Observation) -> None:
    """Freeze what training alone reads of parameters beside which a tensor of numbers is kept."""
    trained, evaluated = (
        used_in(record for run in seen.runs if run.training is training for record in run.tracer.records)
        for training in (True, False)
    )
    only_trained = trained - evaluated
    if not only_trained:
        return
    parameters = dict(named_parameters(seen.example.model))
    kept: dict[str, str | None] = {}
    for name in parameters:
        mine = [leaf for space in seen.spaces.get(name, ()) for leaf in leaves(space) if id(leaf) in only_trained]
        for module in _above(name) if mine else ():
            if module not in kept:
                kept[module] = next(_kept_by(seen.modules, module, parameters), None)
            if kept[module] is not None:
                _freeze(mine, name, str(kept[module]))
                break


def _freeze(mine: list[Space], name: str, where: str) -> None:
    for leaf in mine:
        freeze(
            leaf,
            f"only training reads {name}, and {where} may be what evaluation reads in its place: "
            "where it is made of parameters, clear it before tracing",
        )


def _above(name: str) -> Iterator[str]:
    """The modules that a tensor is inside of, the innermost first."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _kept_by(modules: Mapping[str, nn.Module], name: str, parameters: Mapping[str, nn.Parameter]) -> Iterator[str]:
    """The matrices of numbers that a module holds beside parameters, itself or in what it holds."""
    module = modules.get(name)
    if module is None:
        return
    passing, known = recomputed(module), {id(other) for other in (*modules.values(), *parameters.values())}
    for key, value in (*attributes_of(module), *module._buffers.items()):
        if key in passing or type(value) in ATOMS:
            continue
        for item in everything_in(value, known, _MOST):
            if isinstance(item, torch.Tensor) and item.is_floating_point() and item.dim() > 1:
                yield f"{name}.{key}" if name else key
