"""What people call the sizes of a transformer, and which widths of a graph these are.

    model.layers.0.mlp.gate_proj.out_features   ──►   ffn_hidden_size, which Hugging Face calls intermediate_size

Megatron's names and those of Hugging Face configurations are synonyms. Which width plays which role is read from the graph:
the hidden width is the one with most uses, a mixer's heads are those beside a state, a feed-forward width is a whole axis
of a block that is none of these.

Invariant: a width plays one role or none, whatever has been asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

from secateur.core.graph import Graph, Use, Width
from secateur.core.layout import Axis, Product, alongs_of
from secateur.search.ties import pattern_of

LAYERS = "layers"

_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("d_model", "n_embd", "embed_dim", "dim", "model_dim"),
    "ffn_hidden_size": (
        *("intermediate_size", "ffn_dim", "n_inner", "d_ff", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"),
        "ffn_size",
    ),
    "num_attention_heads": (
        *("n_head", "n_heads", "num_heads", "heads", "encoder_attention_heads", "decoder_attention_heads"),
        "attention_heads",
    ),
    "num_query_groups": ("num_key_value_heads", "num_kv_heads", "n_kv_heads"),
    "kv_channels": ("head_dim", "d_kv", "attention_head_size"),
    "mamba_num_heads": ("mamba_n_heads", "n_mamba_heads"),
    "mamba_head_dim": ("mamba_d_head", "mamba_headdim"),
    "mamba_state_dim": ("state_size", "ssm_state_size", "mamba_d_state", "d_state"),
    "mamba_num_groups": ("n_groups", "mamba_n_groups", "mamba_ngroups"),
    "num_moe_experts": (
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "moe_num_experts",
        "num_routed_experts",
    ),
    "moe_ffn_hidden_size": ("moe_intermediate_size",),
    "moe_shared_expert_intermediate_size": ("shared_expert_intermediate_size", "shared_intermediate_size"),
    "num_layers": (
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "encoder_layers",
        "decoder_layers",
        "num_decoder_layers",
        "num_encoder_layers",
    ),
}
ROLE_OF = {name: role for role, names in _SYNONYMS.items() for name in (role, *names)}


def role_of(width: Width, graph: Graph) -> str | None:
    """The role of a width in Megatron's words, or None."""
    if width.kind == LAYERS:
        return "num_layers"
    if width.name == hidden_width(graph):
        return "hidden_size"
    mixer = _beside_a_state(width, graph)
    match width.kind:
        case "query_groups":
            return "mamba_num_groups" if mixer else "num_query_groups"
        case "queries_per_group" | "heads":
            return "mamba_num_heads" if mixer else "num_attention_heads"
        case "head_dim":
            return "mamba_head_dim" if mixer else "kv_channels"
        case "state":
            return "mamba_state_dim"
        case "experts":
            return "num_moe_experts"
        case "features" if "*" in pattern_of(width.name) and not mixer:
            return _feed_forward(width, graph)
        case _:
            return None


def hidden_width(graph: Graph) -> str | None:
    """The width of the residual stream: the one that most axes of tensors have."""
    most = max(graph.widths, key=lambda width: len(width.uses), default=None)
    return None if most is None else most.name


def layers_asked(export: Mapping[str, object]) -> tuple[str, ...]:
    """The names under which a configuration asks for numbers of layers."""
    return tuple(name for name in export if ROLE_OF.get(name) == "num_layers")


def side_of(name: str) -> str | None:
    """Which half of a network a name is about, where it says so."""
    return next((side for side in ("encoder", "decoder") if name.removeprefix("num_").startswith(side)), None)


def _beside_a_state(width: Width, graph: Graph) -> bool:
    """Whether the module that a width is named after has a state dimension, as mixers of Mamba have."""
    owner = width.name.rpartition(".")[0]
    return any(w.kind == "state" and w.name.rpartition(".")[0] == owner for w in graph.widths)


def _counts_matrices(use: Use, graph: Graph) -> bool:
    """Whether an axis says which matrix, or whose bias, of several in one tensor."""
    return use.axis == 0 and len(graph.layouts[use.tensor]) == (2 if use.tensor.endswith("bias") else 3)


def _is_alone(width: Width, axis: Axis) -> bool:
    """Whether an axis is nothing but a width, several times perhaps: gate and up in one."""
    return not isinstance(axis, Product) and {along.width for along in alongs_of(axis)} == {width.name}


def _feed_forward(width: Width, graph: Graph) -> str | None:
    if any("expert" in use.tensor and _counts_matrices(use, graph) for use in width.uses):
        return "num_moe_experts"
    if "expert" not in width.name and not all(
        _is_alone(width, graph.layouts[use.tensor][use.axis]) for use in width.uses
    ):
        return None  # a factor of an axis whose meaning the code does not say
    if "shared_expert" in width.name or "shared_mlp" in width.name:
        return "moe_shared_expert_intermediate_size"
    return "moe_ffn_hidden_size" if "expert" in width.name else "ffn_hidden_size"
