"""What is said to whoever watches: one line that says how far long work is, and tables where they were asked for.

    with progress("prune") as tell: tell(0.4, "verifying")        say(graph)

Nothing else in the library prints.

Invariant: off a terminal progress prints nothing, not even a newline; `say` is called only where ``verbose`` was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Tell = Callable[[float, str], None]


@contextmanager
def progress(title: str) -> Iterator[Tell]:
    """Yield a function that takes the share done (0 to 1) and a word on what is under way."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda share, word: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share, word: bar.update(task, completed=share, description=f"{title}: {word}")


def say(*shown: object) -> None:
    """Print what has something to show, each on lines of its own, as plain text."""
    console = Console()
    for text in filter(None, map(str, shown)):
        console.print(text, markup=False, highlight=False)
