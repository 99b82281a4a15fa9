"""NNI 3's keys of a `config_list`, in the words of NNI 2.

    {"sparse_ratio": 0.5, "op_types": ["Conv2d"]}                          half of each layer: sparsity_per_layer
    {"sparse_ratio": 0.2, "global_group_id": "a", "max_sparse_ratio": 0.9} a fifth of all that share the id: total_sparsity

Invariant: a key that has no counterpart is an error that says why, never left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pydantic import JsonValue

from secateur.errors import ConfigError

Entry: TypeAlias = Mapping[str, JsonValue]

KEYS = ("sparse_ratio", "max_sparse_ratio", "min_sparse_ratio", "sparse_threshold", "global_group_id",
        "dependency_group_id", "granularity", "target_names", "target_settings", "align", "apply_method")  # fmt: skip
_REFUSED = {
    "min_sparse_ratio": "a share that must go of every layer; give the layers entries of their own",
    "sparse_threshold": "a bound on scores; give a share of the units",
    "target_settings": "settings of single tensors; units go from all tensors that have them",
    "align": "which tensor follows which; that is known from the trace",
    "apply_method": "how masks are applied; units are removed",
}
_GRANULARITIES = ("default", "out_channel", "per_channel")
_TARGETS = ("weight", "bias")


def in_nni_2(entry: object, where: str) -> dict[str, JsonValue]:
    """The entry in NNI 2's keys. Raises ConfigError for what cannot be meant here."""
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} is a dict, not {type(entry).__name__}")
    for key, why in _REFUSED.items():
        if key in entry:
            raise ConfigError(f"{where}: {key} has no counterpart: it is {why}")
    _check(entry, where)
    found = {key: value for key, value in entry.items() if key not in KEYS}
    if "sparse_ratio" in entry:
        both = next((key for key in ("sparsity", "sparsity_per_layer", "total_sparsity") if key in entry), None)
        if both is not None:
            raise ConfigError(f"{where}: sparse_ratio and {both} contradict each other: one of them")
        together = "global_group_id" in entry
        found["total_sparsity" if together else "sparsity_per_layer"] = entry["sparse_ratio"]
    if "max_sparse_ratio" in entry:
        found["max_sparsity_per_layer"] = entry["max_sparse_ratio"]
    return found


def _check(entry: Entry, where: str) -> None:
    """``dependency_group_id`` changes nothing: what is coupled is known; the rest must mean whole output units."""
    granularity = entry.get("granularity", "default")
    if granularity not in _GRANULARITIES:
        raise ConfigError(
            f"{where}: granularity: whole output units go ({', '.join(_GRANULARITIES)}), not {granularity!r}"
        )
    targets = entry.get("target_names", ["weight"])
    if (
        not isinstance(targets, Sequence)
        or isinstance(targets, str)
        or "weight" not in targets
        or set(targets) - {*_TARGETS}
    ):
        raise ConfigError(f"{where}: target_names: units go from weight and bias together, not {targets!r}")
    if "global_group_id" in entry and "sparse_ratio" not in entry:
        raise ConfigError(f"{where}: global_group_id has no effect without sparse_ratio")


def grouped(entries: Sequence[object]) -> list[object]:
    """Entries that share a ``global_group_id`` cannot be told apart here, so they must select in one entry."""
    ids = [entry.get("global_group_id") for entry in entries if isinstance(entry, Mapping)]
    twice = next((i for i in ids if i is not None and ids.count(i) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"config_list: several entries have the global_group_id {twice!r}: write them as one, with all of their op_types "
            "and op_names"
        )
    return list(entries)
