"""Which outputs of a model are its interface: their dimensions are what the world outside reads, and are never narrowed.

    logits                      pinned: what the model is run for
    past_key_values[0].keys     interior: a cache is read by the model alone, in its next step
    encoder_hidden_states[1]    interior: a look inside

The convention: caches are interior always, by type or by name, at any depth. Among named fields (mappings, dataclasses, Hugging
Face outputs) so are ``…hidden_states``, ``…attentions``, router scores, the ``…_last_hidden_state`` of an inner model or its
whole output, and ``last_hidden_state``, ``image_embeds`` or ``state`` beside ``logits``. All else is pinned, and where nothing
would be, everything is. ``interface=["logits", "encoder_*"]`` says otherwise.

Invariant: which outputs are pinned depends on their places and the kinds of their holders, never on values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase

import torch

from secateur.errors import InputError
from secateur.torch.running.outputs import is_holder, items_of, numbers_in

Interface = bool | Sequence[str]  # True: the convention, False: nothing is pinned; or the places that are, as patterns

CACHES = frozenset(
    {"past_key_values", "past_key_value", "past_key_values_list", "presents", "past", "cache", "kv_cache", "caches"}
    | {"cache_params", "past_buckets_states", "mems", "rnn_state"}
)
_CACHE_TYPE = re.compile(r"Cache$")
_INSIDE = re.compile(r"(.*_)?(hidden_states|attentions|router_logits|router_probs)|.+_last_hidden_state")
# what an encoder gave to the decoder that tells of it; what a recurrent language model takes back
_BESIDE_LOGITS = ("last_hidden_state", "image_embeds", "state")
_INNER_OUTPUT = "ModelOutput"


def check_interface(interface: object) -> Interface:
    """An interface as it may be given. Raises InputError for anything else."""
    if isinstance(interface, bool):
        return interface
    if isinstance(interface, str) or not isinstance(interface, Sequence):
        raise InputError(f'interface: True, False, or a list of outputs such as ["logits"], not {interface!r}')
    if not interface or not all(isinstance(name, str) for name in interface):
        raise InputError("interface: a list names outputs, such as ['logits']; to pin none, say interface=False")
    return tuple(interface)


def pinned(output: object, interface: Interface) -> list[tuple[str, torch.Tensor, bool]]:
    """Every tensor of an output: its place, itself, and whether it is part of the interface.

    Raises InputError for a name that matches no output.
    """
    found = [(place, value) for place, value in numbers_in(output) if isinstance(value, torch.Tensor)]
    if isinstance(interface, bool):
        inside = tuple(_interior(output, "", set())) if interface else ()
        own = [interface and not any(_within(place, part) for part in inside) for place, _ in found]
        if interface and not any(own):
            own = [True] * len(found)
    else:
        own = _named([place for place, _ in found], interface)
    return [(place, tensor, mine) for (place, tensor), mine in zip(found, own, strict=True)]


def in_caches(output: object) -> list[torch.Tensor]:
    """The tensors of an output that are held by a cache: what the model takes again in its next step."""
    caches = tuple(_caches(output, "", set()))
    held = (value for place, value in numbers_in(output) if any(_within(place, part) for part in caches))
    return list({id(value): value for value in held if isinstance(value, torch.Tensor)}.values())


def _caches(value: object, place: str, seen: set[int]) -> Iterator[str]:
    """The places of caches, at any depth."""
    if not is_holder(value) or id(value) in seen:
        return
    seen.add(id(value))
    named = _has_named_fields(value)
    for step, item in items_of(value):
        at, key = (f"{place}{step}" if place else step.removeprefix(".")), step.removeprefix(".") if named else ""
        if _is_cache(key, item):
            yield at
        else:
            yield from _caches(item, at, seen)


def _named(places: Sequence[str], names: Sequence[str]) -> list[bool]:
    for name in names:
        if not any(_matches(place, name) for place in places):
            there = ", ".join(dict.fromkeys(re.split(r"[.\[]", place)[0] or place for place in places))
            raise InputError(f"interface: no output is called {name!r}. The model returns {there or 'no tensor'}.")
    return [any(_matches(place, name) for name in names) for place in places]


def _matches(place: str, name: str) -> bool:
    heads = [place[: m.start()] for m in re.finditer(r"[.\[]", place)]
    return any(fnmatchcase(head, name.replace("[", "[[]")) for head in (place, *heads))


def _within(place: str, part: str) -> bool:
    return place == part or (place.startswith(part) and place[len(part)] in ".[")


def _interior(value: object, place: str, seen: set[int]) -> Iterator[str]:
    """The places of what is not part of the interface."""
    if not is_holder(value) or id(value) in seen:
        return
    seen.add(id(value))
    items = [
        (key.removeprefix("."), item, f"{place}{key}" if place else key.removeprefix("."))
        for key, item in items_of(value)
    ]
    named = _has_named_fields(value)
    inside = {at for key, item, at in items if _is_cache(key if named else "", item)}
    if named:
        scored = any(
            key.endswith("logits") and _INSIDE.fullmatch(key) is None for key, item, _ in items if item is not None
        )
        extra = {at for key, item, at in items if _is_inside(key, item) or (scored and key in _BESIDE_LOGITS)}
        if any(numbers_in(item) for _, item, at in items if at not in inside | extra):
            inside |= extra
    for _, item, at in items:
        if at in inside:
            yield at
        else:
            yield from _interior(item, at, seen)


def _is_cache(key: str, value: object) -> bool:
    return key in CACHES or any(_CACHE_TYPE.search(kind.__name__) for kind in type(value).__mro__)


def _is_inside(key: str, value: object) -> bool:
    inner = any(kind.__name__ == _INNER_OUTPUT for kind in type(value).__mro__)
    return inner or _INSIDE.fullmatch(key) is not None


def _has_named_fields(value: object) -> bool:
    return isinstance(value, Mapping) or (is_dataclass(value) and bool(fields(value))) or hasattr(value, "_fields")
