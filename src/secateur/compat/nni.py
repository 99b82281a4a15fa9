"""NNI's ``config_list``: how much of which layers.

    [{"sparsity_per_layer": 0.5, "op_types": ["Conv2d"]},      half of the channels of every convolution,
     {"exclude": True, "op_names": ["stem"]},                  not of this one,
     {"total_sparsity": 0.2, "op_types": ["Linear"]}]          a fifth of these layers' weights, wherever they matter least

An entry means the layers that all of its selectors match (names and partial names count as one); ``exclude`` takes layers
out of the entries before it.

Invariant: what is read is meant: an unknown key, a name that matches nothing and a contradiction are errors that name them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur.errors import ConfigError, nearest

KEYS = (
    "sparsity_per_layer",
    "sparsity",
    "total_sparsity",
    "max_sparsity_per_layer",
    "op_types",
    "op_names",
    "op_partial_names",
    "exclude",
)


SELECTORS = ("op_types", "op_names", "op_partial_names")


MOST = 0.99  # of a layer that a total sparsity may take where no maximum is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A sparsity of several layers together, and the most that each may lose."""

    sparsity: float
    most: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsities:
    """What a list says: for layers one by one, for layers together, which stay whole, which are named one by one."""

    per_layer: Mapping[str, float]
    totals: tuple[Total, ...]
    excluded: frozenset[str]
    named: frozenset[str]


@dataclass
class _Reading:
    """What was said so far, and by which entry."""

    per_layer: dict[str, tuple[float, int]] = field(default_factory=dict)
    totals: dict[int, Total] = field(default_factory=dict)
    excluded: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)


def read_config_list(entries: Any, layers: Mapping[str, Sequence[str]], modules: Sequence[str] = ()) -> Sparsities:
    """Read a list (or its JSON text) for layers, given as ``{name: names of its type}``; ``modules`` has other names.

    Raises ConfigError as the module says.
    """
    found = _Reading()
    for number, entry in enumerate(_entries(entries)):
        where = f"config_list[{number}]"
        _check_entry(entry, where)
        chosen = _chosen(entry, layers, modules, where)
        if entry.get("exclude"):
            _exclude(found, chosen)
        else:
            _say(found, entry, number, chosen)
    return Sparsities(
        per_layer={name: sparsity for name, (sparsity, _) in found.per_layer.items()},
        totals=tuple(total for total in found.totals.values() if total.most),
        excluded=frozenset(found.excluded),
        named=frozenset(found.named - found.excluded),
    )


def _entries(entries: Any) -> Sequence[Any]:
    if isinstance(entries, str):
        try:
            entries = json.loads(entries)
        except ValueError as error:
            raise ConfigError(f"config_list is no JSON: {error}") from None
    if not isinstance(entries, Sequence) or not entries:
        raise ConfigError(
            'config_list is a list of dicts such as [{"sparsity_per_layer": 0.5, "op_types": ["Conv2d"]}]'
        )
    return entries


def _check_entry(entry: Any, where: str) -> None:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} is a dict, not {type(entry).__name__}")
    for key in entry:
        if key not in KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}.{nearest(str(key), KEYS)} Known are {', '.join(KEYS)}.")
    says = [key for key in ("sparsity_per_layer", "sparsity", "total_sparsity", "exclude") if key in entry]
    if len(says) > 1:
        raise ConfigError(f"{where}: {' and '.join(says)} contradict each other: one of them")
    if not says or entry.get("exclude") is False:
        raise ConfigError(f"{where} says no sparsity: give sparsity_per_layer, total_sparsity or exclude: True")
    if "max_sparsity_per_layer" in entry and says != ["total_sparsity"]:
        raise ConfigError(f"{where}: max_sparsity_per_layer has no effect without total_sparsity")
    if "exclude" in entry and entry["exclude"] is not True:
        raise ConfigError(f"{where}: exclude is True, not {entry['exclude']!r}")
    if not any(key in entry for key in SELECTORS):
        raise ConfigError(f"{where} names no layers: give {', '.join(SELECTORS[:2])} or {SELECTORS[2]}")
    for key in says:
        if key != "exclude":
            _share(entry[key], f"{where}: {key}")


def _share(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"{what} is a share of at least 0 and less than 1, not {value!r}")
    return float(value)


