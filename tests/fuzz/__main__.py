"""Counts what the generator makes: `python -m tests.fuzz 2000`.

Prints the time and how often each kind of block occurs (rarest first); stops with an error where a network fails.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import torch

from .networks import TRAPS, kinds, random_network
from .outputs import tensors


def main(count: int) -> None:
    torch.set_num_threads(1)
    found: Counter[str] = Counter(dict.fromkeys(kinds(), 0))
    building = running = 0.0
    for seed in range(count):
        start = time.perf_counter()
        network = random_network(seed, plain=False)
        built = time.perf_counter()
        with torch.no_grad():
            outputs = tensors(network.model(*network.inputs))
        running += time.perf_counter() - built
        building += built - start
        if not outputs or not all(bool(out.isfinite().all()) for out in outputs):
            raise SystemExit(f"seed {seed} has no finite output: {network.recipe}")
        found.update(network.kinds)
    for name, times in sorted(found.items(), key=lambda item: item[1]):
        print(f"{times:6d}  {name}")
    print(
        f"{count} networks, {len(found)} kinds, {len(TRAPS)} traps: built in {building:.1f} s, run in {running:.1f} s"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
