"""What differs between the record of a case and what it leaves now, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator

from .digests import Record, Section

_MOST = 4  # items shown of a section


def differences(expected: Record | None, found: Record | None) -> list[str]:
    """Lines for a reader; none where all is equal."""
    if found is None:
        return ["it raised an error, see above"]
    if expected is None:
        return ["it was not recorded"]
    return [line for name in _union(expected, found) for line in _section(name, expected.get(name), found.get(name))]


def _section(name: str, expected: Section | None, found: Section | None) -> Iterator[str]:
    if expected is None or found is None:
        yield f"{name}: {'not recorded' if expected is None else 'not there any more'}"
        return
    differing = [item for item in _union(expected, found) if expected.get(item) != found.get(item)]
    if not differing:
        return
    yield f"{name}: {len(differing)} of {len(expected)} differ"
    for item in differing[:_MOST]:
        yield f"    {item}: {expected.get(item, 'nothing')} -> {found.get(item, 'nothing')}"
    if len(differing) > _MOST:
        yield f"    and {len(differing) - _MOST} more"


def _union(one: dict[str, object] | Record | Section, other: dict[str, object] | Record | Section) -> list[str]:
    return list(dict.fromkeys([*one, *other]))
