"""Architectures by name.

    timm:resnet18    torchvision:resnet50    hf:bert    hf:./folder    zoo:digits    and what a user registers

To look at, models are built on the ``meta`` device: no weights are made, so a 7 B decoder costs no more than a small one. A
constructor that needs values gets a real device instead.

Invariant: nothing is downloaded, and a name selects from a package's own list; it is never imported.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from secateur.core.registry import Registry
from secateur.core.text import visible
from secateur.errors import InputError, SecateurError, nearest
from secateur.scenario.folders import from_folder, without_cache
from secateur.scenario.zoo import NETWORKS, example_inputs

Builder = Callable[[], nn.Module]
Options = Mapping[str, object]
Source = Callable[[str, Options], Builder]  # of what stands behind the colon, and of the options

MODELS: Registry[Source] = Registry("source of models")

# What ``import torchvision`` describes but only its compiled extension declares; a CPU-only torch cannot load that
# extension when it was built for CUDA. Declaring is enough for everything but detectors, which call them.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def build(spec: str, device: str = "meta", options: Options | None = None) -> nn.Module:
    """The model of a spec such as ``timm:resnet18``, in eval mode; ``options`` are its constructor's.

    Raises InputError with the nearest known name, and where the model cannot be built.
    """
    source, _, name = spec.partition(":")
    if source not in MODELS or (not name and source in _NAMED):
        raise InputError(
            f"{visible(spec)!r} names no model; write timm:NAME, torchvision:NAME, hf:MODEL_TYPE or zoo:NAME, "
            f"for example timm:resnet18.{nearest(source, MODELS)}"
        )
    builder = MODELS[source](name, options or {})
    try:
        with torch.device(device):
            return builder().eval()
    except SecateurError:
        raise
    except Exception as problem:  # constructors are other people's code
        if device != "meta":
            raise InputError(f"{visible(spec)} cannot be built: {visible(problem)[:300]}") from problem
    return build(spec, "cpu", options)


def default_inputs(model: nn.Module, spec: str) -> list[str]:
    """The input that an architecture says it takes; empty where it does not say."""
    source = spec.partition(":")[0]
    if source == "timm":
        size = getattr(model, "default_cfg", {}).get("input_size", ())
        return ["x".join(map(str, (1, *size)))] if size else []
    if source == "torchvision":
        return ["1x3x224x224"]
    if source == "zoo":
        return example_inputs(model)
    return _transformers_inputs(model)


def import_torchvision() -> ModuleType:
    """torchvision, also where only its Python half can be loaded."""
    try:
        return _import("torchvision")
    except RuntimeError as problem:
        if "torchvision::" not in str(problem):
            raise
    _declare_operators()
    return _import("torchvision")


@cache
def _declare_operators() -> torch.library.Library:
    """The cache keeps the library alive: its operators die with it."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)
    return library


@MODELS.add("timm")
def _from_timm(name: str, options: Options) -> Builder:
    import_torchvision()
    timm = _import("timm")
    _check_name(name, timm.list_models(), "timm")
    return partial(timm.create_model, name, **{**options, "pretrained": False})


@MODELS.add("torchvision")
def _from_torchvision(name: str, options: Options) -> Builder:
    models = import_torchvision().models
    _check_name(name, models.list_models(), "torchvision")
    return partial(models.get_model, name, **{**options, "weights": None, **_without_backbone(models, name)})


@MODELS.add("zoo")
def _from_zoo(name: str, options: Options) -> Builder:
    if importlib.util.find_spec("torchvision"):
        import_torchvision()
    return partial(NETWORKS[name], **options)


def _without_backbone(models: ModuleType, name: str) -> dict[str, None]:
    """Detectors and segmenters load weights for their backbone unless told not to."""
    known = models.get_model_builder(name).__code__.co_varnames
    return {"weights_backbone": None} if "weights_backbone" in known else {}


@MODELS.add("hf")
@MODELS.add("transformers")
def _from_transformers(name: str, options: Options) -> Builder:
    transformers = _import("transformers")
    if importlib.util.find_spec("torchvision"):
        import_torchvision()
    settings = {key: value for key, value in options.items() if key != "task"}
    auto = getattr(transformers, _class_for(options.get("task", "features")))
    if Path(name).is_dir():
        return partial(from_folder, Path(name), auto if "task" in options else None, settings)
    types = transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    by_class = {config: model_type for model_type, config in types.items()}
    model_type = by_class.get(name, name)
    _check_name(model_type, [*types, *by_class], "transformers")

    def builder() -> nn.Module:
        config = transformers.AutoConfig.for_model(model_type, **settings)
        _check_settings(settings, config, transformers.AutoConfig.for_model(model_type))
        for key, value in without_cache(config, settings).items():
            setattr(config, key, value)
        return auto.from_config(config)

    return builder


def _check_settings(settings: Options, config: object, default: object) -> None:
    """Refuse a slip in the name of a field: a configuration keeps whatever it is given, and nothing reads it.

    Fields that models look for without a default, such as ``decoder_start_token_id``, are like none that is there.
    """
    known = [name for name in vars(default) if not name.startswith("_")]
    for key in (key for key in settings if not hasattr(default, key) and key in vars(config)):
        if difflib.get_close_matches(key, known, n=1, cutoff=_A_SLIP):
            kind = type(config).__name__
            raise InputError(f"hf: a {kind} has no field {visible(key)!r}.{nearest(key, known)}")


_CLASSES = {
    "features": "AutoModel",
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "language-model": "AutoModelForCausalLM",
}


def _class_for(task: object) -> str:
    if task not in _CLASSES:
        raise InputError(
            f"hf: no task is called {visible(task)!r}.{nearest(task, _CLASSES)} Known are {', '.join(_CLASSES)}"
        )
    return _CLASSES[str(task)]


def _transformers_inputs(model: nn.Module) -> list[str]:
    main, config = getattr(model, "main_input_name", None), getattr(model, "config", None)
    if main == "input_ids":
        both = getattr(config, "is_encoder_decoder", False)
        return ["input_ids=ids:1x16", *(["decoder_input_ids=ids:1x16"] if both else [])]
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    if main == "pixel_values" and isinstance(size, int):
        return [f"pixel_values=1x{channels}x{size}x{size}"]
    return []


def _import(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as problem:
        if problem.name != package:
            raise
        raise InputError(f"{package} is not installed; add it with: pip install {package}") from None


def _check_name(name: str, known: Iterable[str], source: str) -> None:
    known = list(known)
    if name not in known:
        raise InputError(f"{source} knows no architecture {visible(name)!r}.{nearest(name, known)}")


_A_SLIP = 0.8  # how alike two names are of which one is meant by the other
_NAMED = ("timm", "torchvision", "hf", "transformers", "zoo")  # sources that need a name
