"""Torch-Pruning's side of the speed comparison: its dependency graph, pruner and one step, as its documentation has it.

Group L2 importance, half of the channels, the classifier kept. Runs in an environment of its own, without Secateur.
"""

from __future__ import annotations

import time
from typing import Any

import torch_pruning
from torch import nn

from benchmarks.models import Case
from benchmarks.serving import serve

_RATIO = 0.5


def measure(case: Case, model: nn.Module, inputs: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Prune in place to half of the channels."""
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    options = _heads(model)
    start = time.perf_counter()
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        inputs,
        importance=importance,
        pruning_ratio=_RATIO,
        ignored_layers=[model.get_submodule(case.head)],
        **options,
    )
    initialised = time.perf_counter()
    pruner.step()
    done = time.perf_counter()
    return {"seconds": done - start, "steps": {"init": initialised - start, "step": done - initialised}}


def _heads(model: Any) -> dict[str, Any]:
    """What the peer has to be told about a decoder's heads."""
    if not hasattr(model, "lm_head"):
        return {}
    heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
    number: dict[nn.Module, int] = {}
    for layer in model.model.layers:
        attention = layer.self_attn
        number |= {attention.q_proj: heads, attention.k_proj: kv_heads, attention.v_proj: kv_heads}
    return {"num_heads": number, "prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": _RATIO}


if __name__ == "__main__":
    serve(measure)
