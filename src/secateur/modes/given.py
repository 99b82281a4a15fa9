"""A mode as it is given: a name, an object, or one of these with options beside it in a list, a pair or a dict.

    "magnitude"    ["magnitude"]    ("magnitude", {…})    [("magnitude", {…})]    {"magnitude": {…}}

Invariant: one mode is named; nothing is said here of whether there is such a mode or option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.errors import ConfigError
from secateur.modes.task import Mode

ModeOption = str | Mode | Mapping[str, Any] | Sequence[Any]  # Any: a name, or a pair of a name and its options


def one_mode(given: ModeOption) -> tuple[str | Mode, Mapping[str, Any] | None]:
    """The mode and the options beside it. Raises ConfigError where there is not one mode, or its options are no dict."""
    name, options = _entry(given)
    if not isinstance(name, str | Mode):
        raise ConfigError(f"a mode is a name such as 'magnitude', not {type(name).__name__}")
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(
            f'the options of a mode are a dict, as in {{"magnitude": {{"criterion": "l2"}}}}, not {options!r}'
        )
    return name, options


def _entry(given: ModeOption) -> tuple[Any, Any]:
    if isinstance(given, str | Mode) or not isinstance(given, Mapping | Sequence):
        return given, None
    entries: list[Any] = list(given.items() if isinstance(given, Mapping) else given)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping):
        entries = [given]  # the pair itself, without the list around it
    if len(entries) != 1:
        raise ConfigError(
            f"mode names {len(entries)} modes: call prune once for each, with the constraints that each is to meet"
            if entries
            else "mode names no mode: write one, such as 'progressive'"
        )
    (only,) = entries
    return tuple(only) if isinstance(only, tuple | list) and len(only) == 2 else (only, None)
