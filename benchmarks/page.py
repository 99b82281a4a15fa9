"""docs/benchmarks.md: one section for each benchmark, replaced by the one that made it.

Invariant: writing a section leaves the others as they are.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
_TITLE = (
    "# Benchmarks\n\nMeasured by the commands named in each section. Ratios were taken in one run on one machine.\n"
)


def write_section(title: str, body: str, page: Path = PAGE) -> None:
    """Put a section in, in place of the one of the same title."""
    page.parent.mkdir(parents=True, exist_ok=True)
    text = page.read_text(encoding="utf-8") if page.exists() else _TITLE
    section = f"## {title}\n\n{body.strip()}\n"
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    if found is None:
        text = f"{text.rstrip()}\n\n{section}"
    else:
        text = f"{text[: found.start()]}{section}\n{text[found.end() :]}".rstrip() + "\n"
    page.write_text(text, encoding="utf-8")


def machine(threads: int) -> str:
    """What was measured on, in words."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores, {memory:.0f} GiB; "
        f"Python {platform.python_version()}, torch {torch.__version__}, {threads} threads"
    )
