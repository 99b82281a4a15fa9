"""What ``secateur doctor`` looks at: versions, devices, and combinations known not to work.

Invariant: looks and reports; changes nothing.
"""

from __future__ import annotations

import platform
from typing import Any

import torch

from secateur.core.show import text_table
from secateur.version import __version__, installed_version

CORE = ("torch", "numpy", "safetensors", "pydantic", "typer", "rich")
EXTRAS = {
    "timm": "secateur inspect timm:…",
    "torchvision": "secateur inspect torchvision:…",
    "transformers": "secateur inspect hf:…",
    "scikit-learn": "secateur demo",
    "onnx": "export to ONNX",
    "onnxscript": "export to ONNX",
    "onnxruntime": "checking an ONNX file",
}


def examine() -> dict[str, Any]:
    """Versions (None where missing), devices and remarks."""
    packages = {"secateur": __version__, **{name: installed_version(name) for name in (*CORE, *EXTRAS)}}
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
        "devices": _devices(),
        "threads": torch.get_num_threads(),
        "remarks": _remarks(packages),
    }


def report(surroundings: dict[str, Any]) -> str:
    """What was looked at, as a table and remarks."""
    rows = [("python", surroundings["python"], ""), ("system", surroundings["system"], "")]
    rows += [(name, shown or "not installed", EXTRAS.get(name, "")) for name, shown in surroundings["packages"].items()]
    rows += [("device", device, "") for device in surroundings["devices"]]
    remarks = surroundings["remarks"] or ["nothing amiss"]
    return "\n".join([text_table("Secateur's surroundings", ("", "version", "needed for"), rows), *remarks])


def _vision_cuda() -> str | None:
    from secateur.scenario.models import import_torchvision

    return getattr(import_torchvision().version, "cuda", None)


def _devices() -> list[str]:
    devices = [f"cpu, {torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i}, {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _remarks(packages: dict[str, str | None]) -> list[str]:
    remarks = []
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        remarks.append("torch is older than 2.6, the oldest that Secateur supports: upgrade it")
    if packages["torchvision"] and _vision_cuda() != torch.version.cuda:
        remarks.append(
            f"torchvision was built for CUDA {_vision_cuda()}, torch for {torch.version.cuda}: its compiled operators "
            "cannot load. Classification models work; detectors need a torchvision built for the same torch"
        )
    missing = [name for name, shown in packages.items() if name in EXTRAS and not shown]
    if missing:
        remarks.append(f"optional packages not installed: {', '.join(missing)}; add them with pip install")
    return remarks
