"""A network as an ONNX file that was run and compared before anyone relies on it.

Invariant: a file is left behind only if ONNX Runtime computes from it what the network computes.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.errors import InputError, VerificationError

TOLERANCE = 1e-3  # of the largest output: float32 in another order of summation, anchored by what exporters achieve


def export_onnx(model: nn.Module, example: Tensor, path: Path) -> float:
    """Export with a free batch size, run with ONNX Runtime on the example; the largest difference, relative.

    Raises InputError where a package is missing, VerificationError where the two disagree.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"exporting needs {', '.join(missing)}; add with: pip install 'secateur[onnx]'")
    model = model.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it remarks on optional packages that are not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's remarks on its own future
        program = torch.onnx.export(
            model, (example,), dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), verbose=False
        )
    assert program is not None
    program.save(str(path), external_data=False)
    difference = max(_difference(model, part, path) for part in (example, example[:1]))
    if not difference <= TOLERANCE:
        path.unlink()
        raise VerificationError(f"ONNX Runtime differs from the network by {difference:.1e} of the largest output")
    return difference


def _difference(model: nn.Module, images: Tensor, path: Path) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        expected = model(images)
    return float((torch.as_tensor(given) - expected).abs().max() / expected.abs().max())
