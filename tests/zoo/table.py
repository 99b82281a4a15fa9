"""The zoo's results as Markdown: a summary on top, then one row for each architecture.

Invariant: the same verdicts give the same text, timings aside; no path of this machine appears in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import mean, median

from .judge import Verdict

_HEAD = """# The zoo

One architecture of every timm module, every torchvision classifier with segmentation, detection and video backbones,
and tiny configurations of Hugging Face families, all with random weights. Each is traced, pruned to half of its MACs
(half of its parameters where MACs cannot get there, else as far as it goes), verified against the masked network,
traced again to compare costs to the integer, saved, restored bit for bit, and trained for one step. Made by
`python -m tests.zoo`.
"""
_COLUMNS = (
    "architecture | outcome | reached | reachable | free / frozen | exact | trace s | self-check s | verify s |"
    " difference | step | holds back most, or why not"
)
_NUM_REASONS = 15


def report(verdicts: Sequence[Verdict]) -> str:
    """The whole page."""
    ordered = sorted(verdicts, key=lambda v: v.name)
    parts = [_HEAD, _summary(ordered), _reasons(ordered), _not_passed(ordered)]
    for family in dict.fromkeys(v.family for v in ordered):
        rows = "\n".join(_row(v) for v in ordered if v.family == family)
        parts.append(f"## {family}\n\n| {_COLUMNS} |\n|{'---|' * (_COLUMNS.count('|') + 1)}\n{rows}\n")
    return "\n".join(parts)


def _summary(verdicts: Sequence[Verdict]) -> str:
    lines = [
        "| family | architectures | passed | refused | failed | reachable share, mean | median | lowest |"
        " trace s, median | slowest |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    families = list(dict.fromkeys(v.family for v in verdicts))
    for family in [*families, "all"]:
        group = [v for v in verdicts if family in (v.family, "all")]
        outcomes = Counter(v.outcome for v in group)
        shares = [v.anatomy.reachable for v in group if v.anatomy] or [0.0]
        traces = [v.seconds["trace"] for v in group if "trace" in v.seconds] or [0.0]
        lines.append(
            f"| {family} | {len(group)} | {outcomes['passed']} | {outcomes['refused']} | {outcomes['failed']} |"
            f" {mean(shares):.1%} | {median(shares):.1%} | {min(shares):.1%} |"
            f" {median(traces):.2f} | {max(traces):.2f} |"
        )
    return "\n".join([*lines, "", _footnote(verdicts), ""])


def _footnote(verdicts: Sequence[Verdict]) -> str:
    passed = [v for v in verdicts if v.outcome == "passed"]
    bound = sum(not v.reached.startswith("macs") for v in passed)
    untrained = sum(v.training_step == "n/a" for v in passed)
    return (
        "The reachable share is that of parameters in tensors with at least one free width. Of those that passed, "
        f"{bound} were bound in width and pruned by parameters; {untrained} cannot be trained on two copies of their "
        "example even whole (n/a). Differences are relative to the largest output, in float64 where the code allows it."
    )


def _reasons(verdicts: Sequence[Verdict]) -> str:
    architectures: Counter[str] = Counter()
    shares: Counter[str] = Counter()
    for verdict in verdicts:
        for reason, share in _shares(verdict).items():
            architectures[reason] += 1
            shares[reason] += share
    lines = [
        "## What holds parameters back",
        "",
        "| reason | architectures | mean share of parameters in these |",
        "|---|---|---|",
    ]
    ranked = sorted(shares, key=lambda reason: (-shares[reason], reason))
    for reason in ranked[:_NUM_REASONS]:
        lines.append(f"| {_cell(reason)} | {architectures[reason]} | {shares[reason] / architectures[reason]:.1%} |")
    return "\n".join([*lines, ""])


def _shares(verdict: Verdict) -> dict[str, float]:
    if verdict.anatomy is None:
        return {}
    total = sum(verdict.anatomy.reasons.values())
    return {r: n / total * (1 - verdict.anatomy.reachable) for r, n in verdict.anatomy.reasons.items()}


def _not_passed(verdicts: Sequence[Verdict]) -> str:
    rest = [v for v in verdicts if v.outcome != "passed"]
    if not rest:
        return "## Refused or failed\n\nNone.\n"
    rows = [f"* `{v.name}` {v.outcome}: {_cell(v.why)}" for v in rest]
    return "\n".join(["## Refused or failed", "", *rows, ""])


def _row(verdict: Verdict) -> str:
    name = f"| {verdict.name.partition('/')[2]} | {verdict.outcome} | {verdict.reached} |"
    found = verdict.anatomy
    if found is None:
        return f"{name} | | | | | | | | {_cell(verdict.why)} |"
    shares = sorted(_shares(verdict).items(), key=lambda item: -item[1])
    why = (
        verdict.why if verdict.outcome != "passed" else "; ".join(f"{r} ({s:.0%})" for r, s in shares[:2] if s > 0.005)
    )
    times = [f"{verdict.seconds[k]:.2f}" if k in verdict.seconds else "" for k in ("trace", "self_check", "verify")]
    difference = "" if verdict.difference is None else f"{verdict.difference:.1e}"
    return (
        f"{name} {found.reachable:.1%} | {found.num_free} / {found.num_frozen} | {found.num_exact} | "
        f"{' | '.join(times)} | {difference} | {verdict.training_step} | {_cell(why)} |"
    )


def _cell(text: str) -> str:
    """Text that stays in its cell, without the folders of this machine."""
    flat = " ".join(text.replace("|", "\\|").split())
    return re.sub(r"(?:/[\w.+-]+){2,}/(?=[\w.+-]+)", "…/", flat)
