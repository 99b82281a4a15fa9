"""The whole networks: a byte-level Llama (grouped queries, rotary positions, SwiGLU) and a Mamba-2, trained here once a seed.

    warm-up ──── one rate, kept every 100 steps ────┬─────────────┬────►  the trunk
                                                    └── down      └── down to nothing: a network of more steps

Matrices inside layers go by Muon, the rest by AdamW. Networks of different lengths leave the same trunk, so that another tenth of
the steps costs little.

Invariant: a family, a seed and a number of steps name one network; it is trained once and found afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tests.zoo.shim import declare_torchvision_operators
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.language.data import spread, windows

declare_torchvision_operators()  # transformers imports torchvision where it is installed
from transformers import (  # noqa: E402  the operators come first
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
)

LENGTH = 128
_BATCH = 16
_STABLE = 0.8  # the share of the steps before the rate goes down
_KEPT = 100  # every so many steps the trunk is kept
_WARM_UP = 100


def build(*, grouped: bool = True) -> LlamaForCausalLM:
    """1.25 M parameters, 1.18 M of them in six layers; without groups each query head has keys and values of its own."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4 if grouped else 8,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def build_mamba() -> Mamba2ForCausalLM:
    """1.16 M parameters, 1.10 M of them in ten layers."""
    config = Mamba2Config(
        vocab_size=256,
        hidden_size=128,
        num_heads=8,
        head_dim=32,
        state_size=32,
        n_groups=1,
        num_hidden_layers=10,
        chunk_size=32,
        tie_word_embeddings=False,
        use_cache=False,
    )
    return Mamba2ForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Family:
    """How a network is made, and what it is called."""

    title: str
    build: Callable[[], nn.Module]


FAMILIES = {"llama": Family("Llama", build), "mamba2": Family("Mamba-2", build_mamba)}


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The blocks."""
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))


def non_embedding(model: nn.Module) -> int:
    """Parameters without the embedding and the head."""
    return sum(p.numel() for name, p in model.named_parameters() if "embed" not in name and "lm_head" not in name)


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean next-byte loss of windows ``[B, T]``, in nats."""
    logits = model(input_ids=ids[:, :-1]).logits.float()
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def perplexity(model: nn.Module, text: Tensor, count: int = 512) -> float:
    """Per byte, over ``count`` windows at equal distances."""
    model.eval()
    losses = [float(loss_of(model, rows)) for rows in spread(text, LENGTH + 1, count).split(32)]
    return math.exp(sum(losses) / len(losses))


def trained(folder: Path, text: Tensor, family: str, seed: int, steps: int) -> nn.Module:
    """The network of a family, a seed and a number of steps, from the folder or trained now."""
    path = folder / f"{family}-{seed}-{steps}.safetensors"
    torch.manual_seed(seed)
    model = FAMILIES[family].build()
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _train(model, text, seed, steps, _Trunk(folder, family, seed))
        save_file({name: t.contiguous() for name, t in model.state_dict().items()}, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    model.load_state_dict(load_file(path))
    return model.eval()


@dataclass(frozen=True, slots=True)
class _Trunk:
    """Where a network is kept on its way, before the rate goes down."""

    folder: Path
    family: str
    seed: int

    def at(self, step: int) -> Path:
        return self.folder / f"trunk-{self.family}-{self.seed}-{step}.pt"


def _train(model: nn.Module, text: Tensor, seed: int, steps: int, trunk: _Trunk) -> None:
    optimizers = _optimizers(model)
    falls_from = int(steps * _STABLE) // _KEPT * _KEPT
    known = [step for step in range(_KEPT, falls_from + 1, _KEPT) if trunk.at(step).exists()]
    start = _resumed(model, optimizers, trunk.at(known[-1])) if known else 0
    rates = [optimizer.param_groups[0]["lr"] for optimizer in _optimizers(model)]
    halved = torch.cpu._is_avx512_bf16_supported()  # elsewhere bfloat16 takes ten times as long as float32
    for step, rows in enumerate(_batches(text, seed, start, steps), start):
        if step % _KEPT == 0 and start < step <= falls_from:
            state = {"step": step, "model": model.state_dict(), "by": [o.state_dict() for o in optimizers]}
            torch.save(state, trunk.at(step))
        share = min(1.0, (step + 1) / _WARM_UP, (steps - step) / (steps - falls_from))
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * share
            optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            loss = loss_of(model, rows)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if step % 50 == 0:
            print(f"  step {step} of {steps}: {math.exp(float(loss.detach())):.3f} a byte", flush=True)


def _batches(text: Tensor, seed: int, start: int, steps: int) -> Iterator[Tensor]:
    return (windows(text, LENGTH + 1, _BATCH, seed * 1_000_003 + step) for step in range(start, steps))


def _optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    matrices = [p for p in layers_of(model).parameters() if p.dim() == 2]
    inner = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inner]
    return [
        torch.optim.Muon(matrices, lr=4e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _resumed(model: nn.Module, optimizers: list[torch.optim.Optimizer], fork: Path) -> int:
    state = torch.load(fork, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["by"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])
