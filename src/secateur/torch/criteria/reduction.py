"""From what each tensor says about a unit to one score, and from there to scores that compare across widths.

    conv1 rows, bn1, conv2 columns  ──reduce (mean)──►  one value a unit  ──normalise (÷ mean)──►  1.0 is average

Invariant: equal units get equal scores, and no score is NaN because all values are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from secateur.core.layout import Values
from secateur.core.registry import Registry
from secateur.errors import ConfigError, nearest

REDUCTIONS: Registry[Callable[[Values], Values]] = Registry("reduction")
NORMALIZERS: Registry[Callable[[Values], Values]] = Registry("normalizer")


def reduce_group(parts: Sequence[Values], reduction: str) -> Values:
    """One array from what several tensors say; arrays without the outer axis hold for every outer index."""
    if len(parts) == 1:
        return parts[0]
    alike = len({values.shape for values in parts}) == 1
    return REDUCTIONS[reduction](np.stack(parts if alike else np.broadcast_arrays(*parts)))


def normalise(values: Values, normalizer: str | None) -> Values:
    """Scores that compare across widths."""
    return values if normalizer is None else NORMALIZERS[normalizer](values)


def check(reduction: str, normalizer: str | None) -> None:
    """Raise ConfigError for a reduction or normaliser that does not exist."""
    _ = REDUCTIONS[reduction], normalizer is None or NORMALIZERS[normalizer]


def one_of(field_name: str, given: str, known: tuple[str, ...]) -> None:
    """Raise ConfigError where an option has none of its values."""
    if given not in known:
        raise ConfigError(f"{field_name} is one of {', '.join(known)}, not {given!r}.{nearest(given, known)}")


@REDUCTIONS.add("mean")
def _mean(parts: Values) -> Values:
    return parts.mean(axis=0)


@REDUCTIONS.add("sum")
def _sum(parts: Values) -> Values:
    return parts.sum(axis=0)


@REDUCTIONS.add("max")
def _max(parts: Values) -> Values:
    return parts.max(axis=0)


@REDUCTIONS.add("prod")
def _prod(parts: Values) -> Values:
    """The geometric mean: it ranks as the product does, and does not overflow on a stream with a hundred users."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(parts).mean(axis=0))


@REDUCTIONS.add("first")
def _first(parts: Values) -> Values:
    return parts[0]


def _divided(values: Values, by: float) -> Values:
    with np.errstate(invalid="ignore"):  # weights that are no numbers are told of elsewhere
        return values / by if by else values


@NORMALIZERS.add("mean")
def _by_mean(values: Values) -> Values:
    return _divided(values, float(values.mean()))


@NORMALIZERS.add("sum")
def _by_sum(values: Values) -> Values:
    return _divided(values, float(values.sum()))


@NORMALIZERS.add("max")
def _by_max(values: Values) -> Values:
    return _divided(values, float(values.max()))


@NORMALIZERS.add("standardization")
def _from_zero_to_one(values: Values) -> Values:
    return _divided(values - values.min(), float(np.ptp(values)))


@NORMALIZERS.add("gaussian")
def _gaussian(values: Values) -> Values:
    return _divided(values - values.mean(), float(values.std()))


@NORMALIZERS.add("lamp")
def lamp(values: Values) -> Values:
    """Each value over the sum of all that are not smaller (see `LAMP`); ties share one score."""
    ordered, place = np.unique(values, return_inverse=True)
    totals = np.bincount(place.ravel(), weights=values.ravel(), minlength=len(ordered))
    not_smaller = np.cumsum(totals[::-1])[::-1]
    scores = np.divide(ordered, not_smaller, out=np.zeros_like(ordered), where=not_smaller > 0)
    return scores[place].reshape(values.shape)
