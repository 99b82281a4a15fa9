"""The house rules that a machine can hold: types that are said, …"""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

SRC = Path(__file__).parent.parent / "src" / "secateur"
MODULES = sorted(SRC.rglob("*.py"))

# `Any` in every 1,000 lines of src, imports aside. Where it stays it has a reason, given once, at an alias.
ANYS_PER_THOUSAND = 15


def anys(path: Path) -> int:
    """How often a module writes ``Any`` where a type could stand: strings, comments and imports are not counted."""
    tokens = list(tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline))
    imports = {
        token.start[0]
        for line in _statements(tokens)
        if line and line[0].string in ("from", "import")
        for token in line
    }
    return sum(t.type == tokenize.NAME and t.string == "Any" and t.start[0] not in imports for t in tokens)


def _statements(tokens: list[tokenize.TokenInfo]) -> list[list[tokenize.TokenInfo]]:
    statements: list[list[tokenize.TokenInfo]] = [[]]
    for token in tokens:
        if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            statements.append([])
        elif token.type not in (tokenize.NL, tokenize.COMMENT):
            statements[-1].append(token)
    return statements


def anys_per_thousand_lines() -> float:
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in MODULES)
    return 1000 * sum(map(anys, MODULES)) / lines


def test_types_are_said() -> None:
    counted = anys_per_thousand_lines()
    most = sorted(((anys(path), str(path.relative_to(SRC))) for path in MODULES), reverse=True)[:5]
    assert counted <= ANYS_PER_THOUSAND, f"{counted:.1f} `Any` in every 1,000 lines; most in {most}"
