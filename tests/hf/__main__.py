"""The table of families: `python -m tests.hf [family …]`; with no family all of them, and docs/families.md is written."""

import sys
from pathlib import Path

from tests.hf.trips import FAMILIES, ROLES, Trip, entries, taken

DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"
OPENING = """# Families of transformers

What of each family can be narrowed, and whether stock `from_pretrained` takes the result. Each is the zoo's tiny model, called
with its defaults (cache on): traced with `depth=True`, pruned to 75 % of its parameters by `minitron`, verified, trained a step,
saved, loaded, and compared: equal outputs, equal tokens where it generates. Made by `python -m tests.hf`; all weights are random.

*yes* all of these widths are free, *part* some are, *no* none is; empty: the family has none. *stock*: its own configuration
says the uniform result and its own code loads it; *ours*: no configuration can, and `secateur.hf.from_pretrained` loads it, each
layer with widths of its own.

"""
BY_HAND = "## Why some stay\n"  # from here on the document is not made here


def main() -> None:
    """Print a line a family; end with an error if one failed."""
    asked, known = sys.argv[1:] or list(FAMILIES), entries()
    lines = [f"| family | {' | '.join(ROLES)} | loaded by | parameters | fields that changed |", "|---" * 12 + "|"]
    reasons: dict[str, list[str]] = {}
    failed: list[str] = []
    for name in asked:
        try:
            trip = taken(known[name])
        except Exception as problem:
            failed.append(f"{name}: {type(problem).__name__}: {' '.join(str(problem).split())[:300]}")
            print(f"FAILED {failed[-1]}", flush=True)
            continue
        lines.append(_line(trip))
        print(lines[-1], flush=True)
        for reason in trip.held:
            reasons.setdefault(reason[:140], []).append(name)
    if not sys.argv[1:]:
        held = [f"| {why.replace('|', '/')} | {', '.join(names)} |" for why, names in sorted(reasons.items())]
        parts = [
            OPENING + "\n".join(lines),
            "## What is held, and why\n\n| widths | families |\n|---|---|\n" + "\n".join(held),
        ]
        parts += ["## Failed\n\n" + "\n".join(f"* {one}" for one in failed)] if failed else []
        _, found, by_hand = DOCUMENT.read_text("utf-8").partition(BY_HAND)
        DOCUMENT.write_text("\n\n".join(parts) + f"\n\n{found}{by_hand}", "utf-8")
    sys.exit(1 if failed else 0)


def _line(trip: Trip) -> str:
    loaded = ("stock" if trip.stock else "ours") + (", generates" if trip.generated else "")
    cells = [trip.free.get(role, "") for role in ROLES]
    return f"| {trip.family} | {' | '.join(cells)} | {loaded} | {trip.params:.0%} | {', '.join(trip.fields)} |"


if __name__ == "__main__":
    main()
