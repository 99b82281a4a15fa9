"""Let torchvision, and timm which needs it, import where torchvision's compiled operators cannot load.

A CPU build of torch beside a CUDA build of torchvision: the extension wants CUDA libraries that are not there, and
torchvision's own Python then describes two operators, `nms` and `qnms`, that nobody declared. Declaring them is enough
for everything but detectors, which call them.

Invariant: where the extension does load, nothing is declared here.
"""

import importlib.util
from functools import cache
from pathlib import Path

import torch

_NAMESPACE = "torchvision"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def declare_torchvision_operators() -> torch.library.Library | None:
    """Declare what `import torchvision` looks up. The cache keeps the library alive: its operators die with it."""
    if _extension_loads():
        return None
    library = torch.library.Library(_NAMESPACE, "FRAGMENT")
    for schema in _SCHEMAS:
        if not hasattr(getattr(torch.ops, _NAMESPACE), schema.partition("(")[0]):
            library.define(schema)
    return library


def _extension_loads() -> bool:
    spec = importlib.util.find_spec(_NAMESPACE)
    if spec is None or spec.origin is None:
        return False
    for extension in sorted(Path(spec.origin).parent.glob("_C*")):
        try:
            torch.ops.load_library(str(extension))
        except (ImportError, OSError):
            continue
        return True
    return False
