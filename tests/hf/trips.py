"""One family of the zoo through everything: what of it can be narrowed, and whether stock code takes the result.

    trace, depth too ──► which roles are free          minitron at 75 % ──► verified, trained a step, saved, loaded, generated

Where no configuration can say a uniform network, each layer gets its own widths, and our loader reads it.

Invariant: a trip that returns has compared the outputs of what was loaded with what was saved; else it raises.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from secateur.search.roles import role_of
from secateur.torch.running.outputs import output_tensors
from tests.hf.later import later_entries
from tests.zoo.entry import Entry, Inputs, forward
from tests.zoo.hf_models import hf_entries

SHARE = "75%"
ROLES = {
    "hidden": ("hidden_size",),
    "feed-forward": ("ffn_hidden_size", "moe_ffn_hidden_size", "moe_shared_expert_intermediate_size"),
    "heads": ("num_attention_heads", "mamba_num_heads"),
    "groups": ("num_query_groups", "mamba_num_groups"),
    "head width": ("kv_channels", "mamba_head_dim"),
    "state": ("mamba_state_dim",),
    "experts": ("num_moe_experts",),
    "depth": ("num_layers",),
}
FAMILIES = (
    *("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3", "phi3", "falcon", "olmo2"),
    *("deepseek_v3", "gpt_oss", "gpt2", "gptj", "gpt_neo", "gpt_neox", "opt", "bloom", "phi", "granite", "cohere"),
    *("starcoder2", "stablelm", "bert", "distilbert", "roberta", "albert", "electra", "deberta_v2", "mpnet"),
    *("modernbert", "t5", "bart", "whisper", "wav2vec2", "clip", "vit", "deit", "dinov2", "swin", "segformer", "mamba"),
    *("mamba2", "falcon_mamba", "jamba", "zamba2", "bamba", "nemotron_h", "falcon_h1"),
    *("olmo", "olmo3", "cohere2", "nemotron", "smollm3", "exaone4", "glm", "glm4", "helium", "arcee", "ernie4_5"),
    *("seed_oss", "hunyuan", "diffllama", "apertus", "bitnet", "gemma", "qwen2_moe", "olmoe", "granitemoe", "phimoe"),
    *(
        "deepseek_v2",
        "granitemoehybrid",
        "recurrent_gemma",
        "qwen3_next",
        "lfm2",
        "biogpt",
        "xglm",
        "persimmon",
        "codegen",
    ),
    *("eurobert", "vaultgemma", "glm4_moe", "ernie4_5_moe", "dots1", "flex_olmo", "granitemoeshared", "lfm2_moe"),
    *("modernbert_decoder", "minimax", "doge", "nanochat", "mpt", "pegasus", "olmo_hybrid", "jetmoe"),
)
_WRITTEN = ("architectures", "dtype")  # by save_pretrained


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """What became of one family. ``free``: for each role whether its widths are, of those that the model has."""

    family: str
    free: dict[str, str] = field(default_factory=dict)
    held: tuple[str, ...] = ()
    params: float = 0.0
    fields: tuple[str, ...] = ()
    stock: bool = False
    generated: bool = False


def entries() -> dict[str, Entry]:
    """The families of the table, by name."""
    known = {entry.name.removeprefix("hf/"): entry for entry in (*hf_entries(), *later_entries())}
    return {name: known[name] for name in FAMILIES if name in known}


def taken(entry: Entry) -> Trip:
    """The trip of one family. Raises whatever goes wrong on the way."""
    model: Any = entry.build()
    free, held = reachable(model, entry.inputs())
    before = model.config.to_dict()
    data = {"data_loader": [entry.inputs()] * 2, "collect_func": lambda batch: batch}
    stock = True
    try:
        model, result = sc.prune(model, "minitron", {"params": SHARE}, entry.inputs(), data)
    except sc.Infeasible:
        stock, options = False, {**data, "uniform": False}
        model, result = sc.prune(model, "minitron", {"params": SHARE}, entry.inputs(), options)
    _train(model, entry.inputs())
    with tempfile.TemporaryDirectory() as folder:
        again = _loaded_by_stock_code(model, folder) if stock else _loaded_by_us(model, folder)
    _same(lambda m: output_tensors(forward(m, entry.inputs())), model, again)
    after = model.config.to_dict()
    return Trip(
        family=entry.name.removeprefix("hf/"),
        free=free,
        held=held,
        params=result.after["params"] / result.before["params"],
        fields=tuple(key for key, value in after.items() if before.get(key) != value and key not in _WRITTEN),
        stock=stock,
        generated=_generated(model, again, entry.inputs()),
    )


def reachable(model: nn.Module, inputs: Inputs) -> tuple[dict[str, str], tuple[str, ...]]:
    """For each role that a model has ``yes``, ``part`` or ``no``; and why widths of roles are held."""
    graph = sc.trace(model, inputs, depth=True)
    found: dict[str, list[bool]] = {}
    held: dict[str, None] = {}
    for width in graph.widths:
        role = next((name for name, roles in ROLES.items() if role_of(width, graph) in roles), None)
        if role is not None and width.size > (width.kind != "layers"):
            found.setdefault(role, []).append(width.frozen is None and len(width.choices) > 1)
            if width.frozen is not None:
                held.setdefault(f"{role}: {width.frozen}")
    free = {role: "yes" if all(all_of) else "part" if any(all_of) else "no" for role, all_of in found.items()}
    return free, tuple(held)


def _train(model: nn.Module, inputs: Inputs) -> None:
    """One backward pass: every parameter that takes part gets a finite gradient of its own shape."""
    model.train()
    loss = sum(t.float().square().mean() for t in output_tensors(forward(model, inputs)) if t.is_floating_point())
    assert isinstance(loss, Tensor)
    loss.backward()
    gradients = [(p, p.grad) for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.shape == p.shape and bool(g.isfinite().all()) for p, g in gradients)
    model.zero_grad(set_to_none=True)
    model.eval()


def _loaded_by_stock_code(model: Any, folder: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder).eval()


def _loaded_by_us(model: nn.Module, folder: str) -> nn.Module:
    path = Path(folder) / "model"
    sc.hf.save_pretrained(model, path)
    return sc.hf.from_pretrained(path, type(model))


def _same(outputs: Callable[[nn.Module], Sequence[Tensor]], one: nn.Module, other: nn.Module) -> None:
    with torch.no_grad():
        for a, b in zip(outputs(one), outputs(other), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5, equal_nan=True)


def _generated(model: Any, again: Any, inputs: Inputs) -> bool:
    """Whether this is a model that generates; the tokens of both are then equal."""
    given = next((part for part in inputs if isinstance(part, dict)), {})
    if not callable(getattr(model, "generate", None)) or not model.can_generate():
        return False
    asked = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    passed = {k: v for k, v in given.items() if not k.startswith("decoder_")}
    tokens = [m.generate(*(part for part in inputs if part is not given), **passed, **asked) for m in (model, again)]
    assert torch.equal(*tokens)
    return True
