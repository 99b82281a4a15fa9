"""What makes two processes on one kind of machine compute the same bits. To be imported before torch.

    prepare()       variables of the environment that libraries read when they are loaded
    fresh()         one thread, and every random generator at its beginning

Vector instructions are held at AVX2, so that processors with and without AVX-512 sum in the same order.
"""

from __future__ import annotations

import os
import random
import warnings

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Haswell",
    "MKL_NUM_THREADS": "1",
    "MKL_CBWR": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "CUDA_VISIBLE_DEVICES": "",
}


def prepare() -> None:
    """Set the environment of this process."""
    os.environ.update(_ENVIRONMENT)
    warnings.simplefilter("ignore")


def fresh() -> None:
    """What every case begins with."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def surroundings() -> dict[str, str]:
    """What the bits depend on besides the code: kept beside the digests, to explain a difference."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"processor": _processor()}
    for name in ("torch", "numpy", "scipy", "scikit-learn", "timm", "torchvision", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            said = dict(line.split(":", 1) for line in lines if ":" in line)
    except OSError:
        return "unknown"
    fields = {key.strip(): value.strip() for key, value in said.items()}
    return ", ".join(fields.get(key, "?") for key in ("model name", "cpu family", "model"))
