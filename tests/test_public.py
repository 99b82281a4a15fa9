"""The public face: small, complete, explained, and all that the documents name."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
from pydantic import BaseModel

import secateur as sc

ROOT = Path(__file__).parent.parent
PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if page.exists()
]
MAP = ROOT / "docs" / "architecture.md"  # the one page that is about files

VERBS = ["apply", "measure", "narrowed", "plan", "plans_of", "prune", "restore", "save", "subnet", "trace", "verify"]
DATA = ["Budget", "Call", "Examples", "Graph", "Limits", "Measurement", "Plan", "PruneResult", "Verification", "Width"]
ERRORS = ["ApplyError", "ArtifactError", "Coincidence", "ConfigError", "DeadNetwork", "Infeasible", "InputError", "PlanError",
          "SecateurError", "TraceError", "VerificationError"]  # fmt: skip
MODULES = ["compat", "criteria", "hf", "modes", "pruners", "report", "rules", "scenario", "testing", "training"]

MOST_PARAMETERS = 6


def public() -> Iterator[tuple[str, object]]:
    """Every public name with what it stands for; a module's with the module before it."""
    for name in [*VERBS, *DATA, *ERRORS]:
        yield name, getattr(sc, name)
    for name in MODULES:
        module = getattr(sc, name)
        yield name, module
        for inner in getattr(module, "__all__", ()):
            yield f"{name}.{inner}", getattr(module, inner)


def callables() -> Iterator[tuple[str, FunctionType]]:
    """Public functions, constructors that are written out, and public methods of public classes."""
    for name, thing in public():
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing) and thing.__module__.startswith("secateur"):
            fields = hasattr(thing, "__dataclass_fields__") or issubclass(thing, BaseModel)  # options, given by name
            if "__init__" in vars(thing) and not fields:
                yield name, thing.__init__
            for key, method in vars(thing).items():
                inner = method.__func__ if isinstance(method, classmethod | staticmethod) else method
                if inspect.isfunction(inner) and not key.startswith("_"):
                    yield f"{name}.{key}", inner


def test_the_face_is_what_is_written_here() -> None:
    assert dir(sc) == sorted([*VERBS, *DATA, *ERRORS, *MODULES, "__version__"])
    assert sorted(sc.__all__) == dir(sc)


def test_every_error_there_is_can_be_caught_by_its_public_name() -> None:
    import secateur.errors

    assert {n for n, e in vars(secateur.errors).items() if inspect.isclass(e) and issubclass(e, Exception)} == set(
        ERRORS
    )


def test_importing_it_imports_no_framework() -> None:
    code = "import sys, secateur; dir(secateur); sys.exit(any(m in sys.modules for m in ('torch', 'keras', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", [name for name in MODULES if name != "compat"])
def test_a_public_module_lists_all_that_it_has(name: str) -> None:
    module = getattr(sc, name)
    assert list(module.__all__) == sorted(module.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    shown = {n for n, thing in vars(module).items() if not n.startswith("_") and not isinstance(thing, ModuleType)}
    assert set(module.__all__) == shown - {"annotations"}


def test_every_public_name_is_explained() -> None:
    silent = [name for name, thing in public() if not _explained(thing)]
    assert silent == []


def test_every_public_method_is_explained() -> None:
    silent = [name for name, function in callables() if not name.endswith("__init__") and not function.__doc__]
    assert [name for name in silent if name not in dict(public())] == []


def _explained(thing: object) -> bool:
    if not (inspect.isclass(thing) or inspect.isfunction(thing) or inspect.ismodule(thing)):
        return True  # a registry, a constant, an alias
    text = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    generated = inspect.isclass(thing) and (text or "").startswith(f"{thing.__name__}(")
    return bool(text) and not generated


def test_a_public_call_takes_at_most_six_arguments() -> None:
    counted = {
        name: len([p for p in inspect.signature(f).parameters if p not in ("self", "cls")]) for name, f in callables()
    }
    assert [name for name, count in counted.items() if count > MOST_PARAMETERS] == []


INTERNAL = re.compile(
    r"secateur\.(?:torch|core|search|io|cli|progress|version|errors)\b"
    r"|secateur/(?:torch|core|search|io|cli)\b|(?<![\w/])(?:torch|core|search)/[a-z_]+"
)


@pytest.mark.parametrize("page", [page for page in PAGES if page != MAP], ids=lambda page: page.name)
def test_no_document_names_an_internal_path(page: Path) -> None:
    assert INTERNAL.findall(page.read_text("utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_document_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    named = re.findall(r"\b(?:sc|secateur)\.([a-zA-Z_]\w*)(?:\.([a-zA-Z_]\w*))?", text)
    for name, inner in named:
        assert hasattr(sc, name), f"sc.{name}"
        assert not inner or name not in MODULES or hasattr(getattr(sc, name), inner), f"sc.{name}.{inner}"
