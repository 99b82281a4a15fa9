"""Whether a network still tells one input from another, as its score sees it.

    whole 0.96 ──────────────────── found 0.91 ─────────────────────────── 0.14 ── constant 0.10
                                    alive                                   dead: an error, not a result

Invariant: where the whole network is hardly better than a constant one, nothing is dead: there was nothing to lose.
"""

from __future__ import annotations

from collections.abc import Callable

from secateur.errors import DeadNetwork, InputError

LITTLE = 0.25  # a relative loss of score up to which nobody needs to ask
LEARNED = 0.6  # of its score the whole network must have above a constant one's: untrained, it has luck alone
ALIVE = 0.05  # of what the whole network's score has above a constant one's


def number_of(whole: float | None) -> float:
    """The score of the whole network. Raises InputError where it has none: nothing can be held against it."""
    if whole is None:
        raise InputError("score_func gives no finite number for the model as it is")
    return whole


def check_alive(score: float, whole: float, constant: Callable[[], float | None], advice: str) -> None:
    """Raise DeadNetwork where a score is no better than that of a constant network, which is asked for only in doubt."""
    if whole - score <= LITTLE * abs(whole):
        return
    least = constant()
    if least is None or whole - least <= LEARNED * abs(whole) or (score - least) / (whole - least) >= ALIVE:
        return
    raise dead(score, whole, least, advice)


def dead(score: float, whole: float, constant: float, advice: str, called: str = "score") -> DeadNetwork:
    """The error for a network whose ``called`` is no better than a constant one's."""
    return DeadNetwork(
        f"what the search found is no better than a network that always answers the same: {called} {score:.4g}, the whole "
        f"network {whole:.4g}, a constant one {constant:.4g}. {advice} The model is unchanged.",
        score=score,
        whole=whole,
        constant=constant,
    )
