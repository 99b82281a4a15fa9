"""`core.messages`: which texts are messages."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest

from secateur.core.messages import is_message


class Tells:
    """A number that knows, whenever text is made of it, whether that is a message."""

    def __init__(self) -> None:
        self.heard: list[bool] = []

    def __format__(self, how: str) -> str:
        self.heard.append(is_message(sys._getframe(1)))
        return "8"

    __str__ = __repr__ = lambda self: format(self)


def torch_compilable_check(holds: bool, text: str) -> None:
    assert holds, text


class Logger:
    def warning_once(self, text: str) -> None:
        pass


def checked(n: Any) -> None:
    torch_compilable_check(len([1]) == 1, f"tokens: {n}, rows: {len('ab')} {n}")


def logged(n: Any) -> None:
    Logger().warning_once(
        "of so many: "  # over several lines
        f"{n}"
    )


def warned(n: Any) -> None:
    warnings.warn("so many: {}".format(n), stacklevel=1)  # noqa: UP032


def raised(n: Any) -> None:
    try:
        raise ValueError(f"{n} channels")
    except ValueError:
        pass


def looked_up(n: Any) -> object:
    return getattr(n, f"layer{n}", None)


def kept(n: Any) -> None:
    setattr(n, f"layer{n}", 1)


def bound(n: Any) -> str:
    text = f"layer{n}"
    return text


def given_on(n: Any) -> object:
    found = torch_compilable_check(True, f"{n}")
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, True) for code in (checked, logged, warned, raised)),
        *((code, False) for code in (looked_up, kept, bound, given_on)),
    ],
)
def test_a_text_is_a_message_where_it_is_given_to_what_tells_and_gives_nothing(code: Any, expected: bool) -> None:
    n = Tells()
    code(n)
    assert n.heard
    assert set(n.heard) == {expected}
