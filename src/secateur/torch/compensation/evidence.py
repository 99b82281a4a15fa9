"""What compensation did, weight by weight, and what that is worth on samples that it has not seen.

    weight              option   before  fitted  held out      what its outputs are off by, as a share of their variance
    blocks.3.conv.weight   0.1    0.412   0.087     0.131

Invariant: plain data; what `Compensation.as_dict` gives is JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from secateur.core.text import visible
from secateur.torch.compensation.solve import Fit, Option


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFit:
    """One weight: what was chosen, and what its outputs are off by, as a share of their variance.

    ``option`` is a ridge, "bias" (only means were given back) or "nothing"; ``before`` with the weight as it was and
    ``fitted`` as it is now, both on all samples; ``held_out`` maps every option that was tried to what it leaves on samples
    that it was not fitted to, and is empty where none could be left out.
    """

    name: str
    option: str
    before: float
    fitted: float
    held_out: Mapping[str, float]

    @classmethod
    def of(cls, name: str, fit: Fit) -> LayerFit:
        """A fit without its tensors."""
        tried = {word(option): error for option, error in fit.held_out.items()}
        return cls(name=name, option=word(fit.option), before=fit.before, fitted=fit.fitted, held_out=tried)

    def __str__(self) -> str:
        held_out = self.held_out.get(self.option)
        then = "" if held_out is None else f"{held_out:9.3g}"
        return f"{visible(self.name)}  {self.option}  {self.before:.3g} {self.fitted:.3g} {then}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersFit:
    """What fitting all weights together did: how far answers to samples left out were from the original's, and are now.

    The distance is the Kullback–Leibler divergence of classes, half the squared difference of other numbers; a mean over samples.
    """

    steps: int
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensation:
    """What was re-fitted, what was left as it was, with the reason, and how well each weight was fitted.

    ``layers`` are in the order of execution; ``norms`` names the running means that were moved, with their variances;
    ``answers`` is there where all weights were fitted together at the end.
    """

    refitted: tuple[str, ...]
    left: Mapping[str, str]
    layers: tuple[LayerFit, ...] = ()
    norms: tuple[str, ...] = ()
    answers: AnswersFit | None = None
    samples: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:  # JSON
        """The same as plain data."""
        return asdict(self)


def word(option: Option) -> str:
    """An option as a person writes it."""
    return option if isinstance(option, str) else f"{option:g}"
