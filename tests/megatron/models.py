"""Small models of Megatron-Core with random weights, and text for them."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from tests.megatron import shim

VOCABULARY, LENGTH = 64, 12
_CONFIG: dict[str, Any] = {
    "num_layers": 3,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 8,
    "kv_channels": 8,
    "use_cpu_initialization": True,
    "init_method_std": 0.1,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "gradient_accumulation_fusion": False,
    "bias_dropout_fusion": False,
    "bias_activation_fusion": False,
    "masked_softmax_fusion": False,
    "persist_layer_norm": False,
    "apply_rope_fusion": False,
}
_LLAMA = {
    "normalization": "RMSNorm",
    "gated_linear_unit": True,
    "activation_func": torch.nn.functional.silu,
    "num_query_groups": 2,
    "add_bias_linear": False,
}
EXPERTS: dict[str, Any] = {
    "num_moe_experts": 4,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 24,
    "moe_token_dispatcher_type": "alltoall",
}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gpt": ({}, {}, {}),
    "llama": (_LLAMA, {"normalization": "RMSNorm"}, {"position_embedding_type": "rope"}),
    "qk_norm": (
        {"qk_layernorm": True, "normalization": "RMSNorm"},
        {"normalization": "RMSNorm", "qk_layernorm": True},
        {"position_embedding_type": "rope", "share_embeddings_and_output_weights": True},
    ),
    "experts": ({**_LLAMA, **EXPERTS}, {"normalization": "RMSNorm", "num_experts": 4, "moe_grouped_gemm": False}, {}),
}


def built(kind: str) -> nn.Module:
    """A GPTModel of one kind, of what a local layer specification has."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    config, spec, more = KINDS[kind]
    torch.manual_seed(0)
    return GPTModel(
        config=TransformerConfig(**{**_CONFIG, **config}),
        transformer_layer_spec=get_gpt_layer_local_spec(**spec),
        vocab_size=VOCABULARY,
        max_sequence_length=LENGTH,
        **more,
    ).eval()


def inputs(seed: int = 0, batch: int = 2) -> dict[str, Tensor]:
    """What its forward takes, as keyword arguments."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(0, VOCABULARY, (batch, LENGTH), generator=generator),
        "position_ids": torch.arange(LENGTH).repeat(batch, 1),
        "attention_mask": torch.ones(1, 1, LENGTH, LENGTH).tril() < 0.5,
    }


def again(model: nn.Module, config: Any) -> nn.Module:
    """Another model of a configuration, as Megatron's own code builds it."""
    parts = ("vocab_size", "max_sequence_length", "share_embeddings_and_output_weights", "position_embedding_type")
    held: Any = model
    made = type(held)(
        config=config,
        transformer_layer_spec=held.transformer_layer_spec,
        **{part: getattr(held, part) for part in parts},
    )
    return made.eval()


HYBRIDS = ("MambaModel", "HybridModel")  # what it was called before, and what later versions call it


def hybrid(name: str = "MambaModel", pattern: str = "M*-M*-", **more: Any) -> nn.Module:
    """Mamba's mixers, attention and a feed-forward (``E``: experts) in one list."""
    from megatron.core.post_training.modelopt.mamba.model_specs import get_mamba_stack_modelopt_spec
    from megatron.core.transformer.transformer_config import TransformerConfig

    shim.state_space_on_cpu()
    new = name == "HybridModel"
    kind = getattr(
        importlib.import_module(f"megatron.core.models.{'hybrid.hybrid' if new else 'mamba.mamba'}_model"), name
    )
    sizes = {"mamba_state_dim": 10, "mamba_head_dim": 14, "mamba_num_heads": 6, "mamba_num_groups": 2}
    config = {**_CONFIG, **_LLAMA, **sizes, "num_layers": len(pattern), "gated_linear_unit": False, **more}
    wanted = inspect.signature(get_mamba_stack_modelopt_spec).parameters
    local = {"local_core_attention": True, "remap_te_layernorm": False}
    spec = get_mamba_stack_modelopt_spec(**{k: v for k, v in local.items() if k in wanted})
    named = ("hybrid_stack_spec", "hybrid_layer_pattern") if new else ("mamba_stack_spec", "hybrid_override_pattern")
    torch.manual_seed(0)
    return kind(
        config=TransformerConfig(**config),
        vocab_size=VOCABULARY,
        max_sequence_length=LENGTH,
        **dict(zip(named, (spec, pattern), strict=True)),
    ).eval()
