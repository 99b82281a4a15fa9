"""Options that are read once, checked, and frozen.

    class Magnitude(Options):
        criterion: str = "l1"

    Magnitude.read({"criterian": "l2"})  ->  ConfigError: config: unknown option 'criterian'. Did you mean 'criterion'? …

    with asked_for() as asked: …          which options the block came to read; `idle` are those given that it did not

Invariant: what exists is valid; a key that nobody knows and a value of another type are errors that name them.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import cleandoc, get_annotations
from numbers import Integral
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from secateur.core.text import plainly
from secateur.errors import ConfigError, nearest

_MOST = 1 << 62  # units, bytes, steps: what is larger is a mistake
# What other tools, and earlier versions, call some options.
_ELSEWHERE = {
    "keep": "exclude", "excludes": "exclude", "ignored_layers": "exclude", "channel_divisible": "multiple_of",
    "round_to": "multiple_of", "dataloader": "data_loader", "train_loader": "data_loader", "eval_fn": "score_func",
    "eval_func": "score_func", "loss_fn": "loss_func", "criterion_func": "loss_func", "learning_rate": "lr",
    "max_iter_data_loader": "num_batches", "training_steps": "num_batches",
}  # fmt: skip

_ASKED: ContextVar[set[str] | None] = ContextVar("the options that were asked for", default=None)


@contextmanager
def asked_for() -> Iterator[set[str]]:
    """The names of all options that are read inside, by this thread."""
    asked: set[str] = set()
    token = _ASKED.set(asked)
    try:
        yield asked
    finally:
        _ASKED.reset(token)


@contextmanager
def only_noted() -> Iterator[None]:
    """What is read inside is written down somewhere, and has no effect by that."""
    token = _ASKED.set(None)
    try:
        yield
    finally:
        _ASKED.reset(token)


class Options(BaseModel):
    """Base of everything that is configured by a dict; ``called`` is what the dict is called where it is given."""

    called: ClassVar[str] = "config"

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
    )

    if not TYPE_CHECKING:  # a checker is to see the fields as parameters

        def __init__(self, **given: object) -> None:
            given = {key: whole_number(value) for key, value in given.items()}
            _refuse_huge(given, self.called)
            try:
                super().__init__(**given)
            except ValidationError as error:
                raise ConfigError(_sentence(error, type(self))) from None

    @classmethod
    def read(cls, given: Mapping[str, Any] | Self | None) -> Self:
        """These options from a mapping, or as they are. Raises ConfigError naming the key, and the nearest known one."""
        if isinstance(given, cls):
            return given
        if given is None:
            return cls()
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise ConfigError(f"{cls.called} is a dict of options, not {_brief(given)}")
        return cls(**given)

    def __getattribute__(self, name: str) -> Any:
        asked = _ASKED.get()
        if asked is not None:
            asked.add(name)
        return super().__getattribute__(name)

    def idle(self, asked: Collection[str]) -> list[str]:
        """The options that were given another value than the default, and were not asked for: they had no effect."""
        fields = type(self).model_fields
        given = [name for name in fields if name in self.model_fields_set and name not in asked]
        return [name for name in given if not _same(self.__dict__[name], fields[name].default)]

    def __str__(self) -> str:
        """What these options are for, and each with its meaning, its type, its default and what it is now."""
        return f"{cleandoc(type(self).__doc__ or '')}\n\n{options_table(type(self), self)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option as tables show it."""

    name: str
    meaning: str
    type: str
    default: str


def described_options(kind: type[Options]) -> list[Option]:
    """What there is to say of each option of a kind: its own, then those that it shares with others."""
    own = get_annotations(kind)
    return [_described(kind, name) for name in sorted(kind.model_fields, key=lambda name: name not in own)]


def _described(kind: type[Options], name: str) -> Option:
    field = kind.model_fields[name]
    default = "needed" if field.is_required() else shown_value(field.get_default(call_default_factory=True))
    meaning = " ".join((field.description or "").split())
    return Option(name=name, meaning=meaning, type=type_name(field.annotation), default=default)


def options_table(kind: type[Options], now: Options | None = None) -> str:
    """The options of a kind as a table: meaning, type, default, and what is set where that is another."""
    from secateur.core.show import text_table

    rows = []
    for option in described_options(kind):
        value = shown_value(getattr(now, option.name)) if now is not None else option.default
        changed = "" if value == option.default else value
        rows.append((option.name, option.meaning, option.type, option.default, changed))
    columns = ("option", "meaning", "type", "default", "set to")
    shown = columns if any(row[-1] for row in rows) else columns[:-1]
    return text_table(kind.__name__, shown, [row[: len(shown)] for row in rows])


def type_name(annotation: object) -> str:
    """A type as a reader says it: no modules, no bounds, no signatures."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return " | ".join(json.dumps(argument) for argument in arguments)
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(type_name(argument) for argument in arguments))
    if annotation is Callable or origin is Callable:
        return "function"
    name = getattr(origin or annotation, "__name__", str(annotation)).replace("NoneType", "None")
    inner = ", ".join("…" if argument is ... else type_name(argument) for argument in arguments)
    return f"{name}[{inner}]" if inner else name.lower() if annotation is Any else name


def shown_value(value: object) -> str:
    """A value on one short line, as it would be written."""
    text = json.dumps(value) if isinstance(value, str) else getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def whole_number(value: Any) -> Any:
    """A whole number of NumPy or the like as Python's own, in dicts as well; anything else as it is."""
    if isinstance(value, Integral) and not isinstance(value, int):
        return operator.index(value)
    return {key: whole_number(entry) for key, entry in value.items()} if type(value) is dict else value


def _same(one: object, other: object) -> bool:
    return one is other or (isinstance(one, (bool, int, float, str, tuple)) and one == other)


def _sentence(error: ValidationError, options: type[Options]) -> str:
    known = list(options.model_fields)
    sentences: list[str] = []
    wanted: dict[str, str] = {}  # of a value that may be of several kinds, each kind complains
    for problem in error.errors():
        place = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            meant = _ELSEWHERE.get(place)
            hint = f" Here it is called {meant!r}." if meant in known else nearest(place, known)
            sentences.append(f"unknown option {place!r}.{hint} Known are {', '.join(known)}.")
        elif problem["type"] == "missing":
            sentences.append(f"option {place!r} is needed, and is not there.")
        elif problem["type"] == "value_error":  # one of ours, which says all there is to say
            sentences.append((f"option {place!r}: " if place else "") + str(problem.get("ctx", {}).get("error")))
        else:
            kinds = [*filter(None, [wanted.get(place, "").partition(" is needed")[0]]), plainly(problem["msg"])]
            wanted[place] = f"{' or '.join(dict.fromkeys(kinds))} is needed, not {problem.get('input')!r:.60}"
    sentences += [f"option {place!r}: {said}" for place, said in wanted.items()]
    return f"{options.called}: " + " ".join(sentences)


def _refuse_huge(given: Mapping[str, object], called: str) -> None:
    """Refuse integers that no count is, before anything says them digit by digit."""
    for key, value in given.items():
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, int) and abs(number) > _MOST:
                raise ConfigError(
                    f"{called}: option {key!r}: a number of {number.bit_length()} bits is beyond any network's"
                )


def _brief(given: object) -> str:
    strange = [key for key in given if not isinstance(key, str)] if isinstance(given, Mapping) else []
    return f"one with the key {strange[0]!r}" if strange else type(given).__name__
