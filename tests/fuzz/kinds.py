"""Each kind of block by itself, between two layers: ``python -m tests.fuzz.kinds 6 [kind or family …]``.

Where a random network is judged wrong, this says which way of writing is at fault. Fails if anything was wrong.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from functools import partial

import torch

from .making import BLOCKS, WAYS
from .networks import network_of
from .sweep import Line, judged


def chosen(names: list[str]) -> list[str]:
    """Kinds by their names or families; the ways in which people write where none is given."""
    wanted = set(names or WAYS)
    return [name for name, kind in BLOCKS.items() if wanted & {name, kind.family}]


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    seeds, wrong = int(sys.argv[1]), 0
    for name in chosen(sys.argv[2:]):
        lines = [judged(partial(network_of, name, seed), seed) for seed in range(seeds)]
        wrong += sum(line["wrong"] is not None for line in lines)
        print(f"{name}: {sum(line['free'] for line in lines)} free widths", flush=True)
        for said, where in _sorted_out(lines).items():
            print(f"    {where}: {said}", flush=True)
    raise SystemExit(1 if wrong else 0)


def _sorted_out(lines: list[Line]) -> dict[str, str]:
    """What was said, and of which seeds."""
    said = {
        line["seed"]: " ".join(f"{word} {line[word]}" for word in ("wrong", "refused") if line[word]) for line in lines
    }
    counted = Counter(sentence.split(" of the largest")[0] for sentence in said.values() if sentence)
    return {
        sentence: f"seeds {', '.join(str(seed) for seed, text in said.items() if text.startswith(sentence))}"
        for sentence in counted
    }


if __name__ == "__main__":
    main()
