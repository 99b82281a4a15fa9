"""What keeps a model's settings: dicts, rows, plain objects with or without slots, and others like them with other values.

    with_fields(Config(heads=4), {"heads": 2})        another Config, of which no constructor was run

Invariant: nothing is changed; what is made shares all values but those given.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from secateur.torch.running.restoring import shallow_copy


def is_table(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value is a dict whose keys are words."""
    return type(value) in (dict, OrderedDict) and all(type(key) is str and key.isidentifier() for key in value)  # type: ignore[attr-defined]


def is_plain_row(value: Sequence[object]) -> bool:
    """Whether a value is a list, a tuple or a named tuple, not a class of somebody's own."""
    return type(value) in (tuple, list) or hasattr(type(value), "_make")


def row_like(value: Sequence[object], items: Iterable[object]) -> Any:
    """A row of the same kind with other items."""
    make: Any = getattr(type(value), "_make", type(value))
    return make(items)


def fields_of(value: object) -> dict[str, Any]:
    """The attributes that an object itself holds, those in slots too."""
    names = (name for kind in type(value).__mro__ for name in _slots(kind))
    held = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return held | {k: v for k, v in getattr(value, "__dict__", {}).items() if isinstance(k, str)}


def with_fields(value: object, fields: Mapping[str, object]) -> Any:
    """Another object like this one, in which these attributes have these values, frozen or not."""
    made = shallow_copy(value) if hasattr(value, "__dict__") else copy.copy(value)
    for name, new in fields.items():
        if name in getattr(made, "__dict__", ()):
            made.__dict__[name] = new
        else:
            object.__setattr__(made, name, new)
    return made


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name.isidentifier() and not name.startswith("__"))
