"""`Compensator`: remembers what a network computes, and re-fits its narrowed versions to that.

    compensator = Compensator(model, data)        before anything is removed
    compensator.fit(narrowed, plan)               as often as the network gets narrower, always against the original

The closed form is that of channel pruning by reconstruction (He et al., ICCV 2017, arXiv 1707.06168), with inputs from the
narrowed network (so errors do not add up), ridge towards the weights that are there, and sums as targets.

Memory: some thousand rows of every contraction's output, and while fitting the live activations of all batches at one layer.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Literal

import torch
from torch import nn

from secateur.core.plan import Plan
from secateur.progress import Tell
from secateur.torch.compensation.answers import fit_to_answers
from secateur.torch.compensation.decisions import Choices, Decisions
from secateur.torch.compensation.evidence import AnswersFit, Compensation
from secateur.torch.compensation.lesson import Lesson, apart, has_no_answer
from secateur.torch.compensation.lockstep import Lockstep
from secateur.torch.compensation.passes import Batch, Brought, Called, Recorder, Refitter
from secateur.torch.compensation.records import Original
from secateur.torch.compensation.rows import num_inputs
from secateur.torch.compensation.solve import RIDGES, Option
from secateur.torch.measuring.classes import ClassCounts
from secateur.torch.measuring.folds import FOLDS, folds_of, looks
from secateur.torch.running.contractions import Site, taps
from secateur.torch.running.data import Data
from secateur.torch.running.distributed import reduce_sum, world_size
from secateur.torch.running.example import Example, batch_size
from secateur.torch.running.padding import Padding
from secateur.torch.running.restoring import left_as_found

_Steps = Lockstep[Brought, None]
Method = Literal["bias", "least_squares", "answers"]
Ridge = float | Literal["auto"]

_FEW_SAMPLES = 8
_ROWS = 8192  # of each contraction; more where it has more than half as many inputs
_FEWEST_ROWS = 2048
_MOST_CLASSES = 0.5  # of those expected
_SHARE_ON_THE_WAY = 0.25  # of the samples, for a network that goes on being narrowed
_MOST_NUMBERS = 2**25  # in the rows of one contraction's inputs: many groups of few inputs need fewer rows


def _silent(share: float, word: str) -> None: ...


class Compensator:
    """Holds rows of the original network's outputs.

    ``samples`` bounds how many samples of the data are looked at; they are all in memory while fitting. ``ridge="auto"``
    chooses, for each weight, on samples left out; a number is taken as it is. ``original`` is what the answers are those of,
    where ``model`` itself will be narrowed.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        *,
        method: Method = "least_squares",
        ridge: Ridge = "auto",
        samples: int = 1024,
        original: nn.Module | None = None,
        tell: Tell = _silent,
    ) -> None:
        self.data, self.method, self.original = data, method, original or model
        self.ridge: Ridge = ridge if ridge == "auto" else float(ridge)
        self.batches = tuple(data.limited(model, samples).loader)
        self._warn_of_few(model)
        # decided before anything is fitted: the second half of the work would be for nothing
        self.alone = self._has_no_answer if method == "answers" else None
        self.record, self.answered = Original(), ClassCounts()
        self._record(model, tell)

    @cached_property
    def _has_no_answer(self) -> str | None:
        return has_no_answer(self.original, self.data, self.batches[0])

    @property
    def _fits_answers(self) -> bool:
        return self.method == "answers" and self.alone is None

    def _warn_of_few(self, model: nn.Module) -> None:
        samples = sum(batch.samples for batch in self._numbered(model))
        if samples < _FEW_SAMPLES and world_size(self.data.group) == 1:
            warnings.warn(
                f"the data has {samples} samples in all: weights fitted to so few, or units ranked by them, say little. "
                "Give 128 or more",
                stacklevel=2,
            )

    def _record(self, model: nn.Module, tell: Tell) -> None:
        def limit(site: Site) -> int:
            inputs, groups = num_inputs(site), max(site.groups, 1)
            rows = max(min(_ROWS, _MOST_NUMBERS // (inputs * groups)), _FEWEST_ROWS, 2 * inputs)
            return -(-rows // len(self.batches))

        record = self.record
        with torch.no_grad(), left_as_found(model):
            model.eval()
            for batch in self._numbered(model):
                tell(batch.number / len(self.batches), "looking at what the network computes")
                padding = Padding.of(model, self.data.collect(self.batches[batch.number]))
                recorder = Recorder(model, batch, record, limit, padding)
                with taps(model, recorder):
                    self.answered.add(self.data.output(model, self.batches[batch.number]))
                record.looked_up |= recorder.looked_up
                record.gather(batch.number)
                record.order = max(record.order, tuple(recorder.order), key=len)

    def fit(self, model: nn.Module, plan: Plan, *, last: bool = True, tell: Tell = _silent) -> Compensation:
        """Re-fit a network that ``plan`` (made for the original) was applied to, in place.

        The weights are fitted from where they are, so a network may be narrowed and fitted several times; one that goes on
        being narrowed is not at its ``last``, and some batches are enough.
        """
        started = time.perf_counter()
        some = self._numbered(model)[: None if last else self._some]
        choices = Choices(self._options(), self.method != "bias", self._folds(some), self.data.group)
        decisions = Decisions(self.record, plan, choices)
        lockstep = Lockstep(self.record.order, self._told(decisions, tell))
        strange: set[str] = set()
        # where blocks are gone, what comes behind them has another name now
        passes = [partial(self._pass, model, batch, lockstep, strange, plan.renamed.back) for batch in some]
        with left_as_found(model), torch.no_grad():
            model.eval()
            lockstep.run(passes)
        answers = self._to_answers(model, choices, tell) if last and self._fits_answers else None
        refitted = {fit.name for fit in decisions.fits if fit.option != "nothing"}
        left = dict.fromkeys(sorted(strange - refitted), "what it multiplies is narrowed, too") | decisions.left
        left |= {} if self.alone is None else {"all weights together": self.alone}
        return Compensation(
            refitted=tuple(sorted(refitted)),
            left=left,
            layers=tuple(decisions.fits),
            norms=tuple(decisions.norms),
            answers=answers,
            samples=sum(batch.samples for batch in some),
            seconds=time.perf_counter() - started,
        )

    @property
    def tells_apart(self) -> bool:
        """Whether the original gives one answer, which another network's can be held against."""
        return self._has_no_answer is None

    def apart(self, model: nn.Module) -> float:
        """How far a model's answers are from the original's on as many samples as a fit on the way looks at, but others."""
        batches = self.batches[-self._some :]
        lesson = Lesson(data=self.data, batches=batches, held_out=())
        return apart(model, self.original, lesson)

    def stands_for_all(self) -> bool:
        """Whether the original answers the samples with most of the classes that as many of all kinds would be answered with."""
        return self.answered.share_of_expected(self.data.group) >= _MOST_CLASSES

    @property
    def _some(self) -> int:
        """The number of batches that are enough for a network that goes on being narrowed."""
        return math.ceil(_SHARE_ON_THE_WAY * len(self.batches))

    def _to_answers(self, model: nn.Module, choices: Choices, tell: Tell) -> AnswersFit | None:
        """All weights together, one fold of the samples left out: that whose share is nearest to a quarter."""
        fold_S = torch.cat([choices.fold_S[number] for number in range(len(self.batches))])
        sizes = fold_S.bincount(minlength=FOLDS).double()
        reduce_sum([sizes], self.data.group)
        fold = int((sizes / sizes.sum() - 0.25).abs().argmin())
        held_out = [choices.fold_S[number] == fold for number in range(len(self.batches))]
        lesson = Lesson(data=self.data, batches=self.batches, held_out=held_out, beyond=self._beyond)
        return fit_to_answers(model, self.original, lesson, tell)

    def _beyond(self) -> Iterator[object]:
        """The batches after those that layers are fitted to."""
        return islice(self.data.batches(self.original), len(self.batches), None)

    def _told(self, decisions: Decisions, tell: Tell) -> Callable[[str, Mapping[int, Brought]], None]:
        """The same decisions, with a word on how far they are."""
        order = {point: number for number, point in enumerate(self.record.order)}

        def decide(point: str, here: Mapping[int, Brought]) -> None:
            tell(order.get(point, 0) / len(order), f"re-fitting {point.partition('#')[0]}")
            decisions(point, here)

        return decide

    def _pass(
        self, model: nn.Module, batch: Batch, lockstep: _Steps, strange: set[str], called: Called, number: int
    ) -> None:
        sums = self.method != "bias"
        refitter = Refitter(model, batch, self.record, lockstep.meet, sums=sums, called=called)
        with torch.no_grad(), taps(model, refitter, called):
            self.data.output(model, self.batches[number])
        strange |= refitter.strange

    def _numbered(self, model: nn.Module) -> list[Batch]:
        sizes = (batch_size(Example.of(model, self.data.collect(batch))) for batch in self.batches)
        return [Batch(number, size) for number, size in enumerate(sizes)]

    def _options(self) -> tuple[Option, ...]:
        """What is tried for each weight."""
        if self.ridge == "auto":
            return ("nothing", "bias", *(reversed(RIDGES) if self.method != "bias" else ()))
        return ("bias",) if self.method == "bias" else (self.ridge,)

    def _folds(self, batches: Sequence[Batch]) -> dict[int, torch.Tensor]:
        """Which samples are left out together, by pass."""
        seen_by_all = [
            [contraction.seen[batch.number] for batch in batches]
            for contraction in self.record.contractions.values()
            if all(batch.number in contraction.seen for batch in batches)
        ]
        sizes = [batch.samples for batch in batches]
        if not seen_by_all:
            return {batch.number: torch.zeros(batch.samples, dtype=torch.long) for batch in batches}
        found = folds_of(
            [
                torch.cat([looks(seen.rows, seen.owner, size) for seen, size in zip(one, sizes, strict=True)])
                for one in seen_by_all
            ],
            self.data.group,
        )
        return {batch.number: part for batch, part in zip(batches, found.split(sizes), strict=True)}
