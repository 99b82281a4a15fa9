"""Numbers and names as people read them.

    4589027328 -> "4.59G"    a 29-digit count -> "2.48e+28"    16 choices -> "[32, 64, 96, 128, ..., 480, 512]"

Names come from models, and models come from anywhere: what is printed is shown through `visible` first.

Invariant: `visible` never returns a character that moves the cursor, rings, colours or reorders a terminal's text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal

_UNITS = ("", "K", "M", "G", "T", "P", "E")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # control, format, surrogate, unassigned, separators
_CLASS = re.compile(r" or instance of \w+$")
_NUMBER = re.compile(r"[0-9]{1,18}")


def visible(text: object) -> str:
    r"""The text with every control and formatting character spelt out.

    >>> print(visible("layer\x1b[31m.0"))
    layer\x1b[31m.0
    """
    return "".join(_spell(c) if unicodedata.category(c) in _HIDDEN else c for c in str(text))


_PLAINLY = {
    "a valid integer": "a whole number",
    "a valid boolean": "True or False",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid list": "a list",
    "a valid dictionary or object to extract fields from": "a dict",
    "a valid dictionary": "a dict",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "a number above",
    "less than": "a number below",
    "a valid tuple": "a list",
}
_LENGTH = re.compile(r"^\w+ should have (at least|at most) ([0-9]+) (character|item)s?\b.*$")


def plainly(complaint: str) -> str:
    """What a validator wants, in words that end in "is needed".

    >>> plainly("Input should be greater than or equal to 1")
    'at least 1'
    """
    complaint = complaint.partition(", unable to parse")[0]
    if length := _LENGTH.match(complaint):
        what = {"item": ("entry", "entries"), "character": ("character", "characters")}[length[3]]
        return f"{length[1]} {f'one {what[0]}' if length[2] == '1' else f'{length[2]} {what[1]}'}"
    for theirs, ours in _PLAINLY.items():
        complaint = complaint.replace(f"Input should be {theirs}", ours)
    return _CLASS.sub("", complaint.removeprefix("Input should be "))


def _spell(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def human(number: float) -> str:
    """A count with a decimal unit: 4.59G, 274.34M, 25.50M, 512.

    >>> human(999_999), human(999_999_999), human(12)
    ('1.00M', '1.00G', '12')
    """
    if abs(number) < 1000:
        return f"{number:.2f}".rstrip("0").rstrip(".")
    value = float(number)
    for unit in _UNITS:
        if abs(round(value, 2)) < 1000 or unit == _UNITS[-1]:
            return f"{value:.2f}{unit}"
        value /= 1000
    raise AssertionError("unreachable: the last unit takes everything")


def scientific(count: int) -> str:
    """An integer of any length with three significant digits.

    >>> scientific(64**30), scientific(1)
    ('1.53e+54', '1.00e+00')
    """
    mantissa, _, exponent = f"{Decimal(count):.2e}".partition("e")
    return f"{mantissa}e{exponent[0]}{exponent[1:].zfill(2)}"


def choices_text(choices: Sequence[int]) -> str:
    """All choices up to ten, else the first four and the last four."""
    if len(choices) <= 10:
        return f"[{', '.join(map(str, choices))}]"
    return f"[{', '.join(map(str, choices[:4]))}, ..., {', '.join(map(str, choices[-4:]))}]"


def few(names: Iterable[str], limit: int = 3) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (f", … {more} more" if more > 0 else "")


def pattern_of(name: str) -> str:
    """A name with its numbers taken out: names with one pattern are siblings."""
    return _NUMBER.sub("#", name)


def family_name(names: Sequence[str]) -> str:
    """One name for siblings.

    >>> family_name(["layer.0.ffn", "layer.1.ffn", "layer.2.ffn"])
    'layer.{0..2}.ffn'
    """
    columns = zip(*(_NUMBER.findall(name) for name in names), strict=True)
    numbers = iter([_span(sorted({int(text) for text in column})) for column in columns])
    return _NUMBER.sub(lambda _: next(numbers), names[0])


def _span(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    shown = [str(n) for n in numbers] if len(numbers) <= 6 else [*map(str, numbers[:3]), "…", str(numbers[-1])]
    return f"{{{','.join(shown)}}}"