def _chosen(
    entry: Mapping[str, Any], layers: Mapping[str, Sequence[str]], modules: Sequence[str], where: str
) -> list[str]:
    """The layers that an entry means, in order."""
    for key in SELECTORS:
        words = entry.get(key, [])
        if (
            not isinstance(words, list | tuple)
            or not all(isinstance(w, str) for w in words)
            or (key in entry and not words)
        ):
            raise ConfigError(f"{where}: {key} is a list of names, not {words!r}")
    chosen = list(layers)
    if "op_types" in entry:
        types = set(_of_types(entry["op_types"], layers, where))
        chosen = [name for name in chosen if name in types]
    if "op_names" in entry or "op_partial_names" in entry:
        names = set(_of_names(entry, layers, modules, where))
        chosen = [name for name in chosen if name in names]
    if not chosen:
        raise ConfigError(f"{where}: no layer matches all of {', '.join(key for key in SELECTORS if key in entry)}")
    return chosen


def _of_types(types: Sequence[str], layers: Mapping[str, Sequence[str]], where: str) -> Iterator[str]:
    known = {word for words in layers.values() for word in words}
    for wanted in types:
        if wanted != "default" and wanted not in known:
            raise ConfigError(f"{where}: op_types: no layer is a {wanted!r}.{nearest(wanted, known)}")
        yield from (name for name, words in layers.items() if wanted == "default" or wanted in words)


def _of_names(
    entry: Mapping[str, Any], layers: Mapping[str, Sequence[str]], modules: Sequence[str], where: str
) -> Iterator[str]:
    for wanted in entry.get("op_names", ()):
        if wanted in layers:
            yield wanted
        elif wanted in modules:
            raise ConfigError(
                f"{where}: op_names: {wanted!r} has no output units of its own: name a layer with weights"
            )
        else:
            raise ConfigError(f"{where}: op_names: no layer is called {wanted!r}.{nearest(wanted, layers)}")
    for part in entry.get("op_partial_names", ()):
        matching = [name for name in layers if part in name]
        if not matching:
            raise ConfigError(f"{where}: op_partial_names: {part!r} is part of no layer's name.{nearest(part, layers)}")
        yield from matching


def _exclude(found: _Reading, chosen: Sequence[str]) -> None:
    for name in chosen:
        found.excluded.add(name)
        found.per_layer.pop(name, None)
    for number, total in found.totals.items():
        found.totals[number] = Total(
            sparsity=total.sparsity, most={n: s for n, s in total.most.items() if n not in found.excluded}
        )


def _say(found: _Reading, entry: Mapping[str, Any], number: int, chosen: Sequence[str]) -> None:
    where = f"config_list[{number}]"
    together = "total_sparsity" in entry
    sparsity = float(entry.get("total_sparsity", entry.get("sparsity_per_layer", entry.get("sparsity", 0.0))))
    for name in chosen:
        earlier = found.per_layer.get(name)
        other = earlier[1] if earlier else next((n for n, total in found.totals.items() if name in total.most), None)
        if other is not None and (together or earlier is None or earlier[0] != sparsity):
            raise ConfigError(
                f"{where} and config_list[{other}] say different things for {name!r}; to make an exception of it, "
                f'put {{"exclude": True, "op_names": [{name!r}]}} between them'
            )
    found.excluded -= set(chosen)
    found.named |= set(entry.get("op_names", ()))
    if together:
        found.totals[number] = Total(sparsity=sparsity, most=_maxima(entry, chosen, sparsity, where))
    else:
        found.per_layer.update(dict.fromkeys(chosen, (sparsity, number)))


def _maxima(entry: Mapping[str, Any], chosen: Sequence[str], sparsity: float, where: str) -> dict[str, float]:
    given = entry.get("max_sparsity_per_layer", MOST)
    what = f"{where}: max_sparsity_per_layer"
    if isinstance(given, Mapping):
        strange = [name for name in given if name not in chosen]
        if strange:
            raise ConfigError(f"{what}: {strange[0]!r} is no layer of this entry.{nearest(str(strange[0]), chosen)}")
        most = {name: _share(given[name], f"{what}: {name}") if name in given else MOST for name in chosen}
    else:
        most = dict.fromkeys(chosen, _share(given, what))
    if max(most.values()) < sparsity:
        raise ConfigError(f"{what} is below total_sparsity = {sparsity}, which cannot be reached so")
    return most
