"""What each stage does, in a folder of its own: it reads the network as it is, and writes what it gave.

    train, prune, finetune    write the network           measure, export, report    leave it as it is

Invariant: the same stage on the same network gives the same result, whether the run was interrupted before it or not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from secateur.compat.nni import activation
from secateur.core.json import Json
from secateur.core.measurement import Measurement
from secateur.errors import InputError
from secateur.io.artifact import restore, save
from secateur.io.weights import load_weights, save_weights
from secateur.modes import MODES, Mode
from secateur.scenario.checking import own_options
from secateur.scenario.data import Splits, batches, inputs_of
from secateur.scenario.devices import device_of
from secateur.scenario.exporting import export_onnx
from secateur.scenario.models import build
from secateur.scenario.recording import record_of
from secateur.scenario.schema import Export, Finetune, Measure, Prune, Scenario, Train
from secateur.scenario.scores import scores_before, scores_in
from secateur.scenario.training import LOSSES, OPTIMIZERS
from secateur.torch.apply import plans_of
from secateur.torch.evaluating.metrics import METRICS
from secateur.torch.measure import Timings, measure
from secateur.torch.prune import prune
from secateur.torch.running.data import Data
from secateur.torch.running.randomness import seeded
from secateur.torch.training.config import FinetuneConfig
from secateur.torch.training.distillation import Distillation
from secateur.torch.training.finetune import finetune

ARTEFACT, WEIGHTS, MEASUREMENT, ONNX = "model", "weights.safetensors", "measurement.json", "model.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every stage of a run works with; relative paths count from ``base``."""

    scenario: Scenario
    base: Path
    splits: Splits

    @property
    def device(self) -> torch.device:
        """The scenario's device; ``auto`` is a GPU where there is one."""
        return device_of(self.scenario.device)

    def built(self) -> nn.Module:
        """The architecture, with the weights that its constructor draws."""
        spec = self.scenario.model
        with seeded(self.scenario.seed):
            return build(spec.source, "cpu", spec.options)

    def network(self, folder: Path | None, device: torch.device | None = None) -> nn.Module:
        """The network that a stage left in its folder, or the one it all begins with: built, or read."""
        spec, model = self.scenario.model, self.built()
        if folder is not None and (folder / ARTEFACT).is_dir():
            # onto what was narrowed before the run no artefact fits: its own configuration says what it is made of
            narrowed = plans_of(model)
            model = (
                build(f"hf:{folder / ARTEFACT}", "cpu", spec.options) if narrowed else restore(model, folder / ARTEFACT)
            )
        elif folder is not None:
            load_weights(model, folder / WEIGHTS)
        elif spec.artefact is not None:
            restore(model, self.base / spec.artefact)
        elif spec.weights is not None:
            load_weights(model, self.base / spec.weights)
        return model.to(device or self.device)

    def loader(self, part: str, size: int | None = None, seed: int | None = None) -> Data:
        """A part of the data; with a seed in another order each epoch."""
        samples = getattr(self.splits, part)
        loader = batches(samples, size or self.scenario.data.batch_size, seed)
        return Data(loader=loader, collect=inputs_of, num_batches=sys.maxsize, loss=LOSSES[self.scenario.loss])


def keep_network(model: nn.Module, folder: Path) -> None:
    """Write a network: a narrowed one as an artefact, another one as its weights."""
    if plans_of(model):
        save(model, folder / ARTEFACT)
    else:
        save_weights(model, folder / WEIGHTS)


def score_with(context: Context, metric: str) -> Callable[[nn.Module], float]:
    """What scores a network on the validation part; higher is better, whatever the metric."""
    judge, data = METRICS[metric], context.loader("valid")
    sign = 1.0 if judge.higher_is_better else -1.0

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            values = [judge.per_sample(data.output(model, batch), batch) for batch in data.batches(model)]
        return sign * judge.of_mean(float(torch.cat(values).mean()))

    return score


