"""Memory that code keeps to write into: a buffer between calls, viewed in another shape each time.

    buffer[:n].view(heads, t, t)  ──► baddbmm(·, q, k, beta=0)      never read: the shape of a view says nothing of the buffer
    buffer[:n].view(heads, t, t)  ──► + x                           read: the view is made of what the buffer is made of

Invariant: two views of one memory are related as soon as an operator reads or writes either.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from secateur.core.space import ONE, Space, constant, unify
from secateur.torch.running.calls import Args, Kwargs
from secateur.torch.tracing.records import Value

BLANK = frozenset({"empty", "new_empty"})  # operators whose outputs hold no numbers yet
_OVER = frozenset({"baddbmm", "addmm", "addbmm", "addmv", "addr"})


def ignored(name: str, args: Args, kwargs: Kwargs) -> Tensor | None:
    """The argument of which an operator takes no numbers: with ``beta=0`` not even its infinities count."""
    return args[0] if name in _OVER and kwargs.get("beta", 1) == 0 else None


def keep_apart(name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
    """Let a view of memory that nobody has read have dimensions of its own for now. Asked of views and of `BLANK` alone."""
    if name in BLANK:
        outputs[0].unread = []
        return
    base = inputs[0].unread if inputs else None
    if base is None:
        return
    for known in outputs:
        own = [constant(1, ONE) if space.root().size == 1 else Space(space.root().size) for space in known.spaces]
        known.unread = [*base, *zip(own, known.spaces, strict=True)]
        known.spaces, known.zero = own, [False] * len(own)


def join(known: Value) -> None:
    """It is read, or its sizes are: it is made of what it is a view of."""
    if known.unread is not None:
        pairs, known.unread = known.unread, None
        for own, other in pairs:
            unify(own, other, "a view of the same memory")
