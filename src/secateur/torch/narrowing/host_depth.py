"""What a configuration says of layers: how many there are, and something of each.

    num_hidden_layers 12, layer_types ["full", "sliding", …]     without layers 3 and 7 ──► 10, and the list without these two
    depths [3, 3, 9, 3]                                          without two of the third stage ──► [3, 3, 7, 3]
    num_dense_layers 2 (the first two are of another kind)       without the first ──► 1

Nothing is known of names: a field is proposed where its value, or its length, is the number of entries of a stack.

Invariant: nothing is decided here; every proposal is tried by the one who asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from secateur.core.depth import Stack
from secateur.core.plan import Plan
from secateur.torch.narrowing.host_building import Config, is_config

_MOST = 64  # ways of reading one list of counts

Value = int | str | list[Any]


def shallower(config: Config, plan: Plan) -> Iterator[dict[str, Value]]:
    """Fields that may say together what a plan leaves of the stacks that it drops blocks of."""
    stacks = _shortened(plan)
    if not stacks:
        return
    fields = list(fields_of(config))
    counts = {number: len(places) for number, places in stacks}
    for number, places in stacks:
        each = {path: _at(value, places) for path, value in fields if _tells_of_each(value, number)}
        for path in [path for path, value in fields if type(value) is int and value == number]:
            yield {**each, path: len(places)}
            yield {path: len(places)}
            for first, left in _leading(fields, number, places):
                yield {**each, path: len(places), first: left}
        if each:
            yield each
    for path, value in fields:
        if isinstance(value, (list, tuple)) and value and all(type(item) is int for item in value):
            for new in _recounted(value, counts):
                yield {path: new}


def _shortened(plan: Plan) -> list[tuple[int, list[int]]]:
    """Of every stack that loses blocks how many entries it has, and the places of those that stay."""
    names = dict.fromkeys(name.rpartition(".")[0] for name in plan.drops - plan.standing.keys())
    found: list[tuple[int, list[int]]] = []
    for name in names:
        entries = _entries(plan, name)
        found.append((len(entries), [i for i, entry in enumerate(entries) if entry not in plan.drops]))
    return found


def _entries(plan: Plan, name: str) -> Sequence[str]:
    known: Sequence[Stack] = () if plan.graph is None else plan.graph.stacks
    stack = next((stack for stack in known if stack.name == name), None)
    if stack is not None:
        return stack.modules
    start = f"{name}." if name else ""
    keys = {tensor.removeprefix(start).partition(".")[0] for tensor in plan.layouts if tensor.startswith(start)}
    return [start + key for key in sorted(keys, key=lambda key: (len(key), key))]


def _leading(fields: Sequence[tuple[str, object]], number: int, places: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Fields that may say how many at the front are of another kind, with how many of these stay."""
    for path, value in fields:
        if type(value) is int and 0 < value < number:
            left = sum(place < value for place in places)
            if left != value:
                yield path, left


def _tells_of_each(value: object, number: int) -> bool:
    return isinstance(value, (list, tuple, str)) and len(value) == number


def _at(value: Any, places: Sequence[int]) -> Value:
    left = [value[place] for place in places]
    return "".join(left) if isinstance(value, str) else left


def _recounted(value: Sequence[int], counts: dict[int, int]) -> Iterator[list[int]]:
    """The list with some of the counts that are those of stacks as they are afterwards."""
    ways = [(counts[item], item) if item in counts else (item,) for item in value]
    for number, made in enumerate(product(*ways)):
        if number < _MOST and list(made) != list(value):
            yield list(made)


def fields_of(config: Config, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every public field by dotted path, those of configurations inside it too."""
    for key, value in vars(config).items():
        if key.startswith("_"):
            continue
        yield prefix + key, value
        if is_config(value):
            yield from fields_of(value, f"{prefix}{key}.")
