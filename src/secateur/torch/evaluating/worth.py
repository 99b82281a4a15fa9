"""What a network is worth beside the whole one: by the user's score, by the loss, or by how far the two agree.

    score_func(network)                                 where there is one
    − mean loss          over the first samples         where the data have labels, or the model a loss of its own
    agreement                                           always, with data: what decides whether a network is dead

Agreement is the correlation of the outputs with those of the whole network, each output centred over the samples: 1 for the same
answers, 0 for any constant. A loss says less about life: a network that is cut may be wrong with confidence, and mostly right.

Invariant: the network looked at is as it was, and so is every generator.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from secateur.search.alive import ALIVE, check_alive, dead, number_of
from secateur.search.evidence import Quality
from secateur.torch.evaluating.evaluator import Evaluator
from secateur.torch.evaluating.reading import ScoreFunc, evaluation_of
from secateur.torch.running.data import Data, NotFinite
from secateur.torch.running.distributed import reduce_sum
from secateur.torch.running.outputs import output_tensors
from secateur.torch.running.padding import Padding
from secateur.torch.running.randomness import seeded, unmoved
from secateur.torch.running.twin import in_use, twin

SAMPLES = 256  # of the data, which are enough to tell the living from the dead
_MOST_NUMBERS = 2**24  # of the outputs that are held
_FEWEST_ROWS = 32  # below which agreement says nothing about life
_MOST_COMMON = 0.9  # a network that nearly always gives one answer is no classifier to agree with
_UNSURE = 0.9  # of the largest entropy
_VARIES = 1e-6  # of the square of what a network answers: less is a constant, and its rounding
_ADVICE = "Give each width a floor (limits={'floor': 0.2}), measure more, or raise the bound."
_FAR = 0.3  # agreement from which on answers need not be the same


class Agreement:
    """How far networks give the answers of the first one that is looked at. State: those answers, and the last ones.

    ``strict``: a loss of the user's own that the first one has none of, or no number, is an error, and not passed over.
    """

    def __init__(self, data: Data, *, strict: bool = False) -> None:
        self.data = data
        self._strict = strict and data.loss is not None
        self.loss: float | None = None  # the mean loss of what was looked at last
        self._first: torch.Tensor | None = None
        self._last: torch.Tensor | None = None
        self._totals = [0.0] * 5  # see `_sums`: of all that is held and of all processes, so made once a look

    def __call__(self, model: nn.Module) -> float:
        """1 for the same answers, 0 for a constant or where there are none to compare; the model's modes are the caller's."""
        self._last = self._answers(model)
        if self._first is None:
            self._first = self._last
        self._totals = self._sums().tolist()
        return self.value

    @property
    def value(self) -> float:
        """The agreement of what was looked at last."""
        together, first, last, *_ = self._totals
        return together / math.sqrt(first * last) if first > 0 and last > 0 else 0.0

    @property
    def says_something(self) -> bool:
        """Whether the first network's answers vary, and are enough to tell by."""
        _, first, _, rows, whole = self._totals
        return rows >= _FEWEST_ROWS and first > _VARIES * whole

    @property
    def is_none(self) -> bool:
        """Whether the last network answers as a constant would, or by chance where the first one was sure of its answers."""
        if self._first is None or self._last is None or self._first.shape != self._last.shape:
            return False
        if self.value > _FAR or self.left >= ALIVE:
            return False
        varies = self._last - self._last.mean(0)
        is_constant = bool(varies.square().sum() <= _VARIES * self._last.square().sum())
        return is_constant or self._first.shape[1] == 1 or _is_sure(self._first)

    @property
    def left(self) -> float:
        """What the last network has kept of the first one's answers: their agreement, or those it shares, whichever is less."""
        if self._first is None or self._last is None or self._first.shape != self._last.shape:
            return 0.0
        return min(self.value, _same_answers(self._first, self._last))

    def _answers(self, model: nn.Module) -> torch.Tensor | None:
        rows: list[torch.Tensor] = []
        losses: list[float] = []
        held = 0
        for batch in self.data.batches(model):
            output = self.data.output(model, batch)
            losses += self._losses(output, batch)
            found = _rows(output, Padding.of(model, self.data.collect(batch)))
            if found is not None and held < _MOST_NUMBERS:
                rows.append(found)
                held += found.numel()
        self.loss = self._mean(losses)
        alike = [found for found in rows if found.shape[1] == rows[0].shape[1]]
        return torch.cat(alike) if alike else None

    def _losses(self, output: object, batch: object) -> list[float]:
        strict = self._strict and self._first is None
        try:
            loss = float(self.data.loss_of(output, batch))
        except Exception:  # no labels, or a loss that only trains: there are other means
            if strict:
                raise
            return []
        if strict and not math.isfinite(loss):
            raise NotFinite(f"loss_func gives {loss} for what the whole network answers: check it and the data")
        return [loss]

    def _mean(self, losses: list[float]) -> float | None:
        sums = torch.tensor([math.fsum(losses), len(losses)], dtype=torch.float64)
        reduce_sum([sums], self.data.group)
        mean = float(sums[0] / sums[1]) if sums[1] else math.nan
        return mean if math.isfinite(mean) else None

    def _sums(self) -> torch.Tensor:
        """⟨a, b⟩, ⟨a, a⟩, ⟨b, b⟩ of the centred answers, the number of rows, and ⟨a, a⟩ as they are; over all processes."""
        sums = torch.zeros(5, dtype=torch.float64)
        if self._first is not None and self._last is not None and self._first.shape == self._last.shape:
            a, b = self._first - self._first.mean(0), self._last - self._last.mean(0)
            rows, whole = torch.tensor(len(a)).to(a), self._first.square().sum()
            sums = torch.stack([(a * b).sum(), a.square().sum(), b.square().sum(), rows, whole]).cpu()
        sums = sums.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        reduce_sum([sums], self.data.group)
        return sums


