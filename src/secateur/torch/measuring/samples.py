"""Which rows of an activation belong to which sample of the batch.

    x of a linear layer:  [B, T, F]   [T, B, F]   [B·T, F]   [T·B, F]     all occur, and T may equal B

So we ask the model: one sample is replaced by another, and the rows that change are its rows.

Invariant: where the answer is not clear (tokens routed to experts, samples that influence each other, activations that do
not depend on the input) there is none, and what was found there is shared out evenly among the samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import nn

from secateur.torch.running.contractions import Site, taps
from secateur.torch.running.example import Example, _leaves, batch_size

_IN_BLOCKS = (torch.sparse_bsr, torch.sparse_bsc)  # of several rows, which cannot go one by one

Turn = tuple[str, int]  # the name of a weight, and the how-manieth contraction with it in one forward pass


_CLEAR = 0.99  # share of all change that must lie in one sample's rows; the rest may be rounding


@dataclass(frozen=True, slots=True)
class Rows:
    """Dimension ``dim`` of the rows counts samples: as the slower index of ``[B, m]``, or the faster of ``[m, B]``."""

    dim: int
    slower: bool

    def fits(self, shape: torch.Size, batch: int) -> bool:
        """Whether rows of this shape can be told apart so."""
        return self.dim < len(shape) and shape[self.dim] % batch == 0

    def by_sample(self, values: torch.Tensor, batch: int) -> torch.Tensor:
        """``[*rows, F]`` to ``[batch, everything else, F]``."""
        sizes = (batch, -1) if self.slower else (-1, batch)
        apart = values.unflatten(self.dim, sizes)
        return apart.movedim(self.dim + (0 if self.slower else 1), 0).flatten(1, -2)


@dataclass(frozen=True, slots=True)
class Contractions:
    """The contractions that one forward pass runs, and how each tells samples apart."""

    sites: Mapping[str, Site]
    rows: Mapping[Turn, Rows | None]


def contractions_of(model: nn.Module, given: object, *, samples: bool = True) -> Contractions:
    """Run the model on one batch, and (for ``samples``) on two of its samples, once with the first replaced by the second."""
    example = Example.of(model, given)
    first, batch = _look(example), batch_size(example)
    if not samples:
        return Contractions(first.sites, {})
    other = next((i for i in range(1, batch) if _differ(example, batch, i)), None)
    if other is None:
        return Contractions(first.sites, dict.fromkeys(first.seen, Rows(0, True)))
    with suppress(Exception):  # code that was written for one batch size
        pair = _look(example.map(lambda t: _pair(t, batch, 0, other)))
        if pair.seen.keys() == first.seen.keys():
            again = _look(example.map(lambda t: _pair(t, batch, other, other)))
            return Contractions(first.sites, _told_apart(pair, again, 2))
    again = _look(example.map(lambda t: _replaced(t, batch, other)))
    return Contractions(first.sites, _told_apart(first, again, batch))


def _told_apart(first: _Look, second: _Look, batch: int) -> dict[Turn, Rows | None]:
    return {key: _clearest(seen, second.seen.get(key), batch) for key, seen in first.seen.items()}


def _pair(tensor: torch.Tensor, batch: int, one: int, other: int) -> torch.Tensor:
    """Two of its samples: whole passes over large batches cost more than all of the calibration beside them."""
    return rows_of(tensor, [one, other]) if has_samples(tensor, batch) else tensor


class _Look:
    """A tap that keeps one number for each row of each input; state, because a tap is called back."""

    def __init__(self) -> None:
        self.sites: dict[str, Site] = {}
        self.seen: dict[Turn, torch.Tensor] = {}
        self.calls: Counter[str] = Counter()

    def before(self, site: Site) -> torch.Tensor:
        self.sites.setdefault(site.name, replace(site, x=site.x.new_empty(0), again=None))  # keep no activation alive
        self.seen[site.name, self.calls[site.name]] = over_space(site.x.detach().float().abs(), site.spatial).sum(-1)
        self.calls[site.name] += 1
        return site.x

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        return y


def over_space(values: torch.Tensor, spatial: int) -> torch.Tensor:
    """``[*rows, F]`` from ``[*rows, F, *spatial]``: the sum over the spatial dimensions, of which there are so many."""
    if spatial:
        values = values.flatten(-spatial).sum(-1)
    return values if values.dim() > 1 else values.unsqueeze(0)


def _look(example: Example) -> _Look:
    tap = _Look()
    with torch.no_grad(), taps(example.model, tap):
        example.model(*example.args, **example.kwargs)
    return tap


def _clearest(first: torch.Tensor, second: torch.Tensor | None, batch: int) -> Rows | None:
    if second is None or second.shape != first.shape:
        return None
    change = (first - second).abs().nan_to_num().double().cpu()
    total = float(change.sum())
    ways = [Rows(dim, slower) for dim in range(change.dim()) for slower in (True, False)]
    shares = {w: float(w.by_sample(change[..., None], batch)[0].sum()) for w in ways if w.fits(change.shape, batch)}
    best = max(shares, key=lambda way: shares[way], default=None)
    return best if best is not None and total > 0 and shares[best] >= _CLEAR * total else None


def _differ(example: Example, batch: int, other: int) -> bool:
    some = ((rows_of(t, [0]), rows_of(t, [other])) for t in _leaves(example) if has_samples(t, batch))
    return any(not torch.equal(a.to_dense(), b.to_dense()) for a, b in some)


def _replaced(tensor: torch.Tensor, batch: int, other: int) -> torch.Tensor:
    return rows_of(tensor, [other, *range(1, batch)]) if has_samples(tensor, batch) else tensor


def has_samples(value: object, batch: int) -> TypeGuard[torch.Tensor]:
    """Whether the first dimension of this counts the samples of a batch."""
    if not isinstance(value, torch.Tensor) or value.dim() == 0 or value.layout in _IN_BLOCKS:
        return False
    return value.shape[0] == batch


def rows_of(tensor: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
    """These samples of a tensor, in the layout that it has: rows of a sparse one are found among its coordinates alone."""
    if tensor.layout is torch.strided:
        return tensor[list(samples)]
    at = torch.tensor(samples, device=tensor.device)
    rows = tensor.to_sparse_coo().index_select(0, at)
    return rows if tensor.layout is torch.sparse_coo else rows.to_sparse(layout=tensor.layout)
