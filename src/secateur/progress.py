"""What is said to whoever watches: one line that says how far long work is, and tables where they were asked for.

    with progress("prune") as tell: tell(0.4, "verifying")        say(graph)

Nothing else in the library prints. Notebooks show a bar where they have widgets (ipywidgets), else a line every ten seconds.

Invariant: off a terminal and a notebook progress prints nothing, not even a newline, unless `lines_every` was asked for, as the
command line does; `say` is called only where ``verbose`` was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tell = Callable[[float, str], None]

_IN_NOTEBOOKS = 10.0  # seconds between lines, where no bar can move

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
    if console.is_jupyter and every is None and find_spec("ipywidgets") is None:
        every = _IN_NOTEBOOKS
    elif console.is_terminal or console.is_jupyter:
        with _bar(console, title) as tell:
            yield tell
        return
    yield _lines(console, title, every) if every is not None else lambda share, word: None


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Tell]:
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
