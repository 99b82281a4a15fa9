"""`Compensator`: remembers what a network computes, and re-fits its narrowed versions to that.

    compensator = Compensator(model, data)        before anything is removed
    compensator.fit(narrowed, plan)               as often as the network gets narrower, always against the original

The closed form is that of channel pruning by reconstruction (He et al., ICCV 2017, arXiv 1707.06168), with inputs from the
narrowed network (so errors do not add up), ridge towards the weights that are there, and sums as targets.

Memory: some thousand rows of every contraction's output, and while fitting the live activations of all batches at one layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from secateur.core.plan import Plan
from secateur.torch.compensation.decisions import Decisions
from secateur.torch.compensation.lockstep import Lockstep
from secateur.torch.compensation.passes import Place, Recorder, Refitter
from secateur.torch.running.contractions import taps
from secateur.torch.running.data import Data
from secateur.torch.running.restoring import flags_kept

Method = Literal["bias", "least_squares"]

_ROWS = 8192  # of each contraction; more where it has more than half as many inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensation:
    """What was re-fitted, and what was left as it was, with the reason."""

    refitted: tuple[str, ...]
    left: Mapping[str, str]


class Compensator:
    """Holds rows of the original network's outputs.

    ``samples`` bounds how many samples of the data are looked at; they are all in memory while fitting.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        *,
        method: Method = "least_squares",
        ridge: float = 1e-3,
        samples: int = 1024,
    ) -> None:
        self.data, self.method, self.ridge = data, method, ridge
        self.batches = tuple(data.limited(model, samples).loader)
        self.places: dict[str, Place] = {}
        self.order: tuple[str, ...] = ()
        self.looked_up: frozenset[str] = frozenset()
        self._record(model)

    def _record(self, model: nn.Module) -> None:
        def limit(inputs: int) -> int:
            return -(-max(_ROWS, 2 * inputs) // len(self.batches))

        with torch.no_grad(), flags_kept(model):
            model.eval()
            for number, batch in enumerate(self.batches):
                recorder = Recorder(model, number, self.places, limit)
                with taps(model, recorder):
                    self.data.output(model, batch)
                self.looked_up |= recorder.looked_up
                self.order = max(self.order, tuple(recorder.order), key=len)

    def fit(self, model: nn.Module, plan: Plan, *, share: float = 1.0) -> Compensation:
        """Re-fit a network that ``plan`` (made for the original) was applied to, in place.

        The weights are fitted from where they are, so a network may be narrowed and fitted several times; ``share`` of the
        batches is enough for one that goes on being narrowed.
        """
        some = math.ceil(share * len(self.batches))
        decisions = Decisions(
            self.places, self._kept(plan), looked_up=self.looked_up, method=self.method, ridge=self.ridge
        )
        lockstep = Lockstep(self.order, decisions)
        strange: set[str] = set()
        run = partial(self._pass, model, lockstep, strange)
        with flags_kept(model), torch.no_grad():
            model.eval()
            lockstep.run([run] * some)
        left = (
            dict.fromkeys(sorted(strange - decisions.refitted), "what it multiplies is narrowed, too") | decisions.left
        )
        return Compensation(refitted=tuple(sorted(decisions.refitted)), left=left)

    def _pass(self, model: nn.Module, lockstep: Lockstep, strange: set[str], number: int) -> None:
        refitter = Refitter(model, number, self.places, lockstep.meet, sums=self.method == "least_squares")
        with torch.no_grad(), taps(model, refitter):
            self.data.output(model, self.batches[number])
        strange |= refitter.strange

    def _kept(self, plan: Plan) -> dict[str, torch.Tensor]:
        """Which outputs of each contraction are left."""
        found = {}
        for name, axis in {place.site: place.outputs for place in self.places.values()}.items():
            indices = plan.indices(name)[axis] if name in plan.layouts else None
            if indices is not None:
                found[name] = torch.as_tensor(indices)
        return found
