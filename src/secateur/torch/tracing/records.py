"""What a run writes down: of every tensor a Value, of every operator a Record.

    Value     its spaces, and along which axes removed units are zero       Record    what went in, what came out, where

Invariant: neither holds a tensor; a run that is over keeps none alive.
"""

from __future__ import annotations

import itertools

from secateur.core.space import Space


class Memory:
    """One allocation. The tensors on it hold it; ``spoiled``: something was written that is not zero at removed units.
    ``innermost``: the dimension whose units lie side by side."""

    __slots__ = ("__weakref__", "innermost", "spoiled")

    def __init__(self, innermost: Space | None = None) -> None:
        self.spoiled = False
        self.innermost = innermost


class Value:
    """What is known of one tensor. ``zero[i]``: at removed units of axis i the tensor is zero.

    ``when_read``: a space to freeze, and why, as soon as an operator reads the tensor (its shape may be read freely).
    ``run`` tells whose note this is: a tensor that outlives its run must mean nothing to the next. ``number`` is that of its
    contents, which views share. ``unread``: the spaces that are one as soon as somebody reads it (`tracing.unread`). ``says``:
    that its numbers are positions along a space, or count its units (`tracing.meanings`).
    """

    __slots__ = ("memory", "number", "run", "says", "spaces", "unread", "when_read", "zero")

    def __init__(self, spaces: list[Space], zero: list[bool], run: object, memory: Memory | None = None) -> None:
        self.spaces, self.zero, self.run, self.memory = spaces, zero, run, memory
        self.when_read: tuple[Space, str] | None = None
        self.unread: list[tuple[Space, Space]] | None = None
        self.says: tuple[str, Space] | None = None
        self.number = next(_numbers)


_numbers = itertools.count()


class Record:
    """One operator of the run: what it was, the spaces of its inputs and outputs, and the module it ran in.

    ``over``: the spaces that it sums or takes a statistic over, so that what it gives mixes their units. ``ahead``: what a
    slice leaves out before the first that it takes. ``reads`` and ``writes`` number the contents it had and gave, the first
    with the spaces it had them in. ``weighs``: it counts as multiply-accumulates.
    """

    __slots__ = ("ahead", "had", "module", "name", "outputs", "over", "reads", "view", "weighs", "writes")

    def __init__(self, name: str, module: str, had: list[list[Space]], outputs: list[list[Space]], view: bool) -> None:
        self.name, self.module, self.had, self.outputs, self.view = name, module, had, outputs, view
        self.over: tuple[Space, ...] = ()
        self.ahead: Space | None = None
        self.reads: tuple[int, ...] = ()
        self.writes: tuple[int, ...] = ()
        self.weighs = False

    @property
    def inputs(self) -> list[Space]:
        """The spaces of all its inputs."""
        return [space for layout in self.had for space in layout]
