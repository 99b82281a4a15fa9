"""Is this the architecture that the plan was made for?

    sha256( "." ResNet, "conv1" Conv2d, …      the tree of modules, by class name
            "conv1" stride (2, 2), padding (3, 3), …      how they read what they are given, where shapes do not show it
            "conv1.weight" parameter 64×3×7×7, "bn1.running_mean" buffer, … )

The shapes of buffers do not count: some follow the last input, and a plan checks those it narrows. Values, devices, dtypes,
training flags, rates of dropout and hooks do not count either: a model fine-tuned, moved or cast is the same architecture.

Invariant: equal fingerprints mean that every name in a plan finds a tensor of the shape the plan expects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.errors import PlanError
from secateur.torch.running.walking import named_buffers, named_modules, named_parameters, transient_names

Shape = tuple[int, ...]

# What forward reads of a layer beside its tensors: of whatever has them, and of the layers of torch.nn. In other modules the
# rest may be a state, which changes as they run.
_GEOMETRY = {"stride", "padding", "output_padding", "dilation", "kernel_size", "padding_mode", "ceil_mode"}
_POOLS = {"count_include_pad", "divisor_override", "return_indices", "output_size", "output_ratio"}
_RESIZING = {
    "scale_factor",
    "size",
    "mode",
    "align_corners",
    "recompute_scale_factor",
    "upscale_factor",
    "downscale_factor",
}
_NORMS = {"eps", "affine", "elementwise_affine", "track_running_stats", "num_groups", "norm_first"}
_CURVES = {"negative_slope", "alpha", "beta", "lambd", "lower", "upper", "min_val", "max_val", "threshold", "value"}
_SEQUENCES = {"num_layers", "bidirectional", "batch_first", "padding_idx", "max_norm", "norm_type", "add_zero_attn"}
_OTHERS = {"start_dim", "end_dim", "dim", "approximate", "nonlinearity", "groups", "num_heads"}
_READ = _GEOMETRY | _POOLS | _RESIZING | _NORMS | _CURVES | _SEQUENCES | _OTHERS
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PLAIN = (bool, int, float, str, type(None))


def fingerprint(
    model: nn.Module, shapes: Mapping[str, Shape] | None = None, standins: Mapping[str, object] | None = None
) -> str:
    """The fingerprint of a model; with ``shapes`` and ``standins``, of the model if these of its tensors had these shapes,
    and these of its modules the attributes of these objects.
    """
    digest = hashlib.sha256()
    for line in sorted(_lines(model, shapes or {}, standins or {})):
        digest.update(line.encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()


def _lines(model: nn.Module, shapes: Mapping[str, Shape], standins: Mapping[str, object]) -> Iterator[str]:
    modules = named_modules(model, once=False)
    # a module that several hold is rewritten under one of its names, and is another under all
    stood_for = {id(module): standins[name] for name, module in modules if name in standins}
    for name, module in modules:
        yield f"module {name!r} {type(module).__name__}"
        held = vars(stood_for.get(id(module), module))
        yield from (f"read {name!r} {key} {_plain(held[key])!r}" for key in _names_read(type(module)) & held.keys())
    for name, tensor in named_parameters(model):
        yield f"parameter {name!r} {_shape(name, tensor, shapes)}"
    made = transient_names(model)  # a table that a run makes, or made, is no part of the architecture
    yield from (f"buffer {name!r}" for name, _ in named_buffers(model) if name not in made)


@cache
def _names_read(kind: type[nn.Module]) -> set[str]:
    torchs = next(base for base in kind.__mro__ if base.__module__.startswith("torch.nn.modules."))
    return _GEOMETRY if torchs in _CONTAINERS else _READ


def _plain(value: object) -> object:
    """Numbers and words, alone or in a row; anything else by its kind, since it may print differently each time."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value))
    return value if type(value) in _PLAIN else type(value).__name__


def _shape(name: str, tensor: Tensor, shapes: Mapping[str, Shape]) -> str:
    if is_lazy(tensor):
        return "not yet known"
    return "×".join(map(str, shapes.get(name, tuple(tensor.shape))))


def check_fingerprint(model: nn.Module, expected: str) -> None:
    """Raise PlanError unless this is the architecture with this fingerprint."""
    found = fingerprint(model)
    if found != expected:
        raise PlanError(
            f"the plan was made for another architecture: {type(model).__name__} has fingerprint {found[:12]}…, "
            f"the plan {expected[:12]}…. Apply it to the model it was traced on, or to a fresh one of the same widths; one that "
            "makes some of its parts when it first runs is run once before it is traced."
        )
