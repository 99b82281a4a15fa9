"""Torch-Pruning on the same network, in a process of its own.

    python -m benchmarks.language.peers JOB.json       in the peer's environment: prune and save

It takes no grouped queries, so it is given the same function with a key and a value head for each query head (the pairs
repeated); the budget stays that of the original. Group importance as its documentation has it, of magnitudes or of first-order
Taylor terms on the calibration text; one ratio for heads, feed-forward and hidden width, found by bisection.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.language.elsewhere import run_elsewhere
from benchmarks.language.network import build, loss_of

_BISECTIONS = 7
Recipe = Callable[[nn.Module, int, Any], None]


def torch_pruning_recipes(python: str) -> dict[str, Recipe]:
    """Its two importances, as methods."""
    return {f"Torch-Pruning, {kind}": _in_process(python, kind) for kind in ("magnitude", "Taylor")}


def _in_process(python: str, kind: str) -> Recipe:
    def prune(model: Any, params: int, text: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            state = {f"model.{name}": t.contiguous() for name, t in model.state_dict().items()}
            ids = torch.stack([ids for batch in text.calibration[:8] for ids in batch["input_ids"]])
            save_file({**state, "ids": ids}, f"{folder}/in.safetensors")
            job = {"folder": folder, "params": params, "kind": kind}
            run_elsewhere(python, "benchmarks.language.peers", job, seconds=600)
            pruned = torch.load(f"{folder}/out.pt", weights_only=False)  # written by our own process, just now
        model.__dict__.clear()
        model.__dict__.update(pruned.__dict__)

    return prune


def _multi_head(state: dict[str, Tensor]) -> Any:
    """The same function without groups: each key and value head is repeated for the queries that read it."""
    model: Any = build(grouped=False)
    config = build().config
    times = config.num_attention_heads // config.num_key_value_heads
    for name in list(state):
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = state[name].unflatten(0, (config.num_key_value_heads, -1))
            state[name] = heads.repeat_interleave(times, 0).flatten(0, 1)
    model.load_state_dict(state)
    return model.eval()


def _pruned(state: dict[str, Tensor], ids: Tensor, ratio: float, kind: str) -> Any:
    import torch_pruning as tp

    model = _multi_head(dict(state))
    if kind == "Taylor":
        for rows in ids.split(32):
            loss_of(model, rows).backward()
    heads = model.config.num_attention_heads
    attention = [layer.self_attn for layer in model.model.layers]
    importance = (
        tp.importance.GroupTaylorImportance() if kind == "Taylor" else tp.importance.GroupMagnitudeImportance(p=2)
    )
    pruner = tp.pruner.MetaPruner(
        model,
        ids[:1],
        importance=importance,
        pruning_ratio=ratio,
        head_pruning_ratio=ratio,
        num_heads={m: heads for a in attention for m in (a.q_proj, a.k_proj, a.v_proj)},
        prune_num_heads=True,
        prune_head_dims=False,
        ignored_layers=[model.lm_head],
    )
    pruner.step()
    model.zero_grad()
    return model


def main(job: dict[str, Any]) -> None:
    """Bisect the ratio until the budget is met, and save the largest network that meets it."""
    stored = load_file(f"{job['folder']}/in.safetensors")
    ids = stored.pop("ids")
    state = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    low, high, best = 0.0, 0.95, None
    for _ in range(_BISECTIONS):
        ratio = (low + high) / 2
        model = _pruned(state, ids, ratio, job["kind"])
        if sum(p.numel() for p in model.parameters()) <= job["params"]:
            best, high = model, ratio
        else:
            low = ratio
    if best is None:
        raise SystemExit("no ratio meets the budget")
    loss_of(best, ids[:1])
    torch.save(best, f"{job['folder']}/out.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(json.loads(sys.argv[1]))
