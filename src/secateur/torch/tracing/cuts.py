"""Widths of which the code takes a part: is it as much as the example is long?

    scores(x)[..., :T] @ v(x)     T, of the input  ─►  scores.out_features[0] is T      [1] is read by nobody
    h[..., :self.half] * 2        a width          ─►  two widths, as free as others

What is left over by a cut that follows the input is right on the example and wrong on the next one: positions, not units.

Invariant: a width stays free beside a cut only where everything that has it is read whole, and no part is a size of the input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from secateur.core.settle import used_as_numbers
from secateur.core.sized import spaces_in
from secateur.core.space import Space, factors, freeze, leaves, parts
from secateur.torch.rules.protocol import OF_THE_INPUT
from secateur.torch.tracing.observe import Observation, Run

LEFT_OVER = "the code takes a part of what has it, and nothing reads the rest: another example may take more"
CALCULATED = "its size is a plain number in the code, calculated from the whole it is cut from or written there"
CUT_BY_INPUT = "the code takes as much of it as the input is large: another example may take more"


def freeze_cut_off(seen: Observation) -> None:
    """Freeze what a cut leaves over, and what it divides where one part is a size of the input."""
    for run in seen.runs:
        if run.whole:
            for leaf in _left_over(run):
                freeze(leaf, LEFT_OVER)
    varying = _sizes_of_input(seen, steady=_put_together) | _told_by_input(seen)
    for layout in seen.spaces.values():
        for taken in (part for space in layout for part in _taken(space)):
            if not varying.isdisjoint(map(id, leaves(taken))):
                freeze(taken, CUT_BY_INPUT)


def freeze_calculated(seen: Observation) -> None:
    """Freeze the parts whose size the code has as a plain number, where the size of the whole became a number: what it is
    calculated from that, ``round(0.4 * h.shape[1])``, is for few counts the count of the part."""
    for part, _ in _calculated(seen):
        freeze(part, CALCULATED)


def beside_calculated(seen: Observation) -> set[int]:
    """Identities of the leaves beside such a part: where it is calculated, it is another at few of their units."""
    return {id(leaf) for part, whole in _calculated(seen) for leaf in leaves(whole) if leaf not in leaves(part)}


def _calculated(seen: Observation) -> Iterator[tuple[Space, Space]]:
    wholes = [whole for space in used_as_numbers(seen.tracer.facts) for whole in factors(space)]
    for run in seen.runs:
        for _, _, part in run.tracer.constants:
            yield from ((part, whole) for whole in wholes if _ids(part) < _ids(whole))


def _ids(total: Space) -> set[int]:
    return {id(part) for part in parts(total)}


def _left_over(run: Run) -> Iterator[Space]:
    """Leaves that a result has and that nothing reads of it, though it reads others. A leaf that two of its dimensions have
    (of an identity matrix) must be read in both, if others are.
    """
    read: dict[int, Counter[Space]] = {}
    for number, layout in zip(run.tracer.returned, run.outputs, strict=True):
        read[number] = read.get(number, Counter[Space]()) | _leaves_of(layout)
    for record in reversed(run.tracer.records):
        if record.view:
            continue
        for number, layout in zip(record.writes, record.outputs, strict=True):
            if number in read and number not in run.tracer.kept:
                had = _leaves_of(layout)
                whole = {times for leaf, times in had.items() if read[number][leaf] >= times}
                yield from (leaf for leaf in had - read[number] if had[leaf] in whole or not read[number][leaf])
        for number, layout in zip(record.reads, record.had, strict=True):
            read[number] = read.get(number, Counter[Space]()) | _leaves_of(layout)


def _leaves_of(layout: Iterable[Space]) -> Counter[Space]:
    """How many of a tensor's dimensions have each leaf."""
    return Counter(leaf for space in layout for leaf in set(leaves(space)))


def _told_by_input(seen: Observation) -> set[int]:
    """Identities of the leaves whose size the code takes from the input's: ``x[..., :other.shape[1]]``."""
    varying, told = _sizes_of_input(seen, steady=_alone), set[int]()
    for origin, space, _ in seen.tracer.facts.equations:
        if (
            any(id(leaf) in varying for said in spaces_in(origin) for leaf in leaves(said))
            and not space.root().children
        ):
            told.add(id(space.root()))
    return told


def _sizes_of_input(seen: Observation, steady: Callable[[Space], Iterable[Space]]) -> set[int]:
    """Identities of the leaves that are as large as the input is, and that no tensor of the model's own holds to a size:
    ``steady`` says which leaves of its dimensions do.
    """
    held = {id(leaf) for layout in seen.spaces.values() for space in layout for leaf in steady(space)}
    of_input = {id(leaf) for space in seen.inputs for leaf in leaves(space)}
    carried = (leaf for layout in seen.spaces.values() for space in layout for leaf in leaves(space))
    of_input.update(id(leaf) for leaf in carried if leaf.frozen in OF_THE_INPUT)
    return of_input - held


def _put_together(space: Space) -> Iterator[Space]:
    """The leaves of a dimension but for those in a part that was taken."""
    top = space.root()
    if not top.children:
        yield top
    elif not top.taken:
        for child in top.children:
            yield from _put_together(child)


def _alone(space: Space) -> Iterator[Space]:
    """The leaves of a dimension but for those that are parts of a sum."""
    return (factor for factor in factors(space) if not factor.children)


def _taken(space: Space) -> Iterator[Space]:
    """The sums in a dimension of which code took a part."""
    top = space.root()
    if top.taken:
        yield top
    for child in top.children:
        yield from _taken(child)
