"""What is decided where all passes meet: new weights, new batch-norm statistics.

    contraction            least squares from the narrowed inputs to what the original gave, at the kept outputs
    batch norm             each channel keeps the mean and the spread that the original had on the same samples
    contraction, summed    least squares to (original sum − what the narrowed network adds to it): a block gives back
                           what all blocks before it lost; the batch norm between keeps its trained statistics

Invariant: a weight or a batch norm that is used in more than one place is left as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from secateur.core.plan import Plan
from secateur.torch.compensation.evidence import LayerFit
from secateur.torch.compensation.norms import Statistics, settled
from secateur.torch.compensation.passes import Addition, Arrival, Brought, Incoming, NormCall
from secateur.torch.compensation.records import Contraction, Original
from secateur.torch.compensation.rows import weight_of_rows, weight_rows
from secateur.torch.compensation.solve import Fit, Option, refit
from secateur.torch.running.contractions import Site
from secateur.torch.running.distributed import Group

_NO_SCALE = 1e-3  # a smaller factor lets nothing through that could be fitted


@dataclass(frozen=True, slots=True)
class Choices:
    """What may be done: the options tried for each weight, whether weights wait for their sums, and the samples' folds.

    ``group`` are the processes that decide together.
    """

    options: Sequence[Option]
    to_sums: bool
    fold_S: Mapping[int, torch.Tensor]  # by pass
    group: Group = None

    @property
    def is_held_out(self) -> bool:
        """Whether doing nothing is among the options."""
        return "nothing" in self.options


class Decisions:
    """Called by `Lockstep` with a point and what each pass brings; state, because a sum is decided after its contraction."""

    def __init__(self, record: Original, plan: Plan, choices: Choices) -> None:
        self.record, self.plan, self.choices = record, plan, choices
        contractions, norms = record.contractions.values(), record.norms.values()
        visits = Counter(c.weight for c in contractions)
        self.left = {name: "its weight is used more than once" for name, count in visits.items() if count > 1}
        self.left |= {name: "its weight is an embedding, too" for name in record.looked_up if name in visits}
        self.left |= {c.weight: c.left for c in contractions if c.left is not None}
        biases = Counter(bias for _, bias in {(c.weight, c.bias) for c in contractions})
        self.shared_biases = {bias for bias, count in biases.items() if bias is not None and count > 1}
        self.shared_norms = {mean for mean, count in Counter(norm.mean for norm in norms).items() if count > 1}
        self.fits: list[LayerFit] = []
        self.norms: list[str] = []  # running means that were moved
        self._waiting: dict[str, Arrivals] = {}  # contractions that wait for their sum
        self._norms: dict[str, NormCall] = {}  # the batch norm between the two

    def __call__(self, point: str, here: Mapping[int, Brought]) -> None:
        some = next(iter(here.values()))
        if isinstance(some, Incoming):
            self._norm(point, {number: b for number, b in here.items() if isinstance(b, Incoming)})
        elif isinstance(some, Arrival):
            self._contraction(point, {number: b for number, b in here.items() if isinstance(b, Arrival)})
        else:
            additions = {number: b for number, b in here.items() if isinstance(b, Addition)}
            self._sum(point.removesuffix("+"), additions)

    def _contraction(self, visit: str, here: Mapping[int, Arrival]) -> None:
        contraction = self.record.contractions[visit]
        if contraction.weight in self.left:
            return
        arrivals = Arrivals(contraction, here, self.choices.fold_S)
        if contraction.is_summed and self.choices.to_sums:
            self._waiting[visit] = arrivals
        else:
            self._fit(arrivals, self._original(arrivals))

    def _sum(self, visit: str, here: Mapping[int, Addition]) -> None:
        arrivals = self._waiting.pop(visit, None)
        if arrivals is None:
            return
        seen = arrivals.contraction.seen
        sums = self._kept_of(
            arrivals.contraction, torch.cat([s for n in here if (s := seen[n].sums) is not None]).float()
        )
        wanted = sums - torch.cat([added.rows for added in here.values()]).float()
        scale = next(iter(here.values())).scale
        fit = self._fit(arrivals, self._traced_back(visit, arrivals, wanted, scale))
        norm, trained = self._norms.get(visit), arrivals.contraction.norm
        if fit is not None and fit.option != "nothing" and norm is not None and trained is not None:
            trained = trained.narrowed(self._kept(arrivals.contraction.weight, arrivals.contraction.outputs))
            shift = 0.0 if self._bias(arrivals) is not None else fit.shift_GO.flatten()  # else the bias has it
            self._set(norm, Statistics(trained.mean_C - shift, trained.variance_C, trained.eps))

    def _norm(self, visit: str, here: Mapping[int, Incoming]) -> None:
        some = next(iter(here.values()))
        norm = self.record.norms.get(visit)
        if norm is None or norm.mean in self.shared_norms:
            return
        if some.contraction is not None:
            self._norms[some.contraction] = some.call
        if some.sums is None:
            return  # decided with the sum
        kept = self._kept(norm.mean, 0)
        both = [(now.sums, norm.sums[number].narrowed(kept)) for number, now in here.items() if number in norm.sums]
        found = settled(
            [now for now, _ in both if now is not None],
            [then for _, then in both],
            torch.cat([self.choices.fold_S[number] for number in here if number in norm.sums]),
            norm.trained.narrowed(kept),
            some.call.statistics if self.choices.is_held_out else None,
            self.choices.group,
        )
        if found is not None:
            self._set(some.call, found)
            self.norms.append(norm.mean)

    def _set(self, call: NormCall, statistics: Statistics) -> None:
        call.mean.copy_(statistics.mean_C)
        call.variance.copy_(statistics.variance_C)

    def _kept(self, tensor: str, axis: int) -> torch.Tensor | None:
        """What the plan keeps of an axis; None where that is all."""
        indices = self.plan.indices(tensor)[axis] if tensor in self.plan.layouts else None
        return None if indices is None else torch.tensor(indices)

    def _kept_of(self, contraction: Contraction, rows: torch.Tensor) -> torch.Tensor:
        """The columns that are left of rows of the original's outputs."""
        kept = self._kept(contraction.weight, contraction.outputs)
        return rows if kept is None else rows[:, kept.to(rows.device)]

    def _original(self, arrivals: Arrivals) -> torch.Tensor:
        """What the original gave, at the outputs that were kept."""
        return self._kept_of(arrivals.contraction, arrivals.original_rows())

    def _traced_back(
        self, visit: str, arrivals: Arrivals, wanted: torch.Tensor, scale: torch.Tensor | None
    ) -> torch.Tensor:
        """What the contraction must give for this to arrive at the sum: back through the scale and the batch norm.

        Channels that hardly get through are fitted to what the original gave.
        """
        contraction, call = arrivals.contraction, self._norms.get(visit)
        weight = torch.ones_like(wanted[0]) if scale is None else scale.float().expand_as(wanted[0])
        bias, mean, spread = torch.zeros_like(weight), torch.zeros_like(weight), torch.ones_like(weight)
        if contraction.norm is not None:
            trained = contraction.norm.narrowed(self._kept(contraction.weight, contraction.outputs))
            mean, spread = trained.mean_C.float(), trained.spread_C.float()
            if call is not None and call.weight is not None and call.bias is not None:
                weight, bias = weight * call.weight.detach().float(), weight * call.bias.detach().float()
        open_ = weight.abs() > _NO_SCALE
        back = (wanted - bias) / torch.where(open_, weight, 1.0) * spread + mean
        return torch.where(open_, back, self._original(arrivals))

    def _bias(self, arrivals: Arrivals) -> torch.Tensor | None:
        """The bias that may be moved."""
        return None if arrivals.contraction.bias in self.shared_biases else arrivals.site.bias

    def _fit(self, arrivals: Arrivals, target: torch.Tensor) -> Fit | None:
        site, contraction = arrivals.site, arrivals.contraction
        bias = self._bias(arrivals)
        if site.bias is not None:
            target = target - site.bias.detach()
        rows_RGD = arrivals.rows()
        found = refit(
            rows_RGD,
            target.unflatten(1, (rows_RGD.shape[1], -1)),
            weight_rows(site),
            arrivals.folds(),
            options=self.choices.options,
            intercept=contraction.norm is not None or bias is not None,
            group=self.choices.group,
        )
        if found is None:
            return None
        if isinstance(found.option, float):
            site.weight.copy_(weight_of_rows(site, found.weight_GOD))
        if bias is not None and found.option != "nothing":
            bias.add_(found.shift_GO.flatten())
        self.fits.append(LayerFit.of(site.name, found))
        return found


class Arrivals:
    """What all passes bring to one contraction."""

    def __init__(
        self, contraction: Contraction, here: Mapping[int, Arrival], fold_S: Mapping[int, torch.Tensor]
    ) -> None:
        self.contraction, self.here, self.fold_S = contraction, here, fold_S
        self.site: Site = next(iter(here.values())).site

    def rows(self) -> torch.Tensor:
        return torch.cat([arrival.rows_RGD for arrival in self.here.values()])

    def folds(self) -> torch.Tensor:
        return torch.cat([self.fold_S[number][self.contraction.seen[number].owner] for number in self.here])

    def original_rows(self) -> torch.Tensor:
        return torch.cat([self.contraction.seen[number].rows for number in self.here]).float()
