"""What is decided where all passes meet: new weights, new batch-norm statistics.

    contraction            least squares from the narrowed inputs to what the original gave, at the kept outputs
    batch norm             the moments of what now arrives
    contraction, summed    the same to (original sum − what the narrowed network adds to it): a block gives back
                           what all blocks before it lost

Invariant: a weight that is used in more than one place is left as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from secateur.torch.compensation.passes import Addition, Arrival, Moments, Place
from secateur.torch.compensation.rows import weight_of_rows, weight_rows
from secateur.torch.compensation.solve import Fit, refit, shift_only
from secateur.torch.running.contractions import Site
from secateur.torch.running.distributed import reduce_sum

_NO_SCALE = 1e-3  # a smaller factor lets nothing through that could be fitted


class Decisions:
    """Called by `Lockstep` with a place and what each pass brings; state, because a sum is decided after its contraction."""

    def __init__(
        self,
        places: Mapping[str, Place],
        kept: Mapping[str, torch.Tensor],
        *,
        looked_up: frozenset[str],
        method: str,
        ridge: float,
    ) -> None:
        self.places, self.kept, self.method, self.ridge = places, kept, method, ridge
        visits = Counter(place.site for place in places.values())
        self.left = {name: "its weight is used more than once" for name, count in visits.items() if count > 1}
        self.left |= {name: "its weight is an embedding, too" for name in looked_up if name in visits}
        self.left |= {place.site: place.left for place in places.values() if place.left is not None}
        biases = Counter(bias for _, bias in {(place.site, place.bias) for place in places.values()})
        self.shared_biases = {bias for bias, count in biases.items() if bias is not None and count > 1}
        self.refitted: set[str] = set()
        self._open: dict[str, tuple[Site, torch.Tensor]] = {}  # contractions that wait for their sum
        self._affine: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # weight and bias of the batch norm after them

    def __call__(self, name: str, here: Mapping[int, Any]) -> bool:
        some = next(iter(here.values()))
        if isinstance(some, Moments):
            return self._norm(some, list(here.values()))
        if isinstance(some, Arrival):
            return self._contraction(name, some.site, here)
        return self._sum(name.removesuffix("+"), here)

    def _contraction(self, name: str, site: Site, here: Mapping[int, Arrival]) -> bool:
        if site.name in self.left:
            return False
        place = self.places[name]
        rows_RGD = torch.cat([arrival.rows_RGD for arrival in here.values()])
        if place.sums and self.method == "least_squares":
            self._open[name] = (site, rows_RGD)
            return False
        return self._fit(site, rows_RGD, self._rows(place, place.rows, here), place)

    def _sum(self, name: str, here: Mapping[int, Addition]) -> bool:
        if name not in self._open:
            return False
        site, rows_RGD = self._open.pop(name)
        place = self.places[name]
        wanted = self._rows(place, place.sums, here) - torch.cat([added.rows for added in here.values()]).float()
        return self._fit(site, rows_RGD, self._traced_back(name, place, wanted, here), place)

    def _norm(self, some: Moments, all_of_them: list[Moments]) -> bool:
        if some.place is not None and some.args[1] is not None:
            self._affine[some.place] = (some.args[1].detach().float(), some.args[2].detach().float())
        if not any(m.count for m in all_of_them):
            return False  # measured when the sum has been decided
        total = some.first.new_tensor(sum(m.count for m in all_of_them))
        first = torch.stack([m.first for m in all_of_them]).sum(0)
        second = torch.stack([m.second for m in all_of_them]).sum(0)
        reduce_sum([total, first, second])
        off = first / total
        some.args[3].add_(off)
        some.args[4].copy_((second / total - off.square()).clamp_min(0) * (total / (total - 1).clamp_min(1)))
        return True

    def _rows(self, place: Place, saved: Mapping[int, torch.Tensor], here: Mapping[int, Any]) -> torch.Tensor:
        """What the original gave, at the outputs that were kept."""
        rows = torch.cat([saved[number] for number in here]).float()
        kept = self.kept.get(place.site)
        return rows if kept is None else rows[:, kept.to(rows.device)]

    def _traced_back(self, name: str, place: Place, wanted: torch.Tensor, here: Mapping[int, Addition]) -> torch.Tensor:
        """What the contraction must give for this to arrive at the sum: back through the scale and the batch norm.

        Channels that hardly get through are fitted to what the original gave.
        """
        scale = next(iter(here.values())).scale
        weight = torch.ones_like(wanted[0]) if scale is None else scale.float().expand_as(wanted[0])
        bias, mean, spread = torch.zeros_like(weight), torch.zeros_like(weight), torch.ones_like(weight)
        if place.norm is not None:
            kept = self.kept.get(place.site)
            mean, variance = (m if kept is None else m[kept.to(m.device)] for m in place.norm[:2])
            spread = (variance.float() + place.norm[2]).sqrt()
            if name in self._affine:
                gamma, beta = self._affine[name]
                weight, bias = weight * gamma, weight * beta
        open_ = weight.abs() > _NO_SCALE
        back = (wanted - bias) / torch.where(open_, weight, 1.0) * spread + mean
        return torch.where(open_, back, self._rows(place, place.rows, here))

    def _fit(self, site: Site, rows_RGD: torch.Tensor, target: torch.Tensor, place: Place) -> bool:
        bias = site.bias
        if bias is not None:
            target = target - bias.detach()
        targets_RGO = target.unflatten(1, (rows_RGD.shape[1], -1))
        found = self._solved(rows_RGD, targets_RGO, site, place)
        if found is None:
            return False
        site.weight.copy_(weight_of_rows(site, found.weight_GOD))
        if bias is not None and place.bias not in self.shared_biases:
            bias.add_(found.shift_GO.flatten())
        self.refitted.add(site.name)
        return True

    def _solved(self, rows_RGD: torch.Tensor, targets_RGO: torch.Tensor, site: Site, place: Place) -> Fit | None:
        weight_GOD = weight_rows(site)
        if self.method == "bias":
            fixed = site.bias is None or place.bias in self.shared_biases
            return None if fixed else shift_only(rows_RGD, targets_RGO, weight_GOD)
        free = place.norm is not None or (site.bias is not None and place.bias not in self.shared_biases)
        return refit(rows_RGD, targets_RGO, weight_GOD, ridge=self.ridge, intercept=free)
