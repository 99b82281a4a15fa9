"""Which dimensions are the same dimension.

    conv1.out ──┬── bn1 ── relu ── conv2.in
                └── (+) ────────── conv3.in     -> one leaf: removing unit 7 touches all five.

A Space is one dimension of one tensor: a leaf, a Product of spaces (what ``view`` makes) or a Sum of spaces (what ``cat``
makes). Every operator says which spaces are equal, `unify` solves these equations as a type checker solves types.

Invariant: a space's size never changes; only what it is made of becomes known. Frozen never becomes free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum


class Form(Enum):
    """What a space is known to be made of."""

    LEAF = "leaf"
    PRODUCT = "product"
    SUM = "sum"


class Space:
    """One dimension. Mutable on purpose: unification is destructive, `root` finds the surviving representative."""

    __slots__ = ("children", "form", "frozen", "inexact", "least", "multiple", "parent", "size", "taken")

    def __init__(self, size: int, frozen: str | None = None, inexact: str | None = None) -> None:
        self.size = int(size)
        self.frozen = frozen
        self.inexact = inexact
        self.multiple = 1
        self.least = 1  # fewer units would send the code another way
        self.taken = False  # a sum because somebody took a part of it, not because it was put together
        self.parent: Space | None = None
        self.form = Form.LEAF
        self.children: tuple[Space, ...] = ()

    def root(self) -> Space:
        """The representative of this space, with path compression."""
        top = self
        while top.parent is not None:
            top = top.parent
        node = self
        while node.parent is not None and node.parent is not top:
            node.parent, node = top, node.parent
        return top

    def __repr__(self) -> str:
        top = self.root()
        inner = "" if top.form is Form.LEAF else f" {top.form.value}{tuple(top.children)}"
        return f"<{top.size}{'!' if top.frozen else ''}{inner}>"


ONE = "size one"


def constant(size: int, reason: str) -> Space:
    """A frozen leaf: a dimension nobody may narrow, and why."""
    return Space(size, frozen=reason)


def leaves(space: Space) -> list[Space]:
    """The leaves a space is made of, outermost first; a leaf may occur more than once."""
    top = space.root()
    if top.form is Form.LEAF:
        return [top]
    return [leaf for child in top.children for leaf in leaves(child)]


def freeze(space: Space, reason: str) -> None:
    """Nobody may narrow this dimension from now on. The first reason given stays."""
    top = space.root()
    for child in top.children:
        freeze(child, reason)
    if top.frozen is None and top.form is Form.LEAF:
        top.frozen = reason


def mark_inexact(space: Space, reason: str) -> None:
    """Narrowing this dimension gives a different function by design (a statistic runs over it)."""
    top = space.root()
    for child in top.children:
        mark_inexact(child, reason)
    if top.inexact is None and top.form is Form.LEAF:
        top.inexact = reason


def align(space: Space, multiple: int) -> None:
    """This dimension may only have sizes that are multiples of a number: a kernel demands it."""
    top = space.root()
    if top.form is Form.LEAF:
        top.multiple = math.lcm(top.multiple, multiple)
    elif top.form is Form.SUM:
        for part in top.children:
            align(part, multiple)
    else:
        *outer, inner = factors(top)  # one factor answers for the multiple: the others may then take any size
        if is_frozen(inner) and outer:
            align(merge(outer), multiple // math.gcd(multiple, inner.size))
        else:
            align(inner, multiple)


def is_frozen(space: Space) -> bool:
    """Whether no leaf of this space may be narrowed."""
    top = space.root()
    return top.frozen is not None if top.form is Form.LEAF else all(is_frozen(c) for c in top.children)


def merge(spaces: Iterable[Space]) -> Space:
    """The row-major product of dimensions, as ``view`` and ``flatten`` lay them out."""
    factors = [s for s in (space.root() for space in spaces) if s.size != 1]
    if not factors:
        return constant(1, ONE)
    if len(factors) == 1:
        return factors[0]
    return _composite(Form.PRODUCT, math.prod(f.size for f in factors), factors)


def concat(spaces: Iterable[Space]) -> Space:
    """The concatenation of dimensions, as ``cat`` lays them out."""
    parts = [s for s in (space.root() for space in spaces) if s.size != 0]
    if not parts:
        return constant(0, "empty")
    if len(parts) == 1:
        return parts[0]
    return _composite(Form.SUM, sum(p.size for p in parts), parts)


def factors(space: Space) -> list[Space]:
    """The factors of a product, flattened; a space that is no product is its own only factor."""
    top = space.root()
    return [f for c in top.children for f in factors(c)] if top.form is Form.PRODUCT else [top]


def parts(space: Space) -> list[Space]:
    """The parts of a sum, flattened; a space that is no sum is its own only part."""
    top = space.root()
    return [p for c in top.children for p in parts(c)] if top.form is Form.SUM else [top]


def split(space: Space, sizes: Sequence[int]) -> list[Space] | None:
    """Refine a space as a product with these sizes; None if what is known of it does not allow that.

    >>> [s.size for s in split(Space(12), (3, 1, 4))]
    [3, 1, 4]
    """
    top = space.root()
    if math.prod(sizes) != top.size:
        raise ValueError(f"cannot split {top.size} into {tuple(sizes)}")
    if sum(n != 1 for n in sizes) <= 1:
        return [top if n != 1 else constant(1, ONE) for n in sizes]
    if top.form is Form.LEAF:
        return _split_leaf(top, sizes)
    return _split_product(top, sizes) if top.form is Form.PRODUCT else _split_sum(top, sizes)


def cut(space: Space, at: int) -> tuple[Space, Space]:
    """Refine a space as a sum of [0:at] and [at:]. Freezes it where the cut falls inside a product."""
    top = space.root()
    if not 0 < at < top.size:
        raise ValueError(f"cut at {at} of a dimension of {top.size}")
    if top.form is Form.LEAF:
        left = Space(at, top.frozen, top.inexact)
        right = Space(top.size - at, top.frozen, top.inexact)
        top.form, top.children, top.taken = Form.SUM, (left, right), True
        left.multiple = right.multiple = top.multiple
        return left, right
    if top.form is Form.SUM:
        return _cut_sum(top, at)
    outer, *inner = factors(top)
    stride = math.prod(f.size for f in inner)
    if at % stride == 0:
        left, right = cut(outer, at // stride)
        return merge([left, *inner]), merge([right, *inner])
    reason = "cut inside a product of dimensions"
    freeze(top, reason)
    return constant(at, reason), constant(top.size - at, reason)


def window(space: Space, start: int, stop: int) -> Space:
    """The part [start:stop] of a space."""
    top = space.root()
    if stop <= start:
        return constant(0, "empty")
    if start > 0:
        top = cut(top, start)[1].root()
    return cut(top, stop - start)[0] if stop - start < top.size else top


def unify(a: Space, b: Space, reason: str = "equal dimensions") -> Space:
    """Say that two dimensions are the same one; the surviving representative.

    Idempotent, commutative and associative up to kept indices. Where the two are known to be made of incompatible
    things, both are frozen with ``reason``. Raises ValueError if the sizes differ.
    """
    a, b = a.root(), b.root()
    if a is b:
        return a
    if a.size != b.size:
        raise ValueError(f"{reason}: a dimension of {a.size} cannot be one of {b.size}")
    if a.form is Form.LEAF:
        return _bind(a, b)
    if b.form is Form.LEAF:
        return _bind(b, a)
    if a.form is b.form:
        agreed = _unify_products(a, b, reason) if a.form is Form.PRODUCT else _unify_sums(a, b, reason)
    else:
        product, total = (a, b) if a.form is Form.PRODUCT else (b, a)
        agreed = _unify_product_with_sum(product, total, reason)
    if not agreed:
        freeze(a, f"incompatible views ({reason})")
        freeze(b, f"incompatible views ({reason})")
    return _link(a, b)  # even where they disagreed: both are frozen, and what is said of one now holds for the other


def _composite(form: Form, size: int, children: Sequence[Space]) -> Space:
    whole = Space(size)
    whole.form, whole.children = form, tuple(children)
    return whole


def _occurs(needle: Space, space: Space) -> bool:
    top = space.root()
    return top is needle or any(_occurs(needle, child) for child in top.children)


def _bind(leaf: Space, target: Space) -> Space:
    if _occurs(leaf, target):
        freeze(target, "a dimension that contains itself")  # x = 2 · x: no count but the present one solves it
        return target
    if leaf.frozen:
        freeze(target, leaf.frozen)
    if leaf.inexact:
        mark_inexact(target, leaf.inexact)
    if leaf.multiple > 1:
        align(target, leaf.multiple)
    target.least = max(target.least, leaf.least)
    leaf.parent = target
    return target


def _link(a: Space, b: Space) -> Space:
    a, b = a.root(), b.root()
    if a is not b and not _occurs(a, b) and not _occurs(b, a):
        a.parent, b.taken = b, a.taken or b.taken
    return b.root()


def _split_leaf(top: Space, sizes: Sequence[int]) -> list[Space]:
    pieces = [Space(n, top.frozen, top.inexact) if n != 1 else constant(1, ONE) for n in sizes]
    top.form, top.children = Form.PRODUCT, tuple(p for p in pieces if p.size != 1)  # views may differ in sizes of one
    if top.multiple > 1:
        align(top, top.multiple)
    return pieces


def _split_product(top: Space, sizes: Sequence[int]) -> list[Space] | None:
    queue = factors(top)
    pieces: list[Space] = []
    for size in sizes:
        taken: list[Space] = []
        need = size
        while need > 1:
            head = queue.pop(0).root()
            if need % head.size == 0:
                taken.append(head)
                need //= head.size
            elif head.size % need == 0:
                halves = split(head, (need, head.size // need))
                if halves is None:
                    return None
                taken.append(halves[0])
                queue.insert(0, halves[1])
                need = 1
            else:
                return None
        pieces.append(merge(taken) if taken else constant(1, ONE))
    return pieces


def _split_sum(top: Space, sizes: Sequence[int]) -> list[Space] | None:
    ones_ahead = next(i for i, n in enumerate(sizes) if n != 1)
    if ones_ahead:
        rest = _split_sum(top, sizes[ones_ahead:])
        return rest if rest is None else [constant(1, ONE) for _ in range(ones_ahead)] + rest
    outer, inner = sizes[0], list(sizes[1:])
    stacked = _stack(parts(top), outer)
    if stacked is not None:
        rest = split(stacked, inner)
        return None if rest is None else [constant(outer, "stacked parts"), *rest]  # q, k, v: no part goes alone
    return _split_inner(parts(top), inner)


def _stack(pieces: list[Space], count: int) -> Space | None:
    """``count`` groups of whole parts of equal size, unified into one; None if the parts do not fall so."""
    need = sum(p.size for p in pieces) // count
    groups: list[list[Space]] = [[]]
    filled = 0
    for piece in pieces:
        groups[-1].append(piece)
        filled += piece.size
        if filled > need:
            return None
        if filled == need:
            groups.append([])
            filled = 0
    first, *rest = [concat(g) for g in groups if g]
    for other in rest:
        first = unify(first, other, "stacked parts")
    return first


def _split_inner(pieces: list[Space], inner: Sequence[int]) -> list[Space] | None:
    """Every part is a multiple of the inner sizes: the sum runs over the outer factor, the inner one is shared."""
    stride = math.prod(inner)
    if any(p.size % stride for p in pieces):
        return None
    heads: list[Space] = []
    shared: Space | None = None
    for piece in pieces:
        halves = split(piece, (piece.size // stride, stride))
        if halves is None:
            return None
        heads.append(halves[0])
        shared = halves[1] if shared is None else unify(shared, halves[1], "same inner dimension")
    rest = split(shared, inner) if shared is not None else None
    return None if rest is None else [_concat_ones(heads), *rest]


def _concat_ones(heads: Sequence[Space]) -> Space:
    """A concatenation that may hold parts of size one: these stay, as frozen parts."""
    return concat([h if h.size != 1 else constant(1, "a single part") for h in heads])


def _cut_sum(top: Space, at: int) -> tuple[Space, Space]:
    left, right, start = list[Space](), list[Space](), 0
    for part in parts(top):
        if start + part.size <= at:
            left.append(part)
        elif start >= at:
            right.append(part)
        else:
            inside = cut(part, at - start)
            left.append(inside[0])
            right.append(inside[1])
        start += part.size
    return concat(left), concat(right)


def _unify_products(a: Space, b: Space, reason: str) -> bool:
    left, right = factors(a), factors(b)
    while left and right:
        x, y = left.pop(0).root(), right.pop(0).root()
        if x.form is Form.PRODUCT or y.form is Form.PRODUCT:
            left[:0], right[:0] = factors(x), factors(y)
        elif x.size == y.size:
            unify(x, y, reason)
        elif x.size % y.size == 0 or y.size % x.size == 0:
            big, small, rest = (x, y, left) if x.size > y.size else (y, x, right)
            halves = split(big, (small.size, big.size // small.size))
            if halves is None:
                return False
            unify(halves[0], small, reason)
            rest.insert(0, halves[1])
        else:
            return False
    return not left and not right


def _unify_sums(a: Space, b: Space, reason: str) -> bool:
    left, right = parts(a), parts(b)
    while left and right:
        x, y = left.pop(0).root(), right.pop(0).root()
        if x.form is Form.SUM or y.form is Form.SUM:
            left[:0], right[:0] = parts(x), parts(y)
        elif x.size == y.size:
            unify(x, y, reason)
        else:
            big, small, rest = (x, y, left) if x.size > y.size else (y, x, right)
            head, tail = cut(big, small.size)
            unify(head, small, reason)
            rest.insert(0, tail)
    return True


def _unify_product_with_sum(product: Space, total: Space, reason: str) -> bool:
    known = factors(product)
    pieces = split(total, [f.size for f in known])
    if pieces is None:
        return False
    for piece, factor in zip(pieces, known, strict=True):
        unify(piece, factor, reason)
    return True
