"""Many forward passes at once, each waiting for the others wherever something is to be decided for all of them.

    batch 0  ──────► conv1 ▌        ──────► conv2 ▌
    batch 1  ──────► conv1 ▌ solve  ──────► conv2 ▌ solve        one runs at a time; only its live activations are held
    batch 2  ──────► conv1 ▌        ──────► conv2 ▌

A network can so be changed layer by layer in a single pass over the data, every layer seeing what the changed ones before it
give. ``meet(number, point, given)`` parks a pass; when all are parked, those at the earliest point are given the decision.

Invariant: passes never run at the same time, and go on in the order of the batches; a fault in one stops all.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from secateur.torch.running.interrupts import Interrupts

Given = TypeVar("Given")
Decided = TypeVar("Decided")

_A_WHILE = 0.05  # seconds after which whoever waits looks whether it was interrupted


class _Stopped(BaseException):
    """Raised in parked passes when another one failed."""  # not an Exception: a model's own `except` must not swallow it


class Lockstep(Generic[Given, Decided]):
    """Runs passes in turn. ``decide(point, {pass number: given})`` is called once all have come to a point."""

    def __init__(self, order: Sequence[str], decide: Callable[[str, dict[int, Given]], Decided]) -> None:
        self._order = {point: number for number, point in enumerate(order)}
        self._decide = decide
        self._turn = threading.Condition()
        self._running: int | None = None
        self._parked: dict[int, tuple[str, Given]] = {}
        self._waiting: set[int] = set()  # the passes inside `meet`
        self._decided: dict[int, Decided] = {}
        self._error: BaseException | None = None

    def run(self, passes: Sequence[Callable[[int], None]]) -> None:
        """Run all passes to their end; each is called with its number. Raises what one of them raised."""
        # Threads, because a pass must stop in the middle of the model's own code and go on there; contexts are copied,
        # because function modes and grad mode live in them or are entered again by each pass.
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(self._body, number, body), daemon=True)
            for number, body in enumerate(passes)
        ]
        # Ctrl-C comes to this thread, which is only waiting; in the middle of a condition's own code it would leave that locked
        with Interrupts() as interrupts:
            try:
                for number, thread in enumerate(threads):
                    self._resume(number, thread, interrupts)
                while self._parked and self._error is None:
                    for number in self._settle(interrupts):
                        self._resume(number, None, interrupts)
            except BaseException as error:
                self._error = self._error or error
            finally:
                self._stop(threads)
        if self._error is not None:
            raise self._error

    def meet(self, number: int, point: str, given: Given) -> Decided:
        """Called by a pass: wait for the others, and get what was decided here."""
        with self._turn:
            self._parked[number] = (point, given)
            self._waiting.add(number)
            self._running = None
            self._turn.notify_all()
            while self._running != number:
                self._turn.wait()
            self._waiting.discard(number)
            if self._error is not None:
                raise _Stopped
            return self._decided.pop(number)

    def _settle(self, interrupts: Interrupts) -> list[int]:
        """Decide for those at the earliest point; their numbers."""
        # The earliest in the original's order, so that a pass on another route never waits for one that will not come;
        # a point that the original never saw is decided at once.
        point = min((point for point, _ in self._parked.values()), key=lambda point: self._order.get(point, -1))
        here = {number: given for number, (at, given) in sorted(self._parked.items()) if at == point}
        try:
            with interrupts.welcome():
                decided = self._decide(point, here)
        except BaseException as error:
            self._error = error
            return []
        for number in here:
            del self._parked[number]
            self._decided[number] = decided
        return list(here)

    def _resume(self, number: int, thread: threading.Thread | None, interrupts: Interrupts) -> None:
        """Let one pass run until it parks or ends."""
        if self._error is not None:
            return
        with self._turn:
            self._running = number
            if thread is not None:
                thread.start()
            self._turn.notify_all()
            while self._running is not None:
                self._turn.wait(_A_WHILE)
                with interrupts.welcome():
                    pass

    def _body(self, number: int, body: Callable[[int], None]) -> None:
        try:
            body(number)
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error
        finally:
            with self._turn:
                self._running = None
                self._turn.notify_all()

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        """Wake whoever is parked, one by one, so that each unwinds its own context managers while no other runs."""
        with self._turn:
            while self._running is not None and threads[self._running].is_alive():
                self._turn.wait(_A_WHILE)  # interrupted while a pass ran: it stops at its next point
        for number in list(self._waiting):
            with self._turn:
                self._running = number
                self._turn.notify_all()
                while self._running is not None:
                    self._turn.wait()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
