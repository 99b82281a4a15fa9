"""`python -m tests.wild [--only GLOB] [--draws half,random,equal,least] [--seeds N]`: every wild model, a line each.

Progress as it goes; exits with 1 where one is WRONG.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import textwrap

import torch

from .families import ENTRIES
from .oracle import DRAWS, Verdict, judge


def main() -> int:
    """Judge what was asked for, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.wild", description=__doc__)
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--draws", default=",".join(DRAWS), help="half, random, equal, least")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--wrong", action="store_true", help="print only what is not right")
    parser.add_argument("--light", action="store_true", help="leave out the heavy ones")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    verdicts: list[Verdict] = []
    for name in sorted(fnmatch.filter(ENTRIES, asked.only)):
        for seed in range(0 if asked.light and ENTRIES[name].heavy else asked.seeds):
            verdict = judge(ENTRIES[name], asked.draws.split(","), seed)
            verdicts.append(verdict)
            if not asked.wrong or verdict.outcome != "right":
                print(line(verdict), flush=True)
            if verdict.outcome == "WRONG":
                break
    counts = {kind: sum(v.outcome == kind for v in verdicts) for kind in ("right", "refused", "late", "WRONG")}
    print(", ".join(f"{number} {kind}" for kind, number in counts.items()))
    return 1 if counts["WRONG"] else 0


def line(verdict: Verdict) -> str:
    """A verdict in a line, and its reason below."""
    head = f"{verdict.outcome:8}{verdict.name:44}{verdict.free:4} free{verdict.frozen:4} frozen"
    head += f"{verdict.reachable:6.0%}{verdict.seconds:7.1f} s"
    return head + "".join("\n" + textwrap.indent(text, "    ") for text in textwrap.wrap(verdict.why, 116))


if __name__ == "__main__":
    sys.exit(main())
