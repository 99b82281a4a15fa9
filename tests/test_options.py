"""Every option says what it means, and the documents say the same."""

from __future__ import annotations

import pytest

import secateur as sc
from secateur.core.options import Options, described_options, type_name
from tests import options

KINDS: list[type[Options]] = [
    *(sc.modes.MODES[name] for name in sc.modes.MODES if sc.modes.MODES[name].__module__.startswith("secateur.")),
    sc.Limits,
    sc.training.FinetuneConfig,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_option_says_what_it_means(kind: type[Options]) -> None:
    assert [option.name for option in described_options(kind) if not option.meaning] == []


@pytest.mark.parametrize("name", options.PRUNERS)
def test_every_argument_of_a_pruner_says_what_it_means(name: str) -> None:
    page = "\n".join(options.tables_of_calls(getattr(sc.pruners, name)))
    assert "|" in page
    assert [line for line in page.splitlines() if line.split("|")[2:3] == ["  "]] == []


def test_the_page_of_options_is_what_the_options_say() -> None:
    assert options.PAGE.read_text("utf-8") == options.page(), "run python -m tests.options"


def test_the_page_knows_every_mode() -> None:
    assert {getattr(sc.modes, name) for name in options.MODES} == {
        sc.modes.MODES[name] for name in sc.modes.MODES if sc.modes.MODES[name].__module__.startswith("secateur.")
    }


def test_what_is_printed_is_what_the_page_says() -> None:
    words = set(str(sc.modes.FastNAS()).replace("│", " ").split())
    for option in described_options(sc.modes.FastNAS):
        assert set(f"{option.name} {option.meaning}".split()) <= words, option.name


def test_a_type_is_said_without_modules_and_bounds() -> None:
    fields = sc.modes.Progressive.model_fields
    assert type_name(fields["ridge"].annotation) == '"auto" | float'
    assert type_name(fields["checkpoint"].annotation) == "str | Path | None"
    assert type_name(fields["loss_func"].annotation) == "function | None"
