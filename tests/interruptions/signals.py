"""Real SIGINTs, from another process, at a moment that no lock of this process has a say in.

    with Killer() as killer: outcome = killer.during(call, delay)

The other process sleeps for ``delay`` seconds and kills, or is told in time that the call is over. While a call runs the
handler raises KeyboardInterrupt once, as Python's own does; at any other time the signal is only counted.

Invariant: when `during` returns no signal is under way.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

_PROGRAM = """
import os, select, signal, struct, sys
while True:
    given = os.read(0, 8)
    if len(given) < 8:
        break
    early = select.select([0], [], [], struct.unpack("d", given)[0])[0]
    if not early:
        os.kill(int(sys.argv[1]), signal.SIGINT)
    os.read(0, 1)
    os.write(1, b"n" if early else b"y")
"""


@dataclass(slots=True)
class Outcome:
    """What became of a call: its ``result`` if it returned, the ``error`` it raised; ``struck`` if the signal met it."""

    struck: bool = False
    result: Any = None
    error: BaseException | None = None
    seconds: float = 0.0

    @classmethod
    def of(cls, call: Callable[[], Any]) -> Outcome:
        """The outcome of a call that nobody interrupts."""
        outcome, began = cls(), time.perf_counter()
        try:
            outcome.result = call()
        except Exception as error:
            outcome.error = error
        outcome.seconds = time.perf_counter() - began
        return outcome

    @property
    def word(self) -> str:
        if self.error is None:
            return "went on" if self.struck else "finished"
        return "interrupted" if isinstance(self.error, KeyboardInterrupt) else "raised something else"


class Killer:
    """The other process; a context manager, since a handler is installed meanwhile."""

    def __init__(self) -> None:
        self._listening = False
        self._met = False

    def __enter__(self) -> Killer:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0,
        )  # fmt: skip
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._listening:
            self._listening, self._met = False, True
            raise KeyboardInterrupt

    def during(self, call: Callable[[], Any], delay: float) -> Outcome:
        """Run a call, which is interrupted after ``delay`` seconds unless it is over by then."""
        outcome = Outcome()
        self._met = False
        began = time.perf_counter()
        os.write(self._in, struct.pack("d", max(delay, 0.0)))
        try:
            self._listening = True
            outcome.result = call()
        except BaseException as error:
            outcome.error = error
        self._listening = False
        outcome.seconds = time.perf_counter() - began
        os.write(self._in, b"x")
        os.read(self._process.stdout.fileno(), 1)  # type: ignore[union-attr]
        outcome.struck = self._met
        return outcome

    @property
    def _in(self) -> int:
        assert self._process.stdin is not None
        return self._process.stdin.fileno()
