"""Everything that Secateur raises on purpose.

    SecateurError
    ├── InputError            what the caller gave is not usable (wrong type, unknown key, unknown name)
    │   └── ConfigError       a configuration key or value; names the nearest known one
    ├── TraceError            the model could not be run on its example
    ├── Infeasible            no network of the search space meets the budget; carries the nearest reachable value
    ├── DeadNetwork           what a search found computes nothing any more; carries its score and the whole network's
    ├── PlanError             a plan does not fit this model (names, shapes, indices)
    │   └── Coincidence       two sizes become equal that the model's code tells apart by being different
    ├── ApplyError            narrowing failed; the model is as it was
    ├── VerificationError     narrowed and masked model disagree; the model is as it was
    └── ArtifactError         a saved folder cannot be used (truncated, wrong architecture, unknown version)

Invariant: whoever raises one of these has changed nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class SecateurError(Exception):
    """Root of all errors raised on purpose by Secateur. All of them go through pickle, as worker processes send them."""

    def __reduce__(self) -> tuple[object, ...]:
        # exceptions are made again from args alone, which leaves out what else a class of ours wants
        return _made_again, (type(self), self.args), dict(self.__dict__)


class InputError(SecateurError, ValueError):
    """An argument is not usable as given."""


class ConfigError(InputError):
    """A configuration key or value is unknown, of the wrong type, or would have no effect."""


class TraceError(SecateurError):
    """The model could not be run on its example input."""


class Infeasible(SecateurError):
    """No choice of widths meets the budget.

    ``metric`` names the constraint, ``bound`` is what was asked and ``reachable`` the nearest value there is.
    """

    def __init__(self, message: str, *, metric: str, bound: float, reachable: float) -> None:
        super().__init__(message)
        self.metric, self.bound, self.reachable = metric, bound, reachable


class DeadNetwork(SecateurError):
    """What a search found is no better than a network that always gives the same answer.

    ``score`` is what it was found to be worth, ``whole`` that of the whole network, ``constant`` that of a constant one.
    """

    def __init__(self, message: str, *, score: float, whole: float, constant: float) -> None:
        super().__init__(message)
        self.score, self.whole, self.constant = score, whole, constant


class PlanError(SecateurError, ValueError):
    """A plan is damaged, or was made for another model."""


class Coincidence(PlanError):
    """Two sizes would become equal, and the model's code branches on their being different.

    ``width`` at ``count`` is one way out: any other count of it will do.
    """

    def __init__(self, width: str, count: int, size: int, where: str) -> None:
        super().__init__(
            f"{width} = {count} makes two sizes equal (both {size}) that the code of {where or 'the model'} tells apart by "
            f"comparing them. Keep another number of {width}."
        )
        self.width, self.count = width, count


class ApplyError(SecateurError):
    """Narrowing did not complete; the model is bit for bit what it was."""


class VerificationError(SecateurError):
    """The narrowed model does not compute what the masked model computes, or nothing could be compared.

    ``widths`` names those whose narrowing changes what is computed; leaving them whole is the way out.
    """

    def __init__(self, message: str, *, widths: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.widths = widths


class ArtifactError(SecateurError, ValueError):
    """A saved folder is damaged or does not belong to this model."""


def _made_again(kind: type[SecateurError], args: tuple[object, ...]) -> SecateurError:
    return kind.__new__(kind, *args)


@contextmanager
def placed(where: str) -> Iterator[None]:
    """What is raised inside says where: ``"stage 3 (prune): …"``; kind and fields stay as they are."""
    try:
        yield
    except SecateurError as error:
        error.args = (f"{where}: {error}", *error.args[1:])
        raise


def nearest(word: object, known: Iterable[str]) -> str:
    """``" Did you mean 'macs'?"`` or an empty string: the tail of an error about an unknown word."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
