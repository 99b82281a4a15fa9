"""Models that nobody can narrow, told before anything runs; and why one did not run.

    trace(torch.jit.script(net), x)  ->  InputError: the model is TorchScript …: pass the model it was scripted from

Invariant: nothing is run.
"""

from __future__ import annotations

import torch
from torch import nn
from torch._ops import OpOverload
from torch.nn.parameter import is_lazy

from secateur.errors import InputError
from secateur.torch.running.example import Example
from secateur.torch.running.restoring import named_tensors

_NO_GRADIENT = "does not require grad and does not have a grad_fn"
_NO_IDS = "'indices' to have one of the following scalar types"


def refuse_compiled(model: nn.Module) -> None:
    """Raise InputError for a model whose code is fixed to its sizes, or whose weights are not there yet."""
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"the model is TorchScript ({type(model).__name__}), whose weights and code are compiled together and "
            "cannot be narrowed. Pass the model it was scripted or traced from, and script the result."
        )
    if _is_exported(model):
        raise InputError(
            "the model comes from torch.export, whose code has all sizes as constants and cannot be narrowed. Pass the model "
            "it was exported from, and export the result."
        )
    lazy = next((name for name, tensor in named_tensors(model).items() if is_lazy(tensor)), None)
    if lazy is not None:
        raise InputError(
            f"{lazy} has no size yet (a lazy module): run the model once, model(dummy_input), and trace it then"
        )


def _is_exported(model: nn.Module) -> bool:
    """Export leaves a graph of ATen operators; ``torch.fx.symbolic_trace`` one of the calls that the code makes."""
    if not isinstance(model, torch.fx.GraphModule):
        return False
    calls = [node.target for node in model.graph.nodes if node.op == "call_function"]
    return any(isinstance(call, OpOverload) and call.namespace == "aten" for call in calls)


def does_not_run(example: Example, error: Exception) -> str:
    """What to say of a model that failed on an example."""
    kind = type(example.model).__name__
    if any(tensor.is_nested for tensor in example.tensors()) or "Nested" in str(error):
        return (
            f"{kind} is given nested tensors, or makes some: PyTorch has none without data, so that their dimensions cannot be "
            "followed. Trace and prune it on padded batches; the result runs on nested ones as the whole model does."
        )
    if _NO_GRADIENT in str(error):
        return (
            f"{kind} differentiates as it runs (torch.autograd.grad, backward), and a trace runs as torch.no_grad() does. This "
            "is no fault of the dummy_input. Where gradients of what it is given are meant, put that part of forward under "
            "`with torch.enable_grad():`, and it is followed; where those of its own weights are, trace and prune the module "
            "alone that they are taken of."
        )
    listed = [*example.args] and isinstance(example.args[0], list) and not example.kwargs
    hint = "A list is one argument: several arguments are a tuple. " if listed else ""
    if example.kwargs and isinstance(error, TypeError):
        hint = "A dict at the end is keyword arguments: to pass one as it is, put an empty one behind it, (batch, {}). "
    if _NO_IDS in str(error):
        hint = "What an embedding looks up are whole numbers: torch.long, on the command line ids:1x16. "
    if example.method != "forward":
        name = example.method
        return (
            f'{kind}.{name} does not run on what Call("{name}", …) gives it: {type(error).__name__}: {error}. {hint}'
            f"Give what model.{name}(…) takes: a tensor, a tuple, or a tuple ending in a dict of keyword arguments."
        )
    return (
        f"{kind} does not run on this dummy_input: {type(error).__name__}: {error}. {hint}"
        "Pass what model(...) takes: a tensor, a tuple of arguments, a dict of keywords, or a tuple ending in one."
    )
