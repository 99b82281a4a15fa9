"""Torch-Pruning with the best of its criteria, chosen on the validation part after batch norm re-estimation.

The ratio that meets the budget is found by bisection; one shot. Gradients for the Taylor criterion come from 1,000 training
digits or 400 mails. In the text network heads and feed-forward channels are narrowed, and the hidden width is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from benchmarks.accuracy.networks import VISION, forward
from benchmarks.accuracy.peers.contest import Found, Job, best_of, serve

_IMPORTANCE: dict[str, Callable[[], Any]] = {
    "L1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "L2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "LAMP": lambda: tp.importance.LAMPImportance(p=2),
    "FPGM": lambda: tp.importance.FPGMImportance(p=2),
    "BN scale": tp.importance.BNScaleImportance,
    "Taylor": lambda: tp.importance.GroupTaylorImportance(),
}
_GRADIENTS: dict[str, torch.Tensor] = {}
_VISION = ("L1", "L2", "L1 global", "L2 global", "LAMP global", "FPGM", "BN scale global", "Taylor", "Taylor global")
_TEXT = ("L1", "L2", "L1 global", "L2 global", "Taylor", "Taylor global")


def search(job: Job, target: float) -> Found:
    """Try every setting; the best is kept."""
    names = _VISION if job.network in VISION else _TEXT
    return best_of(job, target, {name: _maker(job, name) for name in names})


def _maker(job: Job, setting: str) -> Callable[[float], nn.Module]:
    gradients = _gradients(job) if setting.startswith("Taylor") else {}

    def narrowed(amount: float) -> nn.Module:
        model: Any = job.model()
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].clone() if name in gradients else None
        kind = setting.removesuffix(" global")
        pruner = tp.pruner.MetaPruner(
            model,
            _example(job),
            importance=_IMPORTANCE[kind](),
            global_pruning=setting.endswith("global"),
            pruning_ratio=amount,
            **(_text(model, amount) if job.network not in VISION else {"ignored_layers": [model.fc]}),
        )
        pruner.step()
        model.zero_grad()
        for module in model.modules():
            if hasattr(module, "attention_head_size"):  # which the tool leaves to its user
                module.all_head_size = module.query.out_features
                module.num_attention_heads = module.all_head_size // module.attention_head_size
        return model.eval()

    return narrowed


def _example(job: Job) -> Any:
    x = job.split["train_x"][:1]
    return x if job.network in VISION else {"input_ids": x[:, 0], "attention_mask": x[:, 1]}


def _text(model: Any, amount: float) -> dict[str, Any]:
    layers = model.bert.encoder.layer
    heads = model.config.num_attention_heads
    attention = [layer.attention.self for layer in layers]
    kept = [layer.attention.output.dense for layer in layers] + [layer.output.dense for layer in layers]
    return {
        "num_heads": {m: heads for a in attention for m in (a.query, a.key, a.value)},
        "prune_num_heads": True,
        "prune_head_dims": False,
        "head_pruning_ratio": amount,
        "ignored_layers": [*kept, model.bert.pooler.dense, model.classifier, model.bert.embeddings],
    }


def _gradients(job: Job) -> dict[str, torch.Tensor]:
    """Summed over the batches; measured once a process."""
    if _GRADIENTS:
        return _GRADIENTS
    model = job.model()
    for x, y in job.calibration(100)[: 10 if job.network in VISION else 4]:
        nn.functional.cross_entropy(forward(model, x), y).backward()
    _GRADIENTS.update({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    return _GRADIENTS


if __name__ == "__main__":
    serve(search)
