"""What is said to whoever watches: one line that says how far long work is, and tables where they were asked for.

    with progress("prune") as tell: tell(0.4, "verifying")        say(graph)

Nothing else in the library prints.

Invariant: off a terminal progress prints nothing, not even a newline, unless `lines_every` was asked for, as the command line
does; `say` is called only where ``verbose`` was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tell = Callable[[float, str], None]

_EVERY: ContextVar[float | None] = ContextVar("seconds between lines", default=None)


@contextmanager
def lines_every(seconds: float) -> Iterator[None]:
    """Where there is no terminal, print a line of progress each time that so many seconds have passed."""
    token = _EVERY.set(seconds)
    try:
        yield
    finally:
        _EVERY.reset(token)


@contextmanager
def progress(title: str) -> Iterator[Tell]:
    """Yield a function that takes the share done (0 to 1) and a word on what is under way."""
    console = Console(stderr=True)
    every = _EVERY.get()
    if not console.is_terminal:
        yield _lines(console, title, every) if every is not None else lambda share, word: None
        return
    texts = TextColumn("{task.fields[title]}", markup=False), TextColumn("{task.fields[word]}", markup=False)
    columns = (texts[0], BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), texts[1])
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0, title=title, word="")
        yield lambda share, word: bar.update(task, completed=share, word=word)


def _lines(console: Console, title: str, every: float) -> Tell:
    """A line now and then: how far, for how long, how much longer."""
    started = time.monotonic()
    last = started

    def tell(share: float, word: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < every:
            return
        last = now
        left = f", about {(now - started) * (1 - share) / share:.0f} s left" if 0 < share <= 1 else ""
        line = f"{title}: {share:.0%}, {now - started:.0f} s{left}: {word}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return tell


def say(*shown: object) -> None:
    """Print what has something to show, each on lines of its own, as plain text."""
    console = Console()
    for text in filter(None, map(str, shown)):
        console.print(text, markup=False, highlight=False)
