"""Rows of a benchmark in a file of JSON lines, so that one that was stopped goes on where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Results:
    """Lines appended as they come; the last line of a cell counts. ``cell`` names the keys that say which cell a row is of."""

    path: Path
    cell: tuple[str, ...]

    def key(self, row: dict[str, Any]) -> tuple[Any, ...]:
        """Which cell; None for what a row does not have."""
        return tuple(row.get(name) for name in self.cell)

    def read(self) -> list[dict[str, Any]]:
        """One row a cell."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return list({self.key(row): row for row in map(json.loads, lines)}.values())

    def add(self, row: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
