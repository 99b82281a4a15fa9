"""The table of families: `python -m tests.hf [family …]`."""

import sys

from tests.hf.families import FAMILIES, round_trip


def main() -> None:
    """Print a line a family, and end with an error if one failed."""
    failed = 0
    for name in sys.argv[1:] or FAMILIES:
        try:
            trip = round_trip(name)
        except Exception as problem:
            failed += 1
            print(f"| {name} | failed | {type(problem).__name__}: {' '.join(str(problem).split())[:160]} |", flush=True)
            continue
        fields = ", ".join(f"{key} {old} → {new}" for key, (old, new) in trip.fields.items())
        whole = "; ".join(sorted({f"{width}: {why}" for width, why in trip.left_whole.items() if ".1." not in width}))
        print(f"| {name} | {trip.params:.0%} | {fields} | {whole} |", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