def train_stage(
    context: Context, stage: Train | Finetune, before: Path | None, teacher: Path | None, folder: Path
) -> Mapping[str, Json]:
    """Train, and leave the best of it or the last."""
    model = context.network(before)
    taught = None
    if isinstance(stage, Finetune) and stage.distil:
        taught = Distillation(teacher=context.network(teacher), weight=stage.distil, temperature=stage.temperature)
    metric = "accuracy" if context.splits.classes else "cross_entropy"
    result = finetune(
        model,
        context.loader("train", stage.batch_size, seed=context.scenario.seed).loader,
        epochs=stage.epochs,
        score_func=score_with(context, metric) if stage.keep == "best" else None,
        teacher=taught,
        config=_training_options(context, stage),
    )
    keep_network(model, folder)
    return {
        "losses": list(result.losses),
        "scores": list(result.scores),
        "best_epoch": result.best_epoch,
        "said": str(result),
    }


def _training_options(context: Context, stage: Train | Finetune) -> FinetuneConfig:
    make = OPTIMIZERS[stage.optimizer]
    return FinetuneConfig(
        optimizer=lambda parameters: make(parameters, stage.lr, stage.weight_decay),
        collect_func=inputs_of,
        loss_func=LOSSES[stage.loss or context.scenario.loss],
        scheduler=stage.scheduler,
        patience=stage.patience,
        seed=context.scenario.seed,
    )


def prune_stage(context: Context, stage: Prune, before: Path | None, search: Path, folder: Path) -> Mapping[str, Json]:
    """Prune under the constraints; what the search saw is kept, and so is its journal until then."""
    model = context.network(before, None if stage.device is None else device_of(stage.device))
    mode = mode_of(context, stage, model, search)
    example = context.splits.example()
    scores = scores_before(model, example, mode)
    with seeded(context.scenario.seed):
        model, result = prune(model, mode, stage.constraints or None, example)
    keep_network(model, folder)
    record = record_of(stage, result, scores or scores_in(search, result.plan, mode.steps))
    return {"pruning": record.model_dump(mode="json"), "said": result.verification.lines[0]}


def mode_of(context: Context, stage: Prune, model: nn.Module, search: Path | None) -> Mode:
    """The mode with the scenario's data. Raises ConfigError for options that are the scenario's own."""
    options = own_options(stage)
    data = context.loader("train")
    given: dict[str, object] = {"data_loader": data.loader, "collect_func": inputs_of, "loss_func": data.loss}
    if stage.compat is not None:
        return activation(model, {**options, **given})
    kind = MODES[stage.mode]
    if "score_func" in kind.model_fields:
        given["score_func"] = score_with(context, stage.score)
    if "checkpoint" in kind.model_fields and search is not None:
        given["checkpoint"] = str(search)
    return kind.read({**options, **given})


def measure_stage(context: Context, stage: Measure, name: str, before: Path | None, folder: Path) -> Mapping[str, Json]:
    """Measure on the test part."""
    model = context.network(before)
    found = measure(
        model,
        context.loader(stage.part),
        stage.metrics,
        dummy_input=context.splits.example(),
        name=name,
        timings=Timings(batch_sizes=stage.batch_sizes, num_runs=stage.num_runs, num_warmup=stage.num_warmup),
    )
    classes = context.splits.classes if len(context.splits.classes) == len(found.confusion) else ()
    found = found.model_copy(update={"classes": classes})
    (folder / MEASUREMENT).write_text(found.to_json(), encoding="utf-8")
    return {"said": _brief(found)}


def _brief(found: Measurement) -> str:
    told = [f"{name} {quality.value:.4g}" for name, quality in found.quality.items()]
    told += [f"{timing.median_ms:.3g} ms for {timing.batch_size}" for timing in found.times]
    return ", ".join([*told, f"{found.costs['macs']:,} MACs", f"{found.costs['params']:,} parameters"])


def export_stage(context: Context, stage: Export, before: Path | None, folder: Path) -> Mapping[str, Json]:
    """The network as people take it away, and as ONNX, which is run and compared."""
    model = context.network(before, torch.device("cpu"))
    keep_network(model, folder)
    if not stage.onnx:
        return {"said": "saved"}
    example = context.splits.example()
    if not isinstance(example, torch.Tensor):
        raise InputError("export: onnx is for networks that take one tensor; this one takes several: leave onnx out")
    difference = export_onnx(model, torch.cat([example, example]), folder / ONNX)
    return {"said": f"saved, ONNX Runtime agrees within {difference:.1e} of the largest output"}
