"""Options that are read once, checked, and frozen.

    class Magnitude(Options):
        criterion: str = "l1"

    Magnitude.read({"criterian": "l2"})  ->  ConfigError: config: unknown option 'criterian'. Did you mean 'criterion'? …

Invariant: what exists is valid; a key that nobody knows and a value of another type are errors that name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from secateur.errors import ConfigError, nearest


class Options(BaseModel):
    """Base of everything that is configured by a dict; ``called`` is what the dict is called where it is given."""

    called: ClassVar[str] = "config"

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)

    if not TYPE_CHECKING:  # a checker is to see the fields as parameters

        def __init__(self, **given: object) -> None:
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


def _sentence(error: ValidationError, options: type[Options]) -> str:
    known = list(options.model_fields)
    sentences = []
    for problem in error.errors():
        place = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            sentences.append(f"unknown option {place!r}.{nearest(place, known)} Known are {', '.join(known)}.")
        elif problem["type"] == "value_error":  # one of ours, which says all there is to say
            sentences.append((f"option {place!r}: " if place else "") + str(problem.get("ctx", {}).get("error")))
        else:
            sentences.append(f"option {place!r}: {problem['msg']}, not {str(problem.get('input'))[:60]!r}")
    return f"{options.called}: " + " ".join(sentences)


def _brief(given: object) -> str:
    strange = [key for key in given if not isinstance(key, str)] if isinstance(given, Mapping) else []
    return f"one with the key {strange[0]!r}" if strange else type(given).__name__
