"""Sums and products of sizes: what is put together equals what it is made of, and cancels where it can."""

from hypothesis import given
from hypothesis import strategies as st

from secateur.core.equations import OPERATORS, Attribute
from secateur.core.terms import put_together

A, B, C = (Attribute("", name) for name in "abc")


def _value(origin: object, values: dict[Attribute, int]) -> int:
    if isinstance(origin, tuple):
        symbol, left, right = origin
        return OPERATORS[symbol](_value(left, values), _value(right, values))
    return values[origin] if isinstance(origin, Attribute) else int(str(origin))


_EXPRESSIONS = st.recursive(
    st.sampled_from([A, B, C]) | st.integers(0, 4),
    lambda parts: st.tuples(st.sampled_from(["+", "-", "*", "//", "%"]), parts, parts),
    max_leaves=8,
)


def _simplified(origin: object) -> object:
    if not isinstance(origin, tuple):
        return origin
    return put_together(origin[0], _simplified(origin[1]), _simplified(origin[2]))


@given(_EXPRESSIONS, st.tuples(*[st.integers(1, 9)] * 3))
def test_it_is_equal_whatever_the_sizes(origin: object, sizes: tuple[int, int, int]) -> None:
    values = dict(zip((A, B, C), sizes, strict=True))
    try:
        expected = _value(origin, values)
    except ZeroDivisionError:
        return
    assert _value(_simplified(origin), values) == expected


def test_what_cancels_is_gone() -> None:
    later, earlier = ("*", 3, A), ("*", 2, A)
    assert put_together("-", later, earlier) == A
    assert put_together("-", ("+", A, B), A) == B
    assert put_together("*", 1, A) == put_together("*", A, 1) == A
    assert put_together("//", ("*", A, B), B) == A
    assert put_together("//", ("*", 6, A), 2) == ("*", 3, A)
    assert put_together("//", A, B) == ("//", A, B)
    assert put_together("+", A, A) == ("+", A, A)
    assert put_together("-", ("*", A, B), ("*", B, C)) == ("-", ("*", A, B), ("*", B, C))
