"""The whole road, on real data: a network is trained, pruned to 40 % of its MACs, and compared with what it was.

    train ──► prune, verify, measure batch norm again ──► fine-tune ──► save ──► restore ──► ONNX ──► one table

Invariant: every number in the table was measured in this run; a step that does not give what it promises raises.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from safetensors.torch import save_file
from torch import nn
from torch.utils.benchmark import Timer

import secateur as sc
from secateur.core.show import text_table
from secateur.core.text import human, visible
from secateur.errors import VerificationError
from secateur.scenario.digits import EPOCHS, FINE_TUNING_EPOCHS, DigitNet, Digits, accuracy, load_digits, train
from secateur.scenario.exporting import export_onnx
from secateur.torch.running.batch_norm import reestimate_batch_norm

BUDGET = {"macs": "40%"}
RATE, FINE_TUNING_RATE = 0.1, 0.05
BATCH = 256  # latency is that of this many images at once, on one thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One network, measured: ``accuracy`` on the test images, ``macs`` of one image, ``latency_ms`` of a batch."""

    accuracy: float
    macs: int
    params: int
    file_bytes: int
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRun:
    """One run: the network before, pruned, and fine-tuned, and what was checked on the way."""

    before: Figures
    pruned: Figures
    tuned: Figures
    verification: str
    onnx_difference: float
    seconds: float


def run(*, seeds: int = 1, folder: str | None = None, quiet: bool = False) -> list[DemoRun]:
    """Run the demo once for each seed and print what came out; ``folder`` keeps the last artefact and ONNX file."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary)
        place.mkdir(parents=True, exist_ok=True)
        outcomes = [run_once(seed, place) for seed in range(seeds)]
    note = f"\nThe artefact and the ONNX file are in {visible(folder)}." if folder else ""
    if not quiet:
        Console(highlight=False, markup=False).print(Text(report(outcomes) + note), soft_wrap=True)
    return outcomes


def run_once(seed: int, folder: Path) -> DemoRun:
    """One seed, from data to ONNX. Raises VerificationError where a restored or exported network is another one."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    data, model = load_digits(), DigitNet()
    images = data.test.images_N1hw
    _train(model, data, "training", EPOCHS, RATE, seed)
    before = figures_of(model, data, _bytes_of(model))
    model, result = sc.prune(model, mode="magnitude", constraints=BUDGET, dummy_input=images[:1])
    reestimate_batch_norm(model, data.train.images_N1hw.split(64))
    pruned = figures_of(model, data, _bytes_of(model))
    _train(model, data, "fine-tuning", FINE_TUNING_EPOCHS, FINE_TUNING_RATE, seed)
    with _progress("saving, restoring, exporting", 2) as step:
        file_bytes = save_and_check(model, images, folder / "digits-pruned")
        step("exporting to ONNX")
        difference = export_onnx(model, images[:BATCH], folder / "digits-pruned.onnx")
    return DemoRun(
        before=before, pruned=pruned, tuned=figures_of(model, data, file_bytes), verification=str(result.verification),
        onnx_difference=difference, seconds=time.perf_counter() - started,
    )  # fmt: skip


def _train(model: nn.Module, data: Digits, title: str, epochs: int, rate: float, seed: int) -> None:
    with _progress(title, epochs) as step:
        train(model, data, epochs=epochs, rate=rate, seed=seed, step=step)


def figures_of(model: nn.Module, data: Digits, file_bytes: int) -> Figures:
    """Measure a network; MACs and parameters are counted on the network itself, not taken from its plan."""
    graph = sc.trace(model, data.test.images_N1hw[:1], check=False)
    return Figures(
        accuracy=accuracy(model, data.test),
        macs=graph.macs,
        params=sum(p.numel() for p in model.parameters()),
        file_bytes=file_bytes,
        latency_ms=_latency_ms(model, data.test.images_N1hw[:BATCH]),
    )


def save_and_check(model: nn.Module, images: torch.Tensor, folder: Path) -> int:
    """Save, restore onto the original architecture, and hold the two against each other; the weights' size in bytes."""
    sc.save(model, folder)
    back = sc.restore(DigitNet(), folder).eval()
    with torch.inference_mode():
        if not torch.equal(back(images), model(images)):
            raise VerificationError("the restored network does not give the saved network's outputs, bit for bit")
    return (folder / "model.safetensors").stat().st_size


def report(outcomes: Sequence[DemoRun]) -> str:
    """The table, and below it what was checked; over several seeds, means with their ranges."""
    columns = [[getattr(o, name) for o in outcomes] for name in ("before", "pruned", "tuned")]
    rows = [
        (title, *(_spread([getattr(m, field) for m in column], show) for column in columns))
        for title, field, show in _ROWS
    ]
    changes = [100 * (o.tuned.accuracy - o.before.accuracy) for o in outcomes]
    lines = [
        text_table("Handwritten digits, pruned to 40 % of the MACs", ("", "before", "pruned", "fine-tuned"), rows),
        f"accuracy change: {_spread(changes, '{:+.2f}'.format)} points",
        outcomes[-1].verification,
        "restored onto the original architecture: bit for bit the same outputs",
        f"ONNX Runtime agrees within {max(o.onnx_difference for o in outcomes):.1e} of the largest output",
        f"{sum(o.seconds for o in outcomes):.0f} s in all, {len(outcomes)} seed{'s' if len(outcomes) > 1 else ''}",
    ]
    return "\n".join(lines)


_ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("test accuracy", "accuracy", "{:.1%}".format),
    ("MACs of an image", "macs", human),
    ("parameters", "params", human),
    ("file, bytes", "file_bytes", human),
    (f"latency of {BATCH}, ms", "latency_ms", "{:.1f}".format),
)


def _spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    if len({show(value) for value in values}) == 1:
        return show(values[0])
    return f"{show(statistics.fmean(values))} ({show(min(values))} … {show(max(values))})"


def _latency_ms(model: nn.Module, images: torch.Tensor) -> float:
    timer = Timer("model(images)", globals={"model": model.eval(), "images": images}, num_threads=1)
    with torch.inference_mode():
        return 1000 * timer.blocked_autorange(min_run_time=0.5).median


def _bytes_of(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file(model.state_dict(), file)
        return file.stat().st_size


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar on the terminal, advanced by each remark; silent where there is no terminal."""
    console = Console(stderr=True)
    texts = (TextColumn("{task.fields[title]}", markup=False), TextColumn("{task.description}", markup=False))
    columns = (texts[0], BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), texts[1])
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, title=title)
        yield lambda remark: progress.update(task, advance=1, description=remark)
