"""Graphs, budgets and plans as text tables.

    * layer1.0.conv1.out_channels   channels   exact   [32, 64]   layer1.0.bn1, layer1.0.conv2
      layer4.out_channels           channels   exact   [2048]     …                             (kept: why, below)

A `*` marks what may be narrowed. Siblings (`layer.{0..11}.ffn`) share a line once a network has more widths than fit.

Invariant: only text leaves this module, and no name in it can colour, rewrite or reorder a terminal.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from operator import itemgetter
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

from secateur.core.budget import Budget
from secateur.core.given import check_given
from secateur.core.graph import Graph, Width
from secateur.core.layout import alongs_of
from secateur.core.plan import Plan
from secateur.core.profile import centroid, maximum, minimum, search_space_size
from secateur.core.text import choices_text, family_name, few, human, pattern_of, scientific, visible
from secateur.errors import PlanError

LINES = 60  # above this, siblings share a line; above it again, the middle is left out
_WIDTH = ContextVar("width", default=120)
_NAME_WIDTH = 24  # of a module's name, before columns beside it are dropped
_LABELS = {
    "macs": "MACs",
    "flops": "FLOPs (2 × MACs)",
    "params": "params",
    "params_without_batchnorm": "params without batch norm",
    "weight_bytes": "weight bytes",
    "kv_cache_bytes": "KV cache bytes",
    "peak_activation_bytes": "peak activation bytes",
    "peak_memory_bytes": "peak memory bytes",
}
_T = TypeVar("_T")


@contextmanager
def lines_within(width: int) -> Iterator[None]:
    """Lay tables out for lines of so many characters within this block, 120 otherwise."""
    token = _WIDTH.set(max(width, 40))
    try:
        yield
    finally:
        _WIDTH.reset(token)


def graph_summary(graph: Graph, limit: int | None = LINES) -> str:
    """The profile, the search space, and what is frozen and why; ``limit=None`` gives every width a line of its own."""
    parts = [
        profile_table(graph),
        _search_space(graph, limit),
        f"Number of configurable widths: {len(graph.configurable)}",
        f"Total size of the search space: {scientific(search_space_size(graph))}",
        _frozen(graph, limit),
        "".join(f"Note: {visible(note)}\n" for note in graph.notes).rstrip(),
    ]
    return "\n".join(part for part in parts if part)


def profile(graph: Graph) -> dict[str, dict[str, float]]:
    """Each cost of the smallest, the central and the whole network.

    ``{"macs": {"min": 274338816, "centroid": …, "max": …, "ratio": 16.73}, "params": …}``
    """
    subnets = {"min": minimum(graph), "centroid": centroid(graph), "max": maximum(graph)}
    table: dict[str, dict[str, float]] = {}
    for metric in _metrics(graph):
        row: dict[str, float] = {name: int(graph.cost(metric, counts)) for name, counts in subnets.items()}
        table[metric] = {**row, "ratio": row["max"] / row["min"] if row["min"] else 1.0}
    return table


def profile_table(graph: Graph) -> str:
    """The profile as a table."""
    table = _table("Profiling results", "Constraint", "min", "centroid", "max", "max/min ratio")
    for metric, row in profile(graph).items():
        counts = [human(row[name]) for name in ("min", "centroid", "max")]
        _add(table, label(metric), *counts, f"{row['ratio']:.2f}")
    return _render(table)


def constraint_table(graph: Graph, budget: Budget | Mapping[str, float | str]) -> str:
    """Each upper bound, and whether the smallest network of the search space meets it."""
    table = _table("Constraints evaluation", "Constraint", "Upper bound", "Smallest", "Satisfiable")
    budget = Budget.of(budget, graph)
    smallest = budget.costs(graph, minimum(graph))
    for metric, bound in budget.bounds.items():
        _add(table, label(metric), human(bound), human(smallest[metric]), str(bool(smallest[metric] <= bound)))
    return _render(table)


def plan_table(plan: Plan, limit: int | None = LINES) -> str:
    """What each width was and becomes; siblings that change alike share a line once there are many."""
    was = _sizes_before(plan)
    changes = [(name, was.get(name, 1), plan.sizes[name]) for name in plan.kept]
    table = _table("Plan", "Width", "was", "becomes", "kept")
    groups, left_out = _shorten(_families(changes, limit, itemgetter(0), itemgetter(slice(1, 3))), limit)
    for i, group in enumerate(groups):
        if left_out and i == _head(limit):
            _add(table, f"… {left_out} more lines; limit=None shows them", "", "", "")
        _, before, after = group[0]
        _add(table, _named([name for name, _, _ in group]), str(before), str(after), f"{after / before:.0%}")
    whole = len(plan.sizes) - len(plan.kept)
    return f"{_render(table)}\n{len(plan.kept)} widths narrowed, {whole} whole, {len(plan.edits)} attributes rewritten"


def cost_table(
    graph: Graph, metric: str, plan: Plan | None = None, *, limit: int | None = LINES, width: int | None = None
) -> str:
    """A cost module by module: what each takes of it, and with a plan what is left. The rows sum to the total."""
    if plan is not None:
        check_given("table", "plan", plan, Plan)
    if plan is not None and plan.fingerprint != graph.fingerprint:
        raise PlanError("this plan is of another model than this graph: tabulate it with the graph it was made from")
    before = graph.cost_by_module(metric)
    after = None if plan is None else graph.cost_by_module(metric, plan.sizes)
    rows = _module_rows(before, after, limit)
    wholes = [sum(amounts) for amounts in zip(*(row[1] for row in rows), strict=True)] or [0] * (2 if after else 1)
    shown = [_cost_cells(name, amounts, wholes) for name, amounts in [*rows, ("total", wholes)]]
    heads = [label(metric), "share"] if after is None else ["was", "share", "becomes", "share", "left"]
    return _fitting(f"{label(metric)} by module", ["Module", *heads], shown, width or _WIDTH.get())


def label(metric: str) -> str:
    """A metric as tables call it: MACs are MACs, never a bare FLOPs."""
    return _LABELS.get(metric, visible(metric))


def text_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Any table in the manner of these."""
    table = _table(title, *columns)
    for row in rows:
        _add(table, *row)
    return _render(table)


