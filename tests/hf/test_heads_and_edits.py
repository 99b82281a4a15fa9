"""Numbers that no tensor shows: what a configuration says of heads, and what depth leaves as an edit wrote it."""

from typing import Any

import pytest
import torch

import secateur as sc
from tests.torch.language import hugging_face

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
TEXT = {"input_ids": torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))}
CONFIG: dict[str, Any] = {"data_loader": [TEXT], "collect_func": lambda batch: batch}


def test_key_value_heads_that_no_shape_shows_go_with_the_heads() -> None:
    model: Any = hugging_face("DeepseekV3", "ForCausalLM", vocab_size=60, **SIZES)
    sc.prune(model, "minitron", {"export_config": {"num_attention_heads": 2}}, TEXT, CONFIG)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (2, 2)
    assert model.model.layers[0].self_attn.num_key_value_groups == 1
    model.set_attn_implementation("eager")
    assert model(**TEXT).logits.isfinite().all()


@pytest.mark.parametrize(("field", "left"), [("num_attention_heads", (2, 4)), ("index_n_heads", (4, 2))])
def test_heads_are_those_that_the_models_own_field_says(field: str, left: tuple[int, int]) -> None:
    model: Any = hugging_face(
        "DeepseekV32", "ForCausalLM", vocab_size=60, index_n_heads=4, index_head_dim=16, index_topk=4, **SIZES
    )
    sc.prune(model, "minitron", {"export_config": {field: 2}}, TEXT, CONFIG)
    assert (model.config.num_attention_heads, model.config.index_n_heads) == left


@pytest.mark.parametrize("count", [96, 32, 40])
def test_what_a_plan_writes_beside_depth_may_be_what_another_layer_says(count: int) -> None:
    """Of GPT-2 all layers say how many features they give, and 96 is what those of the attention do."""
    model = hugging_face("GPT2", "LMHeadModel", vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    graph = sc.trace(model, TEXT, depth=True)
    small: Any = sc.apply(model, graph.plan({"transformer.h.1": [], "transformer.h.0.mlp.c_fc.weight.1": range(count)}))
    assert small.transformer.h[0].mlp.c_fc.nf == count
