"""Which operators ran: the rest of the conformance kit is public, in `secateur.testing`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from secateur.torch.tracing import tracer


@contextmanager
def operators_seen() -> Iterator[set[object]]:
    """The operators (packets, or Python functions) that a trace in the block asks a rule for."""
    seen: set[object] = set()
    real = tracer.find

    def find(operator: object) -> object:
        seen.add(getattr(operator, "overloadpacket", operator))
        return real(operator)

    with mock.patch.object(tracer, "find", find):
        yield seen