class Worth:
    """Looks at one network again and again as it gets narrower, the whole one first; see `secateur.modes.frontend.Appraiser`."""

    def __init__(self, model: nn.Module, score_func: ScoreFunc | None, data: Data | None, *, seed: int) -> None:
        self.model, self.score_func, self.seed = model, score_func, seed
        self._data = data
        self._agreement: Agreement | None = None
        self._has_loss = False
        self._looked = False  # at the whole one, the first

    @property
    def measure(self) -> str:
        if self.score_func is not None:
            return "score_func"
        return "minus the loss" if self._has_loss else "agreement with the whole network"

    def __call__(self) -> float | None:
        network = twin(self.model, in_use).eval()
        with torch.no_grad(), seeded(self.seed):
            if self.score_func is None:
                return self._on_data(network)
            with unmoved(self.score_func):
                score = evaluation_of(self.score_func(network)).value
        if not self._looked:
            number_of(score)
        self._looked = True
        return score

    def check_alive(self, whole: float, score: float, advice: str) -> None:
        if self.score_func is not None:
            check_alive(score, whole, partial(constant_score, self.model, self.score_func, seed=self.seed), advice)
            return
        found = self._agreement
        if found is None or not (found.says_something and found.is_none):
            return
        if not self._has_loss or self._learned(-whole):
            raise dead(found.left, 1.0, 0.0, advice, "what is left of the whole network's answers")

    def _learned(self, loss: float) -> bool:
        """Whether the whole network's loss was less than that of a constant one."""
        assert self._data is not None
        constant = Agreement(self._data.limited(self.model, SAMPLES))
        with torch.no_grad(), seeded(self.seed):
            constant(twin(self.model, _zeros).eval())
        return constant.loss is None or loss < (1 - ALIVE) * constant.loss

    def _on_data(self, network: nn.Module) -> float | None:
        assert self._data is not None
        if self._agreement is None:
            self._agreement = Agreement(self._data.limited(self.model, SAMPLES), strict=True)
            agreed = self._agreement(network)
            self._has_loss = self._agreement.loss is not None
        else:
            agreed = self._agreement(network)
        if self._has_loss:
            return None if self._agreement.loss is None else -self._agreement.loss
        return agreed if self._agreement.says_something else None


def _same_answers(first: torch.Tensor, last: torch.Tensor) -> float:
    """How many answers are the same, beyond chance: Cohen's κ, 1 for all, 0 for a constant answer and for unrelated ones."""
    answers = [found.argmax(1) for found in (first, last)]
    shares = [torch.bincount(found, minlength=first.shape[1]).double() / len(found) for found in answers]
    if float(shares[0].max()) > _MOST_COMMON:
        return 1.0
    by_chance = float(shares[0] @ shares[1])
    return (float((answers[0] == answers[1]).double().mean()) - by_chance) / (1 - by_chance)


def _is_sure(answers: torch.Tensor) -> bool:
    """Whether these are answers of a network that has learned: one with its first weights likes all of them alike."""
    logs = answers.log_softmax(1)
    return bool(-(logs.exp() * logs).sum(1).mean() < _UNSURE * math.log(answers.shape[1]))


def quality_of(whole: float | None, score: float | None, evaluator: Evaluator) -> Quality:
    """What a pruner's result is worth. Raises DeadNetwork where that is no better than a constant."""
    if whole is not None:
        constant = partial(constant_score, evaluator.model, evaluator.score_func, seed=evaluator.seed)
        check_alive(-math.inf if score is None else score, whole, constant, _ADVICE)
    return Quality(measure="score_func", whole=whole, narrowed=score)


def constant_score(model: nn.Module, score_func: ScoreFunc, *, seed: int) -> float | None:
    """What a score function says of a network that always gives the same answer: this one, all its weights zero."""
    with seeded(seed), torch.no_grad(), unmoved(score_func):
        return evaluation_of(score_func(twin(model, _zeros).eval())).value


def _zeros(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor) if tensor.is_floating_point() else tensor.detach().clone()


def _rows(output: Any, padding: Padding) -> torch.Tensor | None:
    """The first floating output as rows, one for each sample or position that is not padding."""
    logits = getattr(output, "logits", None)
    tensors = [logits] if isinstance(logits, torch.Tensor) else output_tensors(output)
    first = next((t for t in tensors if t.is_floating_point() and t.dim() and t.numel()), None)
    if first is None:
        return None
    first = first.detach().movedim(1, -1) if first.dim() > 3 else first.detach()  # classes of maps are dimension 1
    return padding.only(first if first.dim() > 1 else first[:, None]).double().clone()
