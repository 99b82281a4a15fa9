"""Kenning's scenario files: `model_wrapper`, `dataset`, `optimizers`, `runtime`, each with a `type` and `parameters`.

    "optimizers": [{"type": "nni", "parameters": {"pruner_type": "mean_rank", "config_list": […], "finetuning_epochs": 3, …}}]
        ──►  {do: prune, compat: {…}}, {do: finetune, epochs: 3, …}, {do: measure}, {do: export}

The types are ours (`torchvision:mobilenet_v2`, `digits`, `nni`), the parameters theirs.

Invariant: every parameter is used, or is named by an error that says why it is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Literal, TypeGuard

from pydantic import Field, JsonValue

from secateur.compat.nni import ActivationOptions
from secateur.core.text import visible
from secateur.errors import ConfigError, nearest
from secateur.scenario.schema import Scenario, read_scenario

_PARTS = ("model_wrapper", "dataset", "optimizers", "runtime", "platform", "protocol")
_OPTIMIZERS = {"torch.optim.SGD": "plain_sgd", "torch.optim.Adam": "adam", "torch.optim.AdamW": "adamw",
               "torch.optim.RMSprop": "rmsprop"}  # fmt: skip
_CRITERIA = {"torch.nn.CrossEntropyLoss": "cross_entropy", "torch.nn.MSELoss": "mean_squared_error"}
_SHIPPED = ("digits", "digits_in_colour", "wine", "breast_cancer")  # with a package: they have no path
_ACTIVATION = ("pruner_type", "config_list", "training_steps", "mode", "activation", "exclude_last_layer")

Values = Mapping[str, JsonValue]


class NNIPruningOptimizer(ActivationOptions):
    """The parameters of Kenning's optimizer of that name, with its defaults.

    ``confidence`` was the number of samples for NNI's guess at which weights are zero; here nothing is guessed, so it has no
    effect. ``pruning_on_cuda`` says where pruning runs. ``location`` is ``host``.
    """

    called = "parameters"

    criterion: str = "torch.nn.CrossEntropyLoss"
    optimizer: str = "torch.optim.SGD"
    finetuning_learning_rate: float = Field(default=0.001, gt=0)
    finetuning_batch_size: int = Field(default=32, ge=1)
    finetuning_epochs: int = Field(default=3, ge=0)
    confidence: int | None = Field(default=None, ge=1)
    pruning_on_cuda: bool = True
    compiled_model_path: str | None = None
    model_framework: Literal["torch"] = "torch"
    location: Literal["host"] = "host"


def is_kenning(data: object) -> TypeGuard[dict[str, JsonValue]]:
    """Whether this is one of Kenning's scenarios."""
    return isinstance(data, dict) and "model_wrapper" in data and "stages" not in data


def scenario_of(data: Values, what: str, *, name: str) -> Scenario:
    """The same in our words. Raises ConfigError for what cannot be meant here."""
    for key in data:
        if key not in _PARTS:
            raise ConfigError(f"{what}: unknown key {key!r}.{nearest(key, _PARTS)} Known are {', '.join(_PARTS)}.")
    source, wrapper = _part(data, "model_wrapper", what)
    kind, dataset = _part(data, "dataset", what)
    optimizers = data.get("optimizers") or []
    if not isinstance(optimizers, list):
        raise ConfigError(f"{what}: optimizers is a list, not {type(optimizers).__name__}")
    steps = [stage for n, entry in enumerate(optimizers) for stage in _stages(entry, f"{what}: optimizers[{n}]")]
    _runtime(data, what)
    label = wrapper.pop("model_name", None) or name
    made: dict[str, object] = {
        "name": PurePath(str(label)).name,
        "model": _model(source, wrapper),
        "data": _data(kind, dataset, what),
        "stages": [*steps, {"do": "measure", "name": str(label)}],
    }
    return read_scenario(made, what)


def _part(data: Values, key: str, what: str) -> tuple[str, dict[str, JsonValue]]:
    entry = data.get(key)
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str) or set(entry) - {"type", "parameters"}:
        raise ConfigError(f'{what}: {key} is written {{"type": …, "parameters": {{…}}}}')
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ConfigError(f"{what}: {key}: parameters are an object, not {type(parameters).__name__}")
    return str(entry["type"]), dict(parameters)


def _model(source: str, parameters: dict[str, JsonValue]) -> dict[str, object]:
    """A `model_path` that is a folder is an artefact of ours, one that is a file holds weights."""
    path = parameters.pop("model_path", None)
    place = "artefact" if path is not None and not Path(str(path)).suffix else "weights"
    return {"source": source, "options": parameters, **({place: path} if path is not None else {})}


def _data(kind: str, parameters: dict[str, JsonValue], what: str) -> dict[str, object]:
    layout = parameters.pop("image_memory_layout", "NCHW")
    if layout != "NCHW":
        raise ConfigError(f"{what}: dataset: image_memory_layout is NCHW in PyTorch, not {visible(layout)}")
    size = parameters.pop("inference_batch_size", parameters.pop("batch_size", 64))
    root = parameters.pop("dataset_root", None)
    if root is not None and kind not in _SHIPPED:
        parameters["path"] = root
    return {"source": kind, "batch_size": size, "options": parameters}


def _runtime(data: Values, what: str) -> None:
    """Their runtime only says where the optimized model was left: ours is in the folder of the run."""
    if "runtime" in data:
        _, parameters = _part(data, "runtime", what)
        strange = set(parameters) - {"save_model_path", "disable_performance_measurements"}
        if strange:
            raise ConfigError(f"{what}: runtime: {visible(min(strange))!r} has no counterpart: take it out")


def _stages(entry: JsonValue, where: str) -> list[dict[str, object]]:
    kind, parameters = _part({"optimizer": entry}, "optimizer", where)
    if kind.rpartition(".")[2] not in ("nni", "NNIPruningOptimizer"):
        raise ConfigError(
            f"{where}: the one optimizer that is read is nni (NNIPruningOptimizer), not {visible(kind)!r}"
        )
    options = NNIPruningOptimizer.read(parameters)
    if options.confidence is not None:
        warnings.warn(f"{where}: confidence has no effect: which weights go is known, not guessed", stacklevel=2)
    compat = {key: parameters[key] for key in _ACTIVATION if key in parameters}
    device = None if options.pruning_on_cuda else "cpu"
    stages: list[dict[str, object]] = [{"do": "prune", "mode": "activation", "compat": compat, "device": device}]
    if options.finetuning_epochs:
        stages.append(_finetuning(options, where))
    if options.compiled_model_path is not None:
        stages.append({"do": "export", "name": PurePath(options.compiled_model_path).stem})
    return stages


def _finetuning(options: NNIPruningOptimizer, where: str) -> dict[str, object]:
    return {
        "do": "finetune",
        "epochs": options.finetuning_epochs,
        "batch_size": options.finetuning_batch_size,
        "lr": options.finetuning_learning_rate,
        "optimizer": _ours(options.optimizer, _OPTIMIZERS, f"{where}: optimizer"),
        "loss": _ours(options.criterion, _CRITERIA, f"{where}: criterion"),
        "weight_decay": 0.01 if options.optimizer == "torch.optim.AdamW" else 0.0,
        "scheduler": "constant",
        "keep": "last",
    }


def _ours(name: str, known: Mapping[str, str], where: str) -> str:
    """Their path to a class names one of ours; nothing is imported."""
    if name not in known and name not in known.values():
        raise ConfigError(
            f"{where}: {visible(name)!r} is not known.{nearest(name, known)} Known are {', '.join(known)}"
        )
    return known.get(name, name)
