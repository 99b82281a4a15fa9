"""Examples in docstrings (`>>> f(1)`) as code on the pages: Markdown would take the prompt for a quotation.

Invariant: only what the site shows is changed, never a docstring.
"""

import re

from griffe import Extension, Object

_EXAMPLE = re.compile(
    r"(?:^>>> .*\n(?:(?!\n).+\n)*\n?)+", re.M
)  # paragraphs that begin with a prompt, one after the other


class Doctests(Extension):
    """Puts a fence round each example."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Called for everything that has a docstring."""
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            text = f"{obj.docstring.value}\n"
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n\n", text)
