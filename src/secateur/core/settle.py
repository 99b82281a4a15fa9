"""From what the code's integers are equal to, to equations a plan can solve.

    self.num_heads = size of H        two spaces with one attribute are one space
    C = size of H·D                   (x.reshape(B, N, C)): C is the product of H and D

An equation that does not hold for arbitrary widths first unifies what it relates; what still does not hold is frozen.

Invariant: after `settle`, every equation holds whatever the free leaves keep.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from secateur.core.equations import OPERATORS, Attribute, Difference, Equation, Expression, Operation
from secateur.core.layout import Along, Axis, Product, Sum, Whole
from secateur.core.learning import as_space, attributes_in, dividends, learn, namesakes
from secateur.core.sized import COMPARISONS, Origin, spaces_in
from secateur.core.space import Form, Space, align, factors, freeze, leaves, mark_inexact, merge, unify

AxisOf = Callable[[Space], Axis]
RawEquation = tuple[Origin, Space, str]  # expression, the dimension it is the size of, where the code said so


@dataclass(slots=True)
class SizeFacts:
    """What one run of the code said about its integers.

    ``attributes`` are the values that modules hold; ``equations`` say which expression is the size of which dimension,
    ``differences`` which sizes a branch of the code tells apart, ``float_uses`` which sizes became ordinary numbers.
    """

    attributes: dict[Attribute, int] = field(default_factory=dict)
    equations: list[RawEquation] = field(default_factory=list)
    differences: list[tuple[Origin, Origin, str]] = field(default_factory=list)
    float_uses: list[tuple[Origin, str]] = field(default_factory=list)
    branches: dict[tuple[Origin, str, Origin], tuple[bool, str]] = field(default_factory=dict)
    losses: list[tuple[Origin, str]] = field(default_factory=list)

    def mentioned(self) -> set[Attribute]:
        """The attributes that the code was heard to use, in expressions too."""
        origins = [o for o, *_ in (*self.equations, *self.float_uses, *self.losses)]
        origins += [o for a, b, _ in self.differences for o in (a, b)]
        origins += [o for a, _, b in self.branches for o in (a, b)]
        return {found for origin in origins for found in attributes_in(origin)}

    def equal(self, a: Origin, b: Origin, where: str) -> None:
        """To go on as it does, the code needs these to stay equal; of numbers, a branch says so."""
        said, space = (a, b) if isinstance(b, Space) else (b, a)
        if isinstance(space, Space) and not isinstance(said, (int, float)):
            self.equations.append((said, space, f"a comparison in {where or 'the model'}"))

    def join(self, other: SizeFacts) -> None:
        """What another run of the same code said holds too."""
        self.attributes.update(other.attributes)
        self.equations.extend(other.equations)
        self.differences.extend(other.differences)
        self.float_uses.extend(other.float_uses)
        self.branches.update(other.branches)
        self.losses.extend(other.losses)


def settle(facts: SizeFacts) -> None:
    """Make all size equations of a run hold for arbitrary widths, by unifying or freezing."""
    meaning = _attribute_spaces(facts)
    _unify_repeated(facts)
    for origin, space, where in facts.equations:
        if isinstance(origin, Space) and origin.root().size == space.root().size and not _always_equal(origin, space):
            unify(origin, space, where)
    # what is learnt or unified changes what other equations say, so: again, until all hold or nothing helps
    for attempt in range(6):
        wrong = _failing(facts, meaning)
        if not wrong:
            break
        learnt = [learn(origin, space, meaning) for origin, space, _ in wrong]
        if any(learnt):
            continue
        said = list(namesakes([origin for origin, _, _ in wrong], meaning, facts.attributes))
        if said := said or list(dividends([(origin, space) for origin, space, _ in wrong], meaning, facts.attributes)):
            facts.equations.extend(said)
            meaning.update({attribute: space for attribute, space, _ in said})
            continue
        for origin, space, where in wrong:
            if (
                attempt < 4
            ):  # joining two dimensions may break a third equation; in the end only freezing is sure to end
                _relate(origin, space, where, meaning, facts.attributes)
            else:
                _freeze_equation(origin, space, where, meaning)
    for origin, space, where in _failing(facts, meaning):
        _freeze_equation(origin, space, where, meaning)
    _mark_float_uses(facts, meaning)
    for origin, reason in facts.losses:
        for space in _spaces_of(origin, meaning):
            freeze(space, reason)
    for (left, symbol, right), (outcome, where) in facts.branches.items():
        reason = f"the code takes a branch by its size in {where or 'the model'}"
        if not _comes_out_alike((left, symbol, right), outcome, facts, meaning, reason):
            for space in [*_spaces_of(left, meaning), *_spaces_of(right, meaning)]:
                freeze(space, reason)


def counted(facts: SizeFacts) -> set[int]:
    """Identities of the leaves whose size the code is known to use as a number."""
    return {id(leaf) for space in used_as_numbers(facts) for leaf in leaves(space)}


def used_as_numbers(facts: SizeFacts) -> Iterator[Space]:
    """The spaces whose size the code is known to use as a number."""
    meaning = _attribute_spaces(facts)
    return (space for origin, _ in facts.float_uses for space in _spaces_of(origin, meaning))


def _comes_out_alike(
    comparison: tuple[Origin, str, Origin],
    outcome: bool,
    facts: SizeFacts,
    meaning: Mapping[Attribute, Space],
    reason: str,
) -> bool:
    """Whether a comparison comes out the same at other counts of the leaves it depends on; where it does from some count on,
    or at multiples of one, the leaf is held to these."""
    left, symbol, right = comparison
    sides = [s for origin in (left, right) if not isinstance(origin, float) for s in _spaces_of(origin, meaning)]
    free = {id(leaf): leaf for space in sides for leaf in leaves(space) if not leaf.frozen and leaf.size > 1}

    def at(sizes: dict[int, int]) -> bool:
        values = [
            float(o) if isinstance(o, float) else _number(o, meaning, facts.attributes, sizes, random.Random(0))
            for o in (left, right)
        ]
        return bool(COMPARISONS[symbol](values[0], values[1])) == outcome

    if not free:
        return True
    if len(free) == 1:
        ((key, leaf),) = free.items()
        return _hold(leaf, [count for count in range(1, leaf.size + 1) if at({key: count})])
    generator = random.Random(0)
    whole = {key: leaf.size for key, leaf in free.items()}
    draws = [{key: generator.randint(1, leaf.size) for key, leaf in free.items()} for _ in range(64)]
    return all(at(sizes) for sizes in [*draws, dict.fromkeys(free, 1), whole]) or _held_alike(at, free, reason)


def _held_alike(at: Callable[[dict[int, int]], bool], free: Mapping[int, Space], reason: str) -> bool:
    """Hold each leaf to the counts at which a comparison comes out the same with all others whole, if that is enough."""
    whole = {key: leaf.size for key, leaf in free.items()}
    allowed = {key: [n for n in range(1, leaf.size + 1) if at({**whole, key: n})] for key, leaf in free.items()}
    if not all(allowed.values()):
        return False
    generator = random.Random(0)
    draws = [{key: generator.choice(counts) for key, counts in allowed.items()} for _ in range(64)]
    draws += [{key: counts[0] for key, counts in allowed.items()}]
    if not all(map(at, draws)):
        *around, innermost = free.items()  # any one alone may: units inside others are the finer choice
        for _, leaf in around:
            freeze(leaf, reason)
        return _hold(innermost[1], allowed[innermost[0]])
    for key, leaf in free.items():
        if len(allowed[key]) < leaf.size and not _hold(leaf, allowed[key]):
            freeze(leaf, reason)
    return True


def _hold(leaf: Space, allowed: list[int]) -> bool:
    """Hold a leaf to these counts if they are all from some number on, or all multiples of one; whether it could be done."""
    if not allowed:
        return False
    if allowed == [leaf.size]:
        return False
    if allowed == list(range(allowed[0], leaf.size + 1)):
        leaf.least = max(leaf.least, allowed[0])
        return True
    step = allowed[0]
    if allowed == list(range(step, leaf.size + 1, step)):
        align(leaf, step)
        return True
    return False


def _always_equal(a: Space, b: Space) -> bool:
    """Whether two dimensions have one size whatever their leaves keep: H·D and D·H do, and stay two dimensions."""
    sizes, generator = {}, random.Random(0)
    return size_now(a, sizes, generator) == size_now(b, sizes, generator)


def _unify_repeated(facts: SizeFacts) -> None:
    """The same expression for two dimensions makes them one: ``x.split(self.dim // 2)`` has equal halves."""
    first: dict[Origin, Space] = {}
    for origin, space, where in facts.equations:
        if isinstance(origin, tuple):
            earlier = first.setdefault(origin, space)
            if earlier is not space and earlier.root().size == space.root().size:
                unify(earlier, space, where)


def _attribute_spaces(facts: SizeFacts) -> dict[Attribute, Space]:
    meaning: dict[Attribute, Space] = {}
    for origin, space, where in facts.equations:
        if not isinstance(origin, Attribute) or facts.attributes.get(origin) != space.root().size:
            continue
        meaning[origin] = unify(meaning[origin], space, where) if origin in meaning else space
    return meaning


def _mark_float_uses(facts: SizeFacts, meaning: Mapping[Attribute, Space]) -> None:
    for origin, where in facts.float_uses:
        for space in _spaces_of(origin, meaning):
            mark_inexact(space, f"its size is used as a number in {where or 'the model'}")


def _spaces_of(origin: Origin, meaning: Mapping[Attribute, Space]) -> list[Space]:
    if isinstance(origin, Space):
        return [origin]
    if isinstance(origin, Attribute):
        return [meaning[origin]] if origin in meaning else []
    if isinstance(origin, tuple):
        return _spaces_of(origin[1], meaning) + _spaces_of(origin[2], meaning)
    return []


def _failing(facts: SizeFacts, meaning: Mapping[Attribute, Space]) -> list[RawEquation]:
    """The equations that do not hold for some random widths."""
    wrong: list[RawEquation] = []
    for seed in range(2):  # one draw may fulfil by chance what does not hold
        generator = random.Random(seed)
        sizes: dict[int, int] = {}
        for equation in facts.equations:
            origin, space, _ = equation
            if isinstance(origin, Attribute) and origin in meaning:
                continue
            value = _number(origin, meaning, facts.attributes, sizes, generator)
            if value != size_now(space, sizes, generator) and equation not in wrong:
                wrong.append(equation)
    return wrong


def size_now(space: Space, sizes: dict[int, int], generator: random.Random) -> int:
    """The size of a space when every free leaf has the size in ``sizes``; one that is not there is drawn, from any number
    at all, so that no two agree by chance."""
    top = space.root()
    if top.form is Form.LEAF:
        if top.frozen or top.size < 2:
            return top.size
        return sizes.setdefault(id(top), generator.randint(2, 9973))
    numbers = [size_now(child, sizes, generator) for child in top.children]
    if top.form is Form.SUM:
        return sum(numbers)
    product = 1
    for number in numbers:
        product *= number
    return product


def _number(
    origin: Origin,
    meaning: Mapping[Attribute, Space],
    old: Mapping[Attribute, int],
    sizes: dict[int, int],
    generator: random.Random,
) -> int:
    if isinstance(origin, Space):
        return size_now(origin, sizes, generator)
    if isinstance(origin, Attribute):
        return size_now(meaning[origin], sizes, generator) if origin in meaning else old[origin]
    if isinstance(origin, tuple):
        left = _number(origin[1], meaning, old, sizes, generator)
        right = _number(origin[2], meaning, old, sizes, generator)
        return OPERATORS[origin[0]](left, right) if right or origin[0] not in ("//", "%") else -1
    return int(origin)


def _relate(
    origin: Origin, space: Space, where: str, meaning: dict[Attribute, Space], old: Mapping[Attribute, int]
) -> None:
    """Unify what an equation says is equal; freeze where that cannot be said in spaces."""
    if isinstance(origin, tuple) and origin[0] == "//":
        whole, divisor = as_space(origin[1], meaning, old), as_space(origin[2], meaning, old)
        # a division that came out even is meant to: the whole is the product, or a remainder would be lost when narrowed
        if whole is not None and divisor is not None and whole.size == divisor.size * space.root().size:
            outer_first = factors(whole)[0] is space.root() and factors(whole)[-1] is not space.root()
            unify(whole, merge([space, divisor] if outer_first else [divisor, space]), where)
            return
    said = as_space(origin, meaning, old)
    if said is None or said.root().size != space.root().size:
        _freeze_equation(origin, space, where, meaning)
        return
    unify(said, space, where)


def _freeze_equation(origin: Origin, space: Space, where: str, meaning: Mapping[Attribute, Space]) -> None:
    reason = f"sizes in the code contradict each other ({where})"
    for involved in [space, *_spaces_of(origin, meaning)]:
        freeze(involved, reason)


def equations_for(facts: SizeFacts, axis_of: AxisOf) -> tuple[Equation, ...]:
    """The equations of a run over resolved axes, without those nothing can change and without repetitions."""
    found: dict[tuple[Expression, Axis], Equation] = {}
    meaning = _attribute_spaces(facts)
    for origin, space, where in facts.equations:
        related = [space, *spaces_in(origin), *_spaces_of(origin, meaning)]
        free = any(not leaf.frozen for s in related for leaf in leaves(s))
        expression, axis = _expression(origin, axis_of), axis_of(space)
        if (free or isinstance(origin, Attribute)) and not isinstance(origin, Space):
            found.setdefault((expression, axis), Equation(expression, axis, where))
    return tuple(e for e in found.values() if _has_attribute(e.expression))


def differences_for(facts: SizeFacts, axis_of: AxisOf) -> tuple[Difference, ...]:
    """The comparisons of the code that must go on to come out unequal, over resolved axes."""
    found: dict[tuple[Expression, Expression], Difference] = {}
    for a, b, where in facts.differences:
        left, right = _expression(a, axis_of), _expression(b, axis_of)
        if not (isinstance(left, Whole) and isinstance(right, Whole)):
            found.setdefault((left, right), Difference(left, right, where))
    return tuple(found.values())


def _has_attribute(expression: Expression) -> bool:
    if isinstance(expression, Operation):
        return _has_attribute(expression.left) or _has_attribute(expression.right)
    return isinstance(expression, Attribute)


def _expression(origin: Origin, axis_of: AxisOf) -> Expression:
    if isinstance(origin, Space):
        return axis_of(origin)
    if isinstance(origin, tuple):
        return Operation(origin[0], _expression(origin[1], axis_of), _expression(origin[2], axis_of))
    return origin if isinstance(origin, Attribute) else int(origin)


def axis_of(space: Space, names: Mapping[int, str], memo: dict[int, Axis]) -> Axis:
    """A space as an axis over named widths; what has no name or is frozen is whole."""
    top = space.root()
    known = memo.get(id(top))
    if known is not None:
        return known
    if top.form is Form.LEAF:
        name = names.get(id(top))
        made: Axis = Whole(top.size) if top.frozen or name is None else Along(name, top.size)
    else:
        made = _composite(top, [axis_of(child, names, memo) for child in top.children])
    memo[id(top)] = made
    return made


def _composite(top: Space, children: list[Axis]) -> Axis:
    if all(isinstance(c, Whole) for c in children):
        return Whole(top.size)
    flat: list[Axis] = []
    for child in children:
        if top.form is Form.PRODUCT and isinstance(child, Product):
            flat.extend(child.factors)
        elif top.form is Form.SUM and isinstance(child, Sum):
            flat.extend(child.parts)
        else:
            flat.append(child)
    return Product(tuple(flat)) if top.form is Form.PRODUCT else Sum(tuple(flat))
