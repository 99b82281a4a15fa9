"""Is this the architecture that the plan was made for?

    sha256( "." ResNet, "conv1" Conv2d, …      the tree of modules, by class name
            "conv1.weight" parameter 64×3×7×7, "bn1.running_mean" buffer, … )

The shapes of buffers do not count: some follow the last input, and a plan checks those it narrows. Values, devices, dtypes,
training flags and hooks do not count either: a model fine-tuned, moved or cast is the same architecture.

Invariant: equal fingerprints mean that every name in a plan finds a tensor of the shape the plan expects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.errors import PlanError

Shape = tuple[int, ...]


def fingerprint(model: nn.Module, shapes: Mapping[str, Shape] | None = None) -> str:
    """The fingerprint of a model; with ``shapes``, of the model if these of its tensors had these shapes."""
    digest = hashlib.sha256()
    for line in sorted(_lines(model, shapes or {})):
        digest.update(line.encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()


def _lines(model: nn.Module, shapes: Mapping[str, Shape]) -> Iterator[str]:
    for name, module in model.named_modules(remove_duplicate=False):
        yield f"module {name!r} {type(module).__name__}"
    for name, tensor in model.named_parameters(remove_duplicate=False):
        yield f"parameter {name!r} {_shape(name, tensor, shapes)}"
    for name, _ in model.named_buffers(remove_duplicate=False):
        yield f"buffer {name!r}"


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
            f"the plan {expected[:12]}…. Apply it to the model it was traced on, or to a fresh one of the same widths."
        )
