"""The house rules that a machine can hold: types said, files short, the same tools everywhere, nothing printed."""

from __future__ import annotations

import ast
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


ROOT = SRC.parent.parent
TOOLS = ("ruff check", "ruff format --check", "pyright", "lint-imports")


def test_a_commit_meets_the_same_tools_as_the_suite() -> None:
    for script in ("scripts/test", "scripts/quick", ".pre-commit-config.yaml"):
        text = (ROOT / script).read_text("utf-8")
        assert [tool for tool in TOOLS if tool not in text] == [], script


def test_a_file_is_short_enough_to_read() -> None:
    long = {str(path.relative_to(SRC)): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_a_module_opens_with_its_idea() -> None:
    silent = [
        str(path.relative_to(SRC))
        for path in MODULES
        if len(ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "") < 20
    ]
    assert silent == []


# A mode and the criterion that it ranks by have one name for users.
SHARED = {"Magnitude"}


def test_a_name_is_one_class() -> None:
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(path.relative_to(SRC)))
    assert {name: files for name, files in homes.items() if len(files) > 1 and name not in SHARED} == {}


def test_the_library_prints_nothing() -> None:
    """What there is to say is returned; only the command line, progress on a terminal, and tables made as text use one."""
    talking = {str(path.relative_to(SRC)) for path in MODULES if _talks(path)}
    talking = {name for name in talking if not name.startswith("cli/")} - {"progress.py", "core/show.py"}
    assert talking == set()


def _talks(path: Path) -> bool:
    tree = ast.parse(path.read_text("utf-8"))
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(isinstance(function, ast.Name) and function.id in ("print", "Console") for function in called)
