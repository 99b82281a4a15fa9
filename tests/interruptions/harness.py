"""Interrupt, compare, count.

    reference: the call, not interrupted ──► how long it takes, what it leaves        (once for each network and call)
    each time: state ──► call with a signal at a random moment ──► state: as before; or, where the call changes the model,
                                                                   as before or as after the whole call ──► trace again

Invariant: after a finding the workplace is thrown away, so that one fault is counted once.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle

import secateur as sc

from .calls import CALLS, Call, Workplace, described
from .networks import Subject, chosen
from .process import process_changes, process_state
from .signals import Killer, Outcome
from .state import State

Tell = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """What was counted, by network, call and word, and every finding."""

    words: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    refused: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def signals(self) -> int:
        """Signals that met a call while it ran."""
        return sum(n for (_, _, word), n in self.words.items() if word != "finished")


class Room:
    """One network's workplace, which all calls use until something changed in it."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.graph: object = None
        self._work: Workplace | None = None

    def enter(self) -> Workplace:
        """The workplace, made anew if it was spoilt."""
        if self._work is None:
            for held in self.subject.outside().values():
                (held.clear if isinstance(held, dict) else held.cache_clear)()  # type: ignore[attr-defined]
            self._work = Workplace(self.subject)
            if self.graph is None:
                self.graph = traced(self._work)
        return self._work

    def spoil(self) -> None:
        """Whoever comes next gets another one."""
        self._work = None

    @property
    def spoilt(self) -> bool:
        return self._work is None


class Bench:
    """One network and one call."""

    def __init__(self, room: Room, call: Call, report: Report, tell: Tell) -> None:
        self.room, self.call, self.report, self.tell = room, call, report, tell
        self.seconds: deque[float] = deque(maxlen=9)
        self.cached: set[str] = set()  # what the model's own code keeps for itself when it is run on data
        self.usable = self._refer()

    def _refer(self) -> bool:
        """Make the call twice in peace: what it leaves and returns, and whether it does so each time."""
        for first in (True, False):
            outcome = Outcome.of(self.room.enter)
            work = outcome.result
            if work is None:
                return self._refused(outcome.error)
            before, process = State.of(work.roots), process_state()
            outcome = Outcome.of(lambda work=work: self.call.run(work))
            after, result = State.of(work.roots), State.of({"result": described(outcome.result)})
            changes = process_changes(process, process_state())
            if self.call.changes and outcome.error is None:
                self.cached = {c for c in before.changes(after) if c.startswith(tuple(self.room.subject.outside()))}
                self.room.spoil()
            else:
                changes += before.changes(after)
            self._found("not interrupted", changes)
            if outcome.error is not None:
                return self._refused(outcome.error)
            if first:
                self.after, self.result = after, result
            else:
                self._found("made twice", [*self.after.differences(after), *self.result.differences(result)])
                self.seconds.append(outcome.seconds)
        return True

    def _refused(self, error: BaseException | None) -> bool:
        """The call cannot be made on this network; only an error of Secateur's own is a refusal."""
        self.report.refused[self.room.subject.name, self.call.name] = f"{error}"
        if not isinstance(error, sc.SecateurError):
            self._found("not interrupted", [f"raises {type(error).__name__}: {error}"])
        return False

    def interrupt(self, killer: Killer, share: float) -> None:
        """One call, with a signal after this share of the time it takes."""
        work = self.room.enter()
        before, process = State.of(work.roots), process_state()
        outcome = killer.during(lambda: self.call.run(work), share * statistics.median(self.seconds))
        after = State.of(work.roots)  # while the error, and every frame in it, is still held
        all_moved = before.changes(after)
        outside = tuple(self.room.subject.outside())
        # stopped on its way the code has kept some of what it keeps in the end
        kept = {c for c in all_moved if self.cached and c.startswith(outside) and "meta" not in c}
        word, moved = outcome.word, [change for change in all_moved if change not in kept]
        changes = process_changes(process, process_state())
        if moved and self.call.changes:
            self.room.spoil()
            differences = [d for d in self.after.differences(after) if not d.startswith(outside)]
            word, moved = self._whole(outcome, moved, differences)
        if outcome.error is None:
            changes += self.result.differences(State.of({"result": described(outcome.result)}))
            self.seconds.append(outcome.seconds)
        elif not isinstance(outcome.error, KeyboardInterrupt):
            changes.append(f"{type(outcome.error).__name__}: {outcome.error}"[:200])
        outcome.error = outcome.result = None
        if not (self.room.spoilt or changes or moved):
            changes = [] if traced(work) == self.room.graph else ["the next trace gives another graph"]
            changes += process_changes(process, process_state())
        self.report.words[self.room.subject.name, self.call.name, word] += 1
        self._found(f"{word} at {share:.0%}", [*changes, *moved])
        if kept:
            self.room.spoil()  # what the code keeps for itself would be there in the next run from its beginning

    def _whole(self, outcome: Outcome, moved: list[str], differences: list[str]) -> tuple[str, list[str]]:
        """The model changed: then it must be what the whole call leaves, whether or not the caller hears of it."""
        if outcome.error is None:
            return outcome.word, differences
        return "interrupted when done", min(differences, moved, key=len)

    def _found(self, what: str, changes: list[str]) -> None:
        if changes:
            listed = "; ".join(sorted(changes)[:4]) + (f"; and {len(changes) - 4} more" if len(changes) > 4 else "")
            finding = f"{self.room.subject.name}, {self.call.name}, {what}: {listed}"
            self.report.findings.append(finding)
            self.tell(f"CHANGED {finding}")
            self.room.spoil()


def traced(work: Workplace) -> object:
    """What a trace says of the network now."""
    return described(sc.trace(work.model, work.inputs))


def interruptions(
    count: int, *, seed: int = 0, networks: tuple[str, ...] = (), calls: tuple[str, ...] = (), tell: Tell = print
) -> Report:
    """Interrupt calls until so many signals have met one, in turns over networks and calls."""
    report = Report()
    benches = cycle(list(_benches(report, networks, calls, tell)))
    generator = random.Random(seed)
    with Killer() as killer:
        last = 0
        while report.signals < count:
            next(benches).interrupt(killer, generator.uniform(0, 1.05))
            if report.signals // 50 > last:
                last = report.signals // 50
                tell(f"{report.signals} of {count} signals, {len(report.findings)} findings")
    return report


def _benches(report: Report, networks: tuple[str, ...], calls: tuple[str, ...], tell: Tell) -> Iterator[Bench]:
    for subject in chosen(networks):
        room = Room(subject)
        for call in CALLS:
            if not calls or call.name in calls:
                bench = Bench(room, call, report, tell)
                if bench.usable:
                    yield bench
