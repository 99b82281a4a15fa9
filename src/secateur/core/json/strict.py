"""JSON from strangers, read without surprises.

What the standard reader lets through is refused here, each with a sentence: more than 64 MiB, nesting beyond 100, a key
that occurs twice, NaN and infinities, bytes that are not UTF-8. What does not fit its schema is refused by its place:

    kept → layer1.0.conv1.out_channels: kept indices must be sorted and unique

Invariant: reading builds plain lists, dicts, strings and numbers; nothing that is read is ever looked up by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from secateur.core.json import Json
from secateur.core.text import visible
from secateur.errors import SecateurError

MAX_BYTES = 64 * 2**20


MAX_DEPTH = 100


_Model = TypeVar("_Model", bound=BaseModel)


def read_json(text: str | bytes, what: str, error: type[SecateurError]) -> object:
    """Parse JSON; ``what`` names the source in errors, which are of type ``error``."""
    if not isinstance(text, str | bytes | bytearray):
        raise error(f"{what} is read from JSON text, not from {type(text).__name__}")
    if len(text) > MAX_BYTES:
        raise error(f"{what} has {len(text):,} bytes; more than {MAX_BYTES:,} is refused")
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        data = json.loads(plain, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise error(f"{what} is nested too deeply; the limit is {MAX_DEPTH} levels") from None
    except ValueError as problem:
        raise error(f"{what} is not usable JSON: {visible(problem)[:200]}") from None
    if _deeper_than(data, MAX_DEPTH):
        raise error(f"{what} is nested too deeply; the limit is {MAX_DEPTH} levels")
    return data


def check_version(data: object, known: int, what: str, error: type[SecateurError]) -> dict[str, object]:
    """The data, if it is a JSON object whose ``format_version`` is the one known here; else refuse it."""
    if not isinstance(data, dict):
        raise error(f"{what} must be a JSON object, not {type(data).__name__}")
    version = data.get("format_version")
    if type(version) is not int or version != known:
        shown = visible(repr(version))[:40]
        raise error(
            f"{what} has format version {shown}; this Secateur reads version {known}. "
            "Use the Secateur that wrote it, or write it anew"
        )
    return data


def fit(model: type[_Model], data: object, what: str, error: type[SecateurError]) -> _Model:
    """The data as this schema; the first misfit is raised with its place."""
    try:
        return model.model_validate(data)
    except (ValidationError, RecursionError, OverflowError) as problem:
        raise error(f"{what}: {_first(problem)}") from None


def fit_json(model: type[_Model], data: object, what: str, error: type[SecateurError]) -> _Model:
    """The data as this schema where JSON's lists may stand for tuples; the first misfit is raised with its place."""
    try:
        return model.model_validate_json(json.dumps(data, allow_nan=False))
    except (ValidationError, RecursionError, OverflowError) as problem:
        raise error(f"{what}: {_first(problem)}") from None


def write_json(data: Mapping[str, Json], what: str, error: type[SecateurError]) -> str:
    """JSON text: a line for each name, so that files can be read and compared."""
    try:
        return _lines(data, 0) + "\n"
    except (TypeError, ValueError, RecursionError) as problem:
        raise error(f"{what} cannot be written as JSON: {visible(problem)[:200]}") from None


def _lines(value: Json, depth: int) -> str:
    entries: list[str] = []
    if isinstance(value, Mapping) and depth < 5:
        entries = [f"{json.dumps(_key(k))}: {_lines(v, depth + 1)}" for k, v in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        entries = [_lines(v, depth + 1) for v in value]
    if not entries:
        return json.dumps(value, allow_nan=False)
    start, end = "{}" if isinstance(value, Mapping) else "[]"
    indent = "\n" + "  " * depth
    return f"{start}{indent}  " + f",{indent}  ".join(entries) + f"{indent}{end}"


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key must be a string, not {key!r}")
    return key


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keyed = dict(pairs)
    if len(keyed) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:80]!r} occurs twice")
    return keyed


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _deeper_than(data: object, limit: int) -> bool:
    level = [data]
    for _ in range(limit + 1):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: object) -> list[object]:
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [child for child in inside if isinstance(child, dict | list)]


def _first(problem: Exception) -> str:
    if not isinstance(problem, ValidationError):
        return "a value is beyond what can be handled"
    first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
    place = " → ".join(visible(part)[:120] for part in first["loc"])
    message = visible(first["msg"].removeprefix("Value error, "))[:300]
    return f"{place}: {message}" if place else message
