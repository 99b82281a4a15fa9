"""Modes as they are given: names, objects, or these with options beside them in lists, pairs or dicts.

    "magnitude"    ["magnitude"]    ("magnitude", {…})    [("magnitude", {…})]    {"magnitude": {…}}
    [("progressive", {…}), "gradnas"]    {"progressive": {…}, "gradnas": {}}        two, one after the other

Invariant: at least one mode is named; nothing is said here of whether there is such a mode or option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.errors import ConfigError
from secateur.modes.task import Mode

ModeOption = str | Mode | Mapping[str, Any] | Sequence[Any]  # Any: a name, or a pair of a name and its options


Named = tuple[str | Mode, Mapping[str, Any] | None]  # a mode, and the options beside it


def modes_in_turn(given: ModeOption) -> list[Named]:
    """The modes in their order, each with its options. Raises ConfigError where there is none, or options are no dict."""
    named = [_checked(*_entry(entry)) for entry in _entries(given)]
    if not named:
        raise ConfigError("mode names no mode: write one, such as 'progressive'")
    return named


def one_mode(given: ModeOption) -> Named:
    """The mode and the options beside it, where there is to be one."""
    named = modes_in_turn(given)
    if len(named) > 1:
        raise ConfigError(f"mode names {len(named)} modes, and here is room for one")
    return named[0]


def _entries(given: ModeOption) -> list[Any]:
    if isinstance(given, str | Mode) or not isinstance(given, Mapping | Sequence):
        return [given]
    if isinstance(given, Mapping):
        return list(given.items())
    alone = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)
    return [given] if alone else list(given)  # a pair itself, or a list of them


def _entry(entry: Any) -> tuple[Any, Any]:
    return tuple(entry) if isinstance(entry, tuple | list) and len(entry) == 2 else (entry, None)


def _checked(name: object, options: object) -> Named:
    if not isinstance(name, str | Mode):
        raise ConfigError(f"a mode is a name such as 'magnitude', not {type(name).__name__}")
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(
            f'the options of a mode are a dict, as in {{"magnitude": {{"criterion": "l2"}}}}, not {options!r}'
        )
    return name, options