_Row = tuple[str, Sequence[float]]  # what a line is called, and its amounts: one, or before and after


def _module_rows(before: Mapping[str, float], after: Mapping[str, float] | None, limit: int | None) -> list[_Row]:
    """A line a module in the model's order; siblings together once they are many, then the smallest summed in one."""
    sides = [before] if after is None else [before, after]
    modules = list(dict.fromkeys(name for side in sides for name in side))
    groups = _families(modules, limit, lambda name: name, lambda name: ())
    rows: list[_Row] = [(_named(group) or "(the model itself)", _sums(sides, group)) for group in groups]
    if limit is None or len(rows) <= limit:
        return rows
    largest = set(sorted(range(len(rows)), key=lambda i: -rows[i][1][0])[: limit - 1])
    rest = [amounts for i, (_, amounts) in enumerate(rows) if i not in largest]
    together = f"… {len(rest)} smaller lines; limit=None shows them"
    return [*(rows[i] for i in sorted(largest)), (together, [sum(amounts) for amounts in zip(*rest, strict=True)])]


def _sums(sides: Sequence[Mapping[str, float]], group: Sequence[str]) -> list[float]:
    return [sum(side.get(name, 0) for name in group) for side in sides]


def _cost_cells(name: str, amounts: Sequence[float], wholes: Sequence[float]) -> list[str]:
    cells = [name]
    for amount, whole in zip(amounts, wholes, strict=True):
        cells += [_exactly(amount), f"{amount / whole:.1%}" if whole else ""]
    if len(amounts) > 1:
        cells.append(f"{amounts[1] / amounts[0]:.0%}" if amounts[0] else "")
    return cells


def _exactly(amount: float) -> str:
    return f"{amount:,}" if isinstance(amount, int) else f"{amount:,.4g}"


def _fitting(title: str, heads: list[str], rows: list[list[str]], width: int) -> str:
    """A table no wider than this: shares go first, then the beginnings of names. The last row is the total."""
    columns, room = range(len(heads)), 0
    for dropped in ((), ("share",), ("share", "left")):
        columns = [i for i, head in enumerate(heads) if head not in dropped]
        taken = sum(max(len(row[i]) for row in [heads, *rows]) for i in columns[1:])
        room = width - taken - 3 * len(columns) - 1  # a border and a blank on each side of every cell
        if room >= min(_NAME_WIDTH, max(len(row[0]) for row in rows)):
            break
    table = Table(title=title, title_style="", header_style="", box=box.HEAVY_HEAD)
    for i in columns:
        table.add_column(heads[i], justify="right" if i else "left", no_wrap=True)
    for number, row in enumerate(rows):
        name, *cells = (row[i] for i in columns)
        table.add_row(_ending(visible(name), room), *cells, end_section=number == len(rows) - 2)
    return _render(table, width)


def _ending(name: str, room: int) -> str:
    """A name cut at its beginning: its end says more."""
    return name if len(name) <= room else "…" + name[len(name) - max(room - 1, 1) :]


