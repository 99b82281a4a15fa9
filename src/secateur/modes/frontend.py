"""What a mode asks of the framework that a network is written in: all that PyTorch does for it, and Keras could.

    Frontend    the user's network, only read:    judge   evaluator   digests   limited
    Working     a copy of it that gets narrower:  narrow  appraiser  compensator  remeasure  weights

Invariant: no method of a `Frontend` changes the user's network; what a `Working` copy becomes, the caller puts in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Literal, Protocol

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.progress import Tell
from secateur.search.measured import Measure
from secateur.search.ranked import Judge
from secateur.search.ranks import Ranks

CompensationMethod = Literal["none", "bias", "least_squares", "answers"]


class Frontend(Protocol):
    """A network in its framework, with the data that it may be shown."""

    @property
    def graph(self) -> Graph:
        """What is coupled in the network as it is now."""
        ...

    @property
    def has_data(self) -> bool:
        """Whether there is any data."""
        ...

    @property
    def ranks(self) -> Ranks:
        """The processes that work on this network together."""
        ...

    def check_criterion(self, criterion: object) -> None:
        """Raise ConfigError unless this is a criterion, or the name of one."""
        ...

    def limited(self, samples: int) -> Frontend:
        """The same network with no more data than so many samples; the same ones each time."""
        ...

    def with_a_loss(self, *, agreement: bool = True) -> Frontend:
        """The same network with data that have a loss: their own, of the next token, or of ``agreement`` with its answers."""
        ...

    def judge(self, criterion: object, *, seed: int | None = None) -> Judge:
        """What scores units: a criterion by name or as an object, or scores made before.

        With a ``seed`` it draws random numbers of its own. Raises ConfigError for a criterion that needs data where there
        is none.
        """
        ...

    def evaluator(self, score_func: object, *, seed: int, samples: int | None = None, reuse: bool = True) -> Measure:
        """What measures narrowed networks: ``score_func(network)``, statistics taken anew from so many samples first."""
        ...

    def constant_score(self, score_func: Any, *, seed: int) -> float | None:
        """What ``score_func`` says of this network with all its weights zero, which always answers the same."""
        ...

    def agreement(self) -> Callable[[Any], float] | None:
        """A score for `evaluator`: how far a network gives the answers on the data that the first one it is given gave; None
        without data.
        """
        ...

    def output_axis(self, tensor: str) -> int:
        """The axis of a weight along which its layer gives units."""
        ...

    def said(self, plan: Plan) -> tuple[Mapping[str, object], str | None]:
        """What the network's own configuration says of what a plan leaves; or the reason why it cannot."""
        ...

    def admits(self, changes: Mapping[str, Fraction]) -> bool:
        """Whether fields of the configuration may change by these shares; without one, they may."""
        ...

    def digests(self, seed: int) -> Mapping[str, Any]:
        """What tells this network and this data from others: at least "weights" and "data", in JSON's own types."""
        ...

    def copied(self) -> Working:
        """A copy that may be changed."""
        ...


class Working(Frontend, Protocol):
    """A copy of a network, narrowed step by step."""

    def narrow(self, plan: Plan) -> None:
        """Remove what the plan does not keep; `graph` is that of the narrowed network from then on."""
        ...

    def compensator(
        self, method: CompensationMethod, *, ridge: float | Literal["auto"], samples: int, tell: Tell
    ) -> Compensating:
        """What gives back, after narrowing, what this network computes now."""
        ...

    def appraiser(self, score_func: Any, *, seed: int) -> Appraiser | None:
        """What tells what this network is worth: by a score, else by the data; None where there is neither."""
        ...

    def remeasure(self) -> None:
        """Take running statistics anew, from all of the data."""
        ...

    def weights(self) -> Mapping[str, Any]:
        """All tensors by name, in the framework's own form."""
        ...


class Appraiser(Protocol):
    """Looks at a network that gets narrower; the whole one must be looked at first."""

    @property
    def measure(self) -> str:
        """What its numbers are."""
        ...

    def __call__(self) -> float | None:
        """The worth of the network as it is now, higher is better; None where nothing can be told."""
        ...

    def check_alive(self, whole: float, score: float, advice: str) -> None:
        """Raise DeadNetwork where what was looked at last is no better than a network that always answers the same."""
        ...


class RefitReport(Protocol):
    """What was re-fitted, and what was left as it was, with the reason."""

    @property
    def refitted(self) -> tuple[str, ...]: ...

    @property
    def left(self) -> Mapping[str, str]: ...

    def as_dict(self) -> dict[str, Any]:
        """All of it, with what each weight was fitted to and how well, as JSON."""
        ...


class Compensating(Protocol):
    """Fits weights of the working copy to what the whole network computes."""

    def fit(self, plan: Plan, *, last: bool, tell: Tell) -> RefitReport:
        """Fit what ``plan``, all that went so far, leaves of the whole network's weights; a fit that is not the ``last`` need not
        be thorough.
        """
        ...

    def of(self, working: Working) -> Compensating:
        """The same for another copy of the network."""
        ...

    @property
    def tells_apart(self) -> bool:
        """Whether it can be said how far a network's answers are from the whole one's."""
        ...

    def stands_for_all(self) -> bool:
        """Whether nearness on some samples says something of all; not where a classifier answers them with few classes."""
        ...

    def apart(self) -> float:
        """How far they are, as the copy is now, on samples that a fit which is not the last does not look at."""
        ...
