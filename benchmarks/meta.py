"""Large networks: python benchmarks/meta.py

1. A Llama-3-8B-shaped decoder on meta weights is traced: seconds, and peak memory of the process.
2. The 1.26 B decoder in bfloat16 is narrowed in place: peak memory while `apply` runs, relative to the network's weights.
3. Layers of the 1.26 B decoder are scored by `activation_norm`: processor time and memory relative to one pass over the text.

Each in a process of its own. Writes the section "Large networks" of docs/benchmarks.md.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import secateur  # noqa: E402 -- the folder of the package has to be on the path first
from benchmarks.models import BILLION, LLAMA_3_8B, billion_llama, llama  # noqa: E402
from benchmarks.page import machine, write_section  # noqa: E402

_SHARES = (0.28, 0.5, 0.8)
_LAYERS = 4
_GIB = 2**30


class PeakMemory:
    """The largest resident size while the block runs; a thread looks every two milliseconds."""

    def __enter__(self) -> PeakMemory:
        self._process = psutil.Process()
        self.before = self.peak = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.002):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def trace_on_meta() -> dict[str, Any]:
    """Seconds and bytes of tracing eight billion parameters that have no data."""
    with torch.device("meta"):
        model = llama(torch.bfloat16, **LLAMA_3_8B)
        ids = torch.zeros(1, 32, dtype=torch.long)
    built = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    graph = secateur.trace(model, ids)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "steps": dict(graph.seconds),
        "peak": peak,
        "built": built,
        "params": graph.params,
        "free": len(graph.free),
    }


def memory_of_apply(share: float) -> dict[str, Any]:
    """Bytes at the peak of `apply` in place, and of the weights alone."""
    base = psutil.Process().memory_info().rss
    model = billion_llama()
    weights = sum(t.numel() * t.element_size() for t in model.parameters())
    graph = secateur.trace(model, torch.zeros(1, 32, dtype=torch.long), check=False)
    plan = secateur.plan(graph, "l2", {"params": round(share * graph.params)}, allocation="uniform")
    with PeakMemory() as memory:
        secateur.apply(model, plan, in_place=True, verify=False)
    return {"share": share, "weights": weights, "growth": memory.peak - memory.before, "total": memory.peak - base}


def calibration(layers: int) -> dict[str, Any]:
    """Processor seconds of one pass over the text and of minitron's scores on it, by turns, and what each makes memory grow."""
    model = llama(torch.float32, **{**BILLION, "num_hidden_layers": layers, "vocab_size": 8000})
    texts = [{"input_ids": torch.randint(0, 8000, (8, 64))} for _ in range(4)]
    graph = secateur.trace(model, texts[0])
    criterion = secateur.criteria.ActivationNorm(data_loader=texts, collect_func=lambda batch: batch)

    def once() -> None:
        with torch.no_grad():
            for text in texts:
                model(**text)

    ways = {"forward": once, "scores": lambda: criterion(graph, model)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    growth = dict.fromkeys(ways, 0)
    for _ in range(2):
        for way, run in ways.items():
            begun = time.process_time()
            with PeakMemory() as memory:
                run()
            seconds[way].append(time.process_time() - begun)
            growth[way] = max(growth[way], memory.peak - memory.before)
    weights = sum(t.numel() * t.element_size() for t in model.parameters())
    return {"seconds": {way: min(s) for way, s in seconds.items()}, "growth": growth, "weights": weights}


def _apart(job: str, *args: str) -> dict[str, Any]:
    command = [sys.executable, __file__, job, *args]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def report() -> str:
    """Run both in processes of their own; the section as Markdown."""
    meta = _apart("trace")
    lines = [
        f"`python benchmarks/meta.py`; {machine(torch.get_num_threads())}.",
        "",
        f"A Llama-3-8B-shaped decoder ({meta['params']:,} parameters) on meta weights: traced in"
        f" **{meta['seconds']:.1f} s** (self-check {meta['steps']['self_check']:.1f} s of it), {meta['free']} free widths;"
        f" peak of the process **{meta['peak'] / _GIB:.2f} GiB**, of which"
        f" {meta['built'] / _GIB:.2f} GiB are the libraries and the empty network.",
        "",
        "Peak memory of `apply(in_place=True)` on the 1.26 B decoder in bfloat16, relative to its weights:",
        "",
        "| parameters kept | weights | grown during apply | peak / weights |",
        "|---|---|---|---|",
    ]
    for share in _SHARES:
        found = _apart("apply", str(share))
        lines.append(
            f"| {share:.0%} | {found['weights'] / _GIB:.2f} GiB | {found['growth'] / _GIB:.2f} GiB |"
            f" {1 + found['growth'] / found['weights']:.2f}× |"
        )
    found = _apart("calibrate", str(_LAYERS))
    forward, scores = found["seconds"]["forward"], found["seconds"]["scores"]
    grown, alone, weights = (b / _GIB for b in (*reversed(found["growth"].values()), found["weights"]))
    lines += [
        "",
        f"Minitron's scores (`activation_norm`) on {_LAYERS} layers of these widths in float32, four batches of 8 × 64 tokens: "
        f"**{scores / forward:.2f}×** the processor time of one pass over the text ({scores:.1f} s and {forward:.1f} s; what "
        "tells samples apart, one batch and a half here, is in it). "
        f"Memory grew by {grown:.2f} GiB, that of the pass alone by {alone:.2f}; the weights are {weights:.2f}.",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Without arguments the report; with a job's name that job, in this process."""
    match arguments:
        case []:
            text = report()
            print(text)
            write_section("Large networks", text)
        case ["trace"]:
            print(json.dumps(trace_on_meta()))
        case ["apply", share]:
            print(json.dumps(memory_of_apply(float(share))))
        case ["calibrate", layers]:
            print(json.dumps(calibration(int(layers))))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
