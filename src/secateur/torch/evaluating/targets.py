"""What a network runs on while it is timed.

    eager          PyTorch as it is: the model's device, the threads there are (torch.set_num_threads)
    compiled       torch.compile, static shapes; each network is compiled before it is timed
    onnxruntime    exported, and run in a session on the CPU, with as many threads

Another runtime registers a function of its own: from a model and its arguments to what is called for one pass.

Invariant: what is slow once (compiling, exporting) happens before the function is given back.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from secateur.core.registry import Registry
from secateur.errors import InputError
from secateur.torch.running.example import Example

Pass = Callable[[], object]
Target = Callable[[nn.Module, Example], Pass]

TARGETS: Registry[Target] = Registry("target")


@TARGETS.add("eager")
def eager(model: nn.Module, example: Example) -> Pass:
    """The model as it runs here."""

    def run() -> object:
        with torch.inference_mode():
            return model(*example.args, **example.kwargs)

    return run


@TARGETS.add("compiled")
def compiled(model: nn.Module, example: Example) -> Pass:
    """By torch.compile. Raises InputError where that fails on this machine, or for this model."""
    torch.compiler.reset()  # what was compiled for other networks, or a limit on their number is met and nothing is compiled
    quick = torch.compile(model, dynamic=False)

    def run() -> object:
        with torch.no_grad():
            return quick(*example.args, **example.kwargs)

    try:
        run()
    except Exception as error:
        raise InputError(
            f"target: torch.compile cannot run this model here ({str(error)[:200]}): take 'eager'"
        ) from error
    return run


@TARGETS.add("onnxruntime")
def onnxruntime(model: nn.Module, example: Example) -> Pass:
    """Exported to ONNX. Raises InputError where a package is missing, or the model cannot be exported."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"target: 'onnxruntime' needs {', '.join(missing)}; add with: pip install 'secateur[onnx]'")
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    if any(tensor.device.type != "cpu" for tensor in model.state_dict().values()):
        model = copy.deepcopy(model).cpu()  # what is given may share its tensors with a model in use
    example = example.map(lambda tensor: tensor.cpu())
    session = runtime.InferenceSession(_exported(model, example), options, providers=["CPUExecutionProvider"])
    given = [leaf for leaf in tree_leaves((example.args, example.kwargs)) if isinstance(leaf, torch.Tensor)]
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != len(given):
        raise InputError(f"target: the exported model takes {len(names)} inputs, dummy_input has {len(given)} tensors")
    feed = {name: tensor.detach().numpy() for name, tensor in zip(names, given, strict=True)}
    return lambda: session.run(None, feed)


def _exported(model: nn.Module, example: Example) -> bytes:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it remarks on optional packages that are not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's remarks on its own future
            program = torch.onnx.export(model, example.args, kwargs=example.kwargs, dynamo=True, verbose=False)
    except Exception as error:
        raise InputError(f"target: this model cannot be exported to ONNX ({str(error)[:200]}): take 'eager'") from error
    assert program is not None
    return program.model_proto.SerializeToString()
