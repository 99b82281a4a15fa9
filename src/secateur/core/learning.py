"""What the integers that modules hold are sizes of, where the code uses them in expressions only.

    (heads // groups) * width = size of Q·D,  groups and width known      ──►  heads // groups = Q, so heads = G·Q
    attention.core.heads // attention.core.groups = Q                     ──►  as attention.heads and attention.groups are

Invariant: what is learnt is learnt for good: no attribute that is known becomes something else here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from secateur.core.equations import Attribute
from secateur.core.sized import Origin
from secateur.core.space import ONE, Form, Space, concat, constant, merge, split
from secateur.core.space import factors as factors_of


def learn(origin: Origin, space: Space, meaning: dict[Attribute, Space]) -> bool:
    """An attribute met only inside expressions becomes known from one of them, by inverting it."""
    if isinstance(origin, Attribute):
        if origin in meaning:
            return False
        meaning[origin] = space
        return True
    if not isinstance(origin, tuple):
        return False
    symbol, left, right = origin
    for known, unknown, on_right in ((left, right, True), (right, left, False)):
        said = as_space(known, meaning)
        if said is None or not _has_unknown(unknown, meaning):
            continue
        other = _other_operand(symbol, space, said, on_right=on_right)
        if other is not None and learn(unknown, other, meaning):
            return True
    return False


def dividends(
    sizes: Iterable[tuple[Origin, Space]], meaning: Mapping[Attribute, Space], values: Mapping[Attribute, int]
) -> Iterator[tuple[Attribute, Space, str]]:
    """What the code divides, and nothing says what it is: ``d // h`` is a size, so d is as many of them as h says now."""
    told = set[Attribute]()
    for origin, space in sizes:
        whole, parts = origin[1:] if isinstance(origin, tuple) and origin[0] == "//" else (None, None)
        count = values.get(parts) if isinstance(parts, Attribute) and parts not in meaning else parts
        if not isinstance(whole, Attribute) or whole in meaning or whole in told or not isinstance(count, int):
            continue
        if count * space.root().size == values.get(whole):
            told.add(whole)
            yield whole, merge([constant(count, f"the code divides {whole} by it"), space]), f"{whole} // {count}"


def namesakes(
    origins: Iterable[Origin], meaning: Mapping[Attribute, Space], values: Mapping[Attribute, int]
) -> Iterator[tuple[Attribute, Space, str]]:
    """What nothing says is taken for the same as its namesake in a module around it, if their values agree.

    A core of attention keeps its own ``num_heads`` beside that of the attention it is the core of.
    """
    for attribute in dict.fromkeys(a for origin in origins for a in attributes_in(origin) if a not in meaning):
        same = (a for a in _around(attribute) if a in meaning and values.get(a) == values.get(attribute))
        if (other := next(same, None)) is not None:
            yield attribute, meaning[other], f"{attribute.path}, as in {other.module}"


def _around(attribute: Attribute) -> Iterator[Attribute]:
    """The same path in the modules that contain an attribute's."""
    module = attribute.module
    while module:
        module = module.rpartition(".")[0]
        yield Attribute(module, attribute.path)


def attributes_in(origin: Origin) -> list[Attribute]:
    """The attributes that an expression is made of."""
    if isinstance(origin, tuple):
        return [*attributes_in(origin[1]), *attributes_in(origin[2])]
    return [origin] if isinstance(origin, Attribute) else []


def as_space(
    origin: Origin, meaning: Mapping[Attribute, Space], old: Mapping[Attribute, int] | None = None
) -> Space | None:
    """An expression as a space. With ``old``, an attribute of which nothing else is known is the constant it is now."""
    if isinstance(origin, Space):
        return origin.root()
    if isinstance(origin, Attribute):
        if origin in meaning:
            return meaning[origin].root()
        return constant(old[origin], f"the code relates it to {origin}") if old is not None else None
    if isinstance(origin, int):
        return constant(origin, "a number in the code") if origin > 0 else None
    left, right = as_space(origin[1], meaning, old), as_space(origin[2], meaning, old)
    if left is None or right is None:
        return None
    if origin[0] == "*":
        return merge([left, right])
    return concat([left, right]) if origin[0] == "+" else None


def _has_unknown(origin: Origin, meaning: Mapping[Attribute, Space]) -> bool:
    if isinstance(origin, tuple):
        return _has_unknown(origin[1], meaning) or _has_unknown(origin[2], meaning)
    return isinstance(origin, Attribute) and origin not in meaning


def _other_operand(symbol: str, space: Space, known: Space, *, on_right: bool) -> Space | None:
    """What the other operand must be for the operation to give this space; ``on_right``: the other one is the right one."""
    if symbol == "*":
        return _divide(space, known)
    if symbol == "//" and not on_right:
        return merge([known, space])
    if symbol == "-" and not on_right:
        return concat([known, space])
    return None


def _divide(space: Space, first: Space) -> Space | None:
    """The other factor of a product, where the first one leads or ends it."""
    top = space.root()
    if first.root().size == 0 or top.size % first.root().size:
        return None
    if top.size == first.root().size:
        return constant(1, ONE)
    pieces = factors_of(top)
    if len(pieces) > 1 and pieces[-1].root().size == first.root().size:
        return merge(pieces[:-1])
    if len(pieces) > 1 and pieces[0].root().size == first.root().size:
        return merge(pieces[1:])
    if top.form is Form.LEAF:
        return None
    halves = split(top, (first.root().size, top.size // first.root().size))
    return halves[1] if halves is not None else None
