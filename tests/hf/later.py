"""Families of the table that are not in the zoo: decoders, mixtures of experts and hybrids, built as the zoo's are."""

from __future__ import annotations

from collections.abc import Mapping

from tests.zoo.entry import Entry, entry
from tests.zoo.hf_models import _ENCODER, _EXPERTS, _GROUPED, _GROUPED_WIDE, _TEXT, _family, _masked_tokens

_SHARED = {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_ERNIE = {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_layer_start_index": 0}
_MODERN = {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2}
_JET = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "kv_channels": 16,
}
_CAUSAL: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "vaultgemma": ("VaultGemma", {**_GROUPED_WIDE, "query_pre_attn_scalar": 16, "sliding_window": 8}),
    "glm4_moe": ("Glm4Moe", {**_EXPERTS, **_SHARED, "head_dim": 16}),
    "ernie4_5_moe": ("Ernie4_5_Moe", {**_EXPERTS, **_ERNIE}),
    "dots1": ("Dots1", {**_EXPERTS, **_SHARED, "n_group": 1, "topk_group": 1}),
    "flex_olmo": ("FlexOlmo", _EXPERTS),
    "granitemoeshared": ("GraniteMoeShared", {**_GROUPED, **_LOCAL, "shared_intermediate_size": 64}),
    "lfm2_moe": ("Lfm2Moe", {**_EXPERTS, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1}),
    "modernbert_decoder": ("ModernBertDecoder", {**_ENCODER, **_MODERN}),
    "minimax": ("MiniMax", {**_GROUPED_WIDE, **_LOCAL, "layer_types": _LINEAR["layer_types"], "block_size": 8}),
    "doge": ("Doge", _GROUPED),
    "nanochat": ("NanoChat", _GROUPED),
    "olmo_hybrid": ("OlmoHybrid", {**_GROUPED_WIDE, **_LINEAR}),
    "jetmoe": ("JetMoe", {**_TEXT, **_JET, **_LOCAL}),
}


def later_entries() -> tuple[Entry, ...]:
    """One entry per family."""
    families = [_family(name, prefix, "ForCausalLM", config) for name, (prefix, config) in _CAUSAL.items()]
    families.append(_family("eurobert", "EuroBert", "ForMaskedLM", _GROUPED, _masked_tokens))
    return tuple(entry(f"hf/{family.name}", family.build, family.inputs) for family in families)