def _metrics(graph: Graph) -> list[str]:
    known = [metric for metric in _LABELS if metric in graph.costs]
    return known + sorted(metric for metric in graph.costs if metric not in _LABELS)


def _search_space(graph: Graph, limit: int | None) -> str:
    groups, left_out = _shorten(_families(graph.widths, limit, lambda w: w.name, _alike), limit)
    rows = [_width_row(widths) for widths in groups]
    room = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
    lines = ["  ".join([*(c.ljust(n) for c, n in zip(row, room, strict=False)), row[4]]) for row in rows]
    if left_out:
        lines.insert(_head(limit), f"  … {left_out} more lines; limit=None shows them")
    rule = "-" * min(max(map(len, lines), default=0), _WIDTH.get())
    return "\n".join(["Search space summary:", rule, *(_cut(line, limit) for line in lines), rule])


def _width_row(widths: Sequence[Width]) -> list[str]:
    """Mark, name, kind, choices and users of a width, or of siblings that are alike."""
    first = widths[0]
    mark = "*" if first.frozen is None and len(first.choices) > 1 else " "
    shown = choices_text(first.choices if first.frozen is None else (first.size,))
    exactness = "exact" if first.exact else "inexact"
    cells = (mark, _named([w.name for w in widths]), f"{first.kind}, {exactness}", shown, _users(widths))
    return [visible(cell) for cell in cells]


def _cut(line: str, limit: int | None) -> str:
    line = line.rstrip()
    return line if limit is None or len(line) <= _WIDTH.get() else line[: _WIDTH.get() - 1] + "…"


def _alike(width: Width) -> tuple[Hashable, ...]:
    return width.kind, width.size, width.choices, width.exact, width.frozen is None


def _users(widths: Sequence[Width]) -> str:
    """The modules that carry a width, without the one it is named after."""
    modules: dict[str, list[str]] = {}
    for width in widths:
        owner = width.name.rpartition(".")[0]
        names = dict.fromkeys(use.tensor.rpartition(".")[0] or use.tensor for use in width.uses)
        for name in names:
            if name != owner:
                modules.setdefault(pattern_of(name) if len(widths) > 1 else name, []).append(name)
    return few([family_name(names) for names in modules.values()], 2)


def _frozen(graph: Graph, limit: int | None) -> str:
    reasons: dict[str, list[tuple[str, str]]] = {}
    for width in graph.widths:
        if width.frozen is not None:
            reasons.setdefault(pattern_of(width.frozen), []).append((width.frozen, width.name))
    if not reasons:
        return ""
    table = _table("Frozen: never narrowed, and why", "Widths", "Why", "Which")
    ranked = sorted(reasons.values(), key=len, reverse=True)
    for group in ranked if limit is None else ranked[: max(limit // 3, 1)]:
        names = [name for _, name in group]
        _add(table, str(len(group)), family_name([why for why, _ in group]), few(names, 3 if limit else len(names)))
    if limit is not None and len(ranked) > max(limit // 3, 1):
        _add(table, "…", f"{len(ranked) - max(limit // 3, 1)} more reasons", "limit=None shows them")
    return _render(table)


def _sizes_before(plan: Plan) -> dict[str, int]:
    return {unit.width: unit.size for layout in plan.layouts.values() for axis in layout for unit in alongs_of(axis)}


def _families(
    items: Sequence[_T], limit: int | None, name: Callable[[_T], str], alike: Callable[[_T], tuple[Hashable, ...]]
) -> list[list[_T]]:
    """Each item alone while they fit, else siblings that are alike together."""
    if limit is None or len(items) <= limit:
        return [[item] for item in items]
    groups: dict[tuple[Hashable, ...], list[_T]] = {}
    for item in items:
        groups.setdefault((pattern_of(name(item)), *alike(item)), []).append(item)
    return list(groups.values())


def _shorten(groups: list[list[_T]], limit: int | None) -> tuple[list[list[_T]], int]:
    """The groups without the middle of a list that is still too long, and how many were left out."""
    if limit is None or len(groups) <= limit:
        return groups, 0
    return groups[: _head(limit)] + groups[_head(limit) - limit :], len(groups) - limit


def _head(limit: int | None) -> int:
    return (limit or 0) * 2 // 3


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{family_name(names)} (×{len(names)})"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_style="", header_style="", box=box.HEAVY_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(visible, cells))


def _render(table: Table, width: int | None = None) -> str:
    """A table as text: no colour, no trailing blanks, the same on every machine."""
    console = Console(
        file=io.StringIO(), width=width or _WIDTH.get(), color_system=None, markup=False, highlight=False, emoji=False
    )
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
