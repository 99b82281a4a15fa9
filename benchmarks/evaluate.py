"""How many candidates a second are costed: python benchmarks/evaluate.py

Random widths for every free width of timm's resnet50, in batches; macs alone, then with parameters and weight bytes. A
sample is held against one-at-a-time evaluation. Writes the section "Evaluating candidates" of docs/benchmarks.md.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import secateur
from benchmarks.models import CASES
from benchmarks.page import machine, write_section

_BATCHES = (1_000, 10_000, 100_000)
_METRICS = (("macs",), ("macs", "params", "weight_bytes"), ("peak_activation_bytes",))
_REPEATS = 5


def rate(graph: secateur.Graph, metrics: tuple[str, ...], num: int) -> float:
    """Candidates a second, by the median of some repeats; raises AssertionError if one is costed wrongly."""
    generator = np.random.default_rng(0)
    batch = {w.name: generator.integers(1, w.size, num, endpoint=True) for w in graph.free}
    times = []
    costs = {}
    for _ in range(_REPEATS):
        start = time.perf_counter()
        costs = {metric: graph.cost(metric, batch) for metric in metrics}
        times.append(time.perf_counter() - start)
    for i in (0, num // 2, num - 1):
        one = {name: int(counts[i]) for name, counts in batch.items()}
        assert all(int(costs[metric][i]) == graph.cost(metric, one) for metric in metrics)
    return num / median(times)


def main() -> None:
    """Measure, print, and write the table."""
    torch.set_num_threads(1)
    case = CASES["resnet50"]
    graph = secateur.trace(case.build(), case.inputs(), check=False)
    lines = [
        f"`python benchmarks/evaluate.py`: timm resnet50, {len(graph.free)} free widths; {machine(1)}.",
        "",
        "| costs | " + " | ".join(f"batches of {num:,}" for num in _BATCHES) + " |",
        "|---|" + "---|" * len(_BATCHES),
    ]
    for metrics in _METRICS:
        rates = [f"{rate(graph, metrics, num):,.0f} / s" for num in _BATCHES]
        lines.append(f"| {', '.join(metrics)} | {' | '.join(rates)} |")
        print(lines[-1], flush=True)
    write_section("Evaluating candidates", "\n".join(lines))


if __name__ == "__main__":
    main()
