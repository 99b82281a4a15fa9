"""What people read: numbers, names, tables. No name may act on the terminal; nothing is left out without saying so."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.cost import Polynomial
from secateur.core.graph import Graph, Use, Width
from secateur.core.layout import Along, Whole
from secateur.core.show import constraint_table, cost_table, graph_summary, plan_table, profile, profile_table
from secateur.core.text import choices_text, family_name, few, human, pattern_of, scientific, visible
from secateur.errors import PlanError


def make_graph(blocks: int = 2, *, step: int = 32, name: str = "layer.{}.conv1.out_channels") -> Graph:
    """A stem of 64 and ``blocks`` inner widths of 512, each in two weights; one frozen output."""
    stem = Along("stem.out_channels", 64)
    inner = [Along(name.format(i), 512) for i in range(blocks)]
    layouts = {"stem.weight": (stem, Whole(3)), "head.weight": (Along("head.out_features", 10), stem)}
    layouts |= {f"layer.{i}.conv1.weight": (axis, stem) for i, axis in enumerate(inner)}
    layouts |= {f"layer.{i}.conv2.weight": (stem, axis) for i, axis in enumerate(inner)}
    widths = [
        _width("stem.out_channels", 64, (32, 64)),
        _width("head.out_features", 10, (10,), frozen="the model's output"),
    ]
    for i, axis in enumerate(inner):
        uses = (Use(tensor=f"layer.{i}.conv1.weight", axis=0), Use(tensor=f"layer.{i}.conv2.weight", axis=1))
        widths.append(_width(axis.width, 512, tuple(range(step, 513, step)), exact=i % 2 == 0, uses=uses))
    terms = [(1, layout, name.rpartition(".")[0]) for name, layout in layouts.items()]
    return Graph(
        widths=tuple(widths),
        layouts=layouts,
        equations=(),
        attributes={},
        costs={"params": Polynomial.of(terms), "macs": Polynomial.of([(7 * n, axes, m) for n, axes, m in terms])},
        fingerprint="by hand",
        notes=("no rule for frobnicate",),
    )


def _width(name: str, size: int, choices: tuple[int, ...], **more: object) -> Width:
    return Width(**{"name": name, "kind": "channels", "size": size, "choices": choices, "exact": True, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "shown"),
    [(4589027328, "4.59G"), (274338816, "274.34M"), (25503912, "25.50M"), (512, "512"), (0, "0"), (1000, "1.00K"),
     (999_999, "1.00M"), (999_994_999, "999.99M"), (12.5, "12.5"), (2 * 10**21, "2000.00E")],
)  # fmt: skip
def test_counts_are_shown_with_decimal_units(number: float, shown: str) -> None:
    assert human(number) == shown


def test_the_size_of_a_search_space_is_shown_however_large() -> None:
    assert scientific(2**31) == "2.15e+09"
    assert scientific(48**9000) == "1.48e+15131"
    assert scientific(9_999) == "1.00e+04"


@given(st.integers(1, 10**18))
def test_scientific_agrees_with_floats_where_floats_can(count: int) -> None:
    mantissa, exponent = scientific(count).split("e")
    assert math.isclose(float(mantissa) * 10.0 ** int(exponent), count, rel_tol=5.1e-3)


def test_long_choices_are_shown_by_their_ends() -> None:
    assert choices_text((32, 64)) == "[32, 64]"
    assert choices_text(tuple(range(32, 513, 32))) == "[32, 64, 96, 128, ..., 416, 448, 480, 512]"


def test_siblings_share_a_name() -> None:
    assert family_name(["a.0.b.3", "a.1.b.3", "a.2.b.3"]) == "a.{0..2}.b.3"
    assert family_name(["a.0", "a.2"]) == "a.{0,2}"
    assert family_name([f"a.{i * i}" for i in range(9)]) == "a.{0,1,4,…,64}"
    assert pattern_of("a.10.b") == pattern_of("a.9.b")
    assert few("abcde") == "a, b, c, … 2 more"


@given(st.text())
def test_no_character_that_acts_on_a_terminal_is_ever_shown(text: str) -> None:
    shown = visible(text)
    assert all(unicodedata.category(c)[0] != "C" and unicodedata.category(c) not in ("Zl", "Zp") for c in shown)


@given(st.text(max_size=40))
def test_printable_text_is_shown_as_it_is(text: str) -> None:
    plain = "".join(c for c in text if unicodedata.category(c)[0] in "LNPSM")
    assert visible(plain) == plain


def test_summary_reads_like_a_search_space() -> None:
    lines = graph_summary(make_graph()).splitlines()
    assert any(line.startswith("*  stem.out_channels") and "[32, 64]" in line for line in lines)
    assert any(line.startswith("   head.out_features") and "[10]" in line for line in lines)
    assert any("layer.1.conv1.out_channels" in line and "inexact" in line for line in lines)
    assert any("[32, 64, 96, 128, ..., 416, 448, 480, 512]" in line and "layer.0.conv2" in line for line in lines)
    assert "Number of configurable widths: 3" in lines
    assert "Total size of the search space: 5.12e+02" in lines
    assert "Note: no rule for frobnicate" in lines
    assert any("the model's output" in line and "head.out_features" in line for line in lines)
    assert all(line == line.rstrip() for line in lines)


def test_profile_is_the_arithmetic_of_the_smallest_central_and_whole_network() -> None:
    found = profile(make_graph())

    def params(stem: int, inner: int) -> int:
        return 3 * stem + 10 * stem + 4 * stem * inner

    least, middle, most = params(32, 32), params(32, 256), params(64, 512)
    assert found["params"] == {"min": least, "centroid": middle, "max": most, "ratio": most / least}
    assert found["macs"]["max"] == 7 * found["params"]["max"]
    assert list(found) == ["macs", "params"]


def test_profile_table_says_macs_and_never_a_bare_flops() -> None:
    shown = profile_table(make_graph())
    assert "MACs" in shown
    assert "flops" not in shown.lower()
    assert "max/min ratio" in shown


def test_constraint_table_says_what_can_be_met() -> None:
    graph = make_graph()
    shown = constraint_table(graph, {"macs": "50%", "params": 100})
    lines = {line.split()[1]: line for line in shown.splitlines() if line.startswith("│")}
    assert "True" in lines["MACs"]
    assert "False" in lines["params"]
    assert human(graph.macs // 2) in lines["MACs"]


def test_hundreds_of_widths_are_abbreviated_and_it_says_so() -> None:
    graph = make_graph(300)
    short, full = graph_summary(graph), graph_summary(graph, limit=None)
    assert "layer.{0,2,4,…,298}.conv1.out_channels (×150)" in short
    assert len(short.splitlines()) < 40
    assert all(f"layer.{i}.conv1.out_channels" in full for i in range(300))
    assert "Number of configurable widths: 301" in short


def test_widths_without_family_likeness_are_left_out_with_a_count() -> None:
    graph = make_graph(300, name="{}")
    odd = [replace(w, name=f"w{'abcdefghij'[i % 10] * (i // 10 + 1)}") for i, w in enumerate(graph.widths)]
    assert "… 242 more lines; limit=None shows them" in graph_summary(graph.with_widths(odd))


def test_plan_table_shows_was_and_becomes() -> None:
    graph = make_graph(100)
    kept = {f"layer.{i}.conv1.out_channels": range(128) for i in range(100)} | {"stem.out_channels": range(0, 64, 2)}
    plan = graph.plan(kept)
    short, full = plan_table(plan), plan_table(plan, limit=None)
    assert any(
        "layer.{0..99}.conv1.out_channels (×100)" in line and "512" in line and "128" in line
        for line in short.splitlines()
    )
    assert any("stem.out_channels" in line and "64" in line and "50%" in line for line in short.splitlines())
    assert "layer.77.conv1.out_channels" in full
    assert "101 widths narrowed, 1 whole, 0 attributes rewritten" in short


@given(st.text(min_size=1, max_size=6))  # short enough that no column is cut
def test_hostile_names_stay_inside_their_cell(name: str) -> None:
    graph = make_graph(1)
    hostile = replace(graph.widths[1], name=name + "[link=https://x.example]", frozen=f"[bold]{name}")
    shown = graph_summary(graph.with_widths([graph.widths[0], hostile, graph.widths[2]]))
    assert "[link=https://x.example]" in shown
    assert all(unicodedata.category(c)[0] != "C" for c in shown.replace("\n", ""))
    plain = graph_summary(graph.with_widths([graph.widths[0], replace(hostile, name="x", frozen="y"), graph.widths[2]]))
    assert sum(line.startswith("*") for line in shown.splitlines()) == sum(
        line.startswith("*") for line in plain.splitlines()
    )


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│┃ ").split("│")]


def rows_of(table: str) -> list[list[str]]:
    return [cells(line) for line in table.splitlines() if line.startswith("│")]


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


@pytest.mark.parametrize("limit", [None, 60, 6])
@pytest.mark.parametrize("blocks", [2, 40])
def test_the_rows_of_a_cost_table_sum_to_the_total(blocks: int, limit: int | None) -> None:
    graph = make_graph(blocks)
    plan = graph.plan({"stem.out_channels": range(32), "layer.1.conv1.out_channels": range(32, 96)})
    *rows, total = rows_of(graph.table("macs", plan, limit=limit))
    assert len(rows) == 2 + 2 * blocks if limit is None else len(rows) <= limit
    assert total[0] == "total"
    assert sum(number(row[1]) for row in rows) == number(total[1]) == graph.macs
    assert sum(number(row[3]) for row in rows) == number(total[3]) == graph.cost("macs", plan.sizes)


def test_a_cost_table_names_every_module_its_share_and_what_is_left() -> None:
    graph = make_graph()
    plan = graph.plan({"stem.out_channels": range(32)})
    names = ["stem", "head", "layer.0.conv1", "layer.1.conv1", "layer.0.conv2", "layer.1.conv2", "total"]
    assert [row[0] for row in rows_of(graph.table("params"))] == names
    stem, head, *_ = rows_of(graph.table("params", plan))
    assert stem == ["stem", "192", "0.1%", "96", "0.1%", "50%"]
    assert head == ["head", "640", "0.5%", "320", "0.5%", "50%"]


def test_siblings_share_a_line_of_a_long_cost_table_and_the_smallest_are_summed() -> None:
    graph = make_graph(40)
    lines = [row[0] for row in rows_of(graph.table())]
    assert lines == ["stem", "head", "layer.{0..39}.conv{1,2} (×80)", "total"]
    assert [row[0] for row in rows_of(graph.table(limit=2))][-2] == "… 2 smaller lines; limit=None shows them"


@pytest.mark.parametrize("width", [48, 60, 80, 120])
def test_a_cost_table_fits_the_width_given(width: int) -> None:
    graph = make_graph(2, name="a_rather_long_name.of_a_module.{}.out_channels")
    plan = graph.plan({"stem.out_channels": range(32)})
    table = graph.table("macs", plan, width=width)
    assert max(map(len, table.splitlines())) <= width
    assert len(rows_of(table)) == 7
    assert {row[0][-5:] for row in rows_of(table)} == {"stem", "head", "conv1", "conv2", "total"}


def test_a_plan_of_another_model_has_no_place_in_a_cost_table() -> None:
    graph = make_graph()
    with pytest.raises(PlanError, match="of another model"):
        cost_table(replace(graph, fingerprint="another"), "macs", graph.plan({"stem.out_channels": range(32)}))
    with pytest.raises(PlanError, match="no cost is called 'mac'"):
        graph.table("mac")


def test_an_empty_cost_has_a_table_too() -> None:
    assert rows_of(make_graph().with_cost("nothing", Polynomial.of([])).table("nothing")) == [["total", "0"]]
