"""Ctrl-C waits while something is half done, and comes through where nothing is.

    with Interrupts() as interrupts:            set up: an interrupt is noted
        with interrupts.welcome():              the long run: raised at once
            model(x)
                                                put back: noted; raised at the end

What was raised goes on at the end, whoever caught it inside.

Invariant: between the two ends of the outer block no line of ours is struck but inside `welcome`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


class Interrupts:
    """SIGINT in the main thread, kept back. In other threads Python raises none, and this does nothing."""

    def __init__(self) -> None:
        self._former: Handler | None = None
        self._noted: tuple[int, FrameType | None] | None = None
        self._raised: BaseException | None = None
        self._are_welcome = False

    def __enter__(self) -> Interrupts:
        former = signal.getsignal(signal.SIGINT)
        if callable(former) and threading.current_thread() is threading.main_thread():
            self._former = former
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._former is None:
            return
        signal.signal(signal.SIGINT, self._former)
        if self._noted is not None and kind is not KeyboardInterrupt:
            self._former(*self._noted)
        raised, self._raised = self._raised, None
        if raised is not None and error is not raised:
            raise raised  # TorchScript makes an error of its own of it, and other code catches all there is

    def welcome(self) -> _Welcome:
        """A block in which an interrupt is raised at once; the first one closes it."""
        return _Welcome(self)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._are_welcome and self._former is not None:
            self._are_welcome = False
            try:
                self._former(number, frame)
            except BaseException as error:
                self._raised = error
                raise
        else:
            self._noted = (number, frame)


class _Welcome:
    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    def __enter__(self) -> None:
        self._interrupts._are_welcome = True
        noted = self._interrupts._noted
        if noted is not None:
            self._interrupts._noted = None
            self._interrupts._handle(*noted)

    def __exit__(self, *_: object) -> None:
        self._interrupts._are_welcome = False
