"""Language models of transformers at tiny sizes: narrowed to what a configuration can say, saved, loaded by stock code.

python -m tests.hf        the table over all families: fields that changed, whether outputs are equal, widths left whole
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from tests.torch.language import VOCABULARY, hugging_face, ids, texts

_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
_GROUPED = {**_ENCODER, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8}
_EXPERTS = {**_GROUPED, "num_experts_per_tok": 2}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
_SEQ2SEQ = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 32,
    "decoder_start_token_id": 2,
}
_T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_MAMBA = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
_MAMBA2 = {**_MAMBA, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 4}
_DECODER = {**_ENCODER, "num_attention_heads": 8}

FAMILIES: dict[str, tuple[str, str, dict[str, object]]] = {
    "llama": ("Llama", "ForCausalLM", _GROUPED),
    "llama_tied": ("Llama", "ForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
    "mistral": ("Mistral", "ForCausalLM", _GROUPED),
    "qwen2": ("Qwen2", "ForCausalLM", _GROUPED),
    "qwen3": ("Qwen3", "ForCausalLM", _GROUPED),
    "gemma2": ("Gemma2", "ForCausalLM", {**_GROUPED, "query_pre_attn_scalar": 8, "sliding_window": 8}),
    "phi3": ("Phi3", "ForCausalLM", {k: v for k, v in _GROUPED.items() if k != "head_dim"}),
    "olmo2": ("Olmo2", "ForCausalLM", _GROUPED),
    "granite": ("Granite", "ForCausalLM", _GROUPED),
    "cohere": ("Cohere", "ForCausalLM", _GROUPED),
    "starcoder2": ("Starcoder2", "ForCausalLM", _GROUPED),
    "stablelm": ("StableLm", "ForCausalLM", _GROUPED),
    "mixtral": ("Mixtral", "ForCausalLM", {**_EXPERTS, "num_local_experts": 4}),
    "qwen3_moe": ("Qwen3Moe", "ForCausalLM", {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 24}),
    "gpt2": ("GPT2", "LMHeadModel", _GPT),
    "gptj": ("GPTJ", "ForCausalLM", {**_GPT, "rotary_dim": 4}),
    "gpt_neo": (
        "GPTNeo",
        "ForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 32,
        },
    ),
    "gpt_neox": ("GPTNeoX", "ForCausalLM", _DECODER),
    "opt": ("OPT", "ForCausalLM", {**_DECODER, "word_embed_proj_dim": 32, "ffn_dim": 48}),
    "phi": ("Phi", "ForCausalLM", _DECODER),
    "bloom": ("Bloom", "ForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("Falcon", "ForCausalLM", {**_DECODER, "multi_query": True}),
    "bert": ("Bert", "ForMaskedLM", _ENCODER),
    "roberta": ("Roberta", "ForMaskedLM", _ENCODER),
    "electra": ("Electra", "ForMaskedLM", {**_ENCODER, "embedding_size": 32}),
    "modernbert": ("ModernBert", "ForMaskedLM", {**_ENCODER, "cls_token_id": 1, "sep_token_id": 2}),
    "t5": ("T5", "ForConditionalGeneration", {**_T5, "decoder_start_token_id": 0}),
    "bart": ("Bart", "ForConditionalGeneration", _SEQ2SEQ),
    "mamba": ("Mamba", "ForCausalLM", _MAMBA),
    "mamba2": ("Mamba2", "ForCausalLM", _MAMBA2),
}
QUICK = ("llama_tied", "qwen3", "gpt2", "gpt_neox", "opt", "phi", "bert", "t5", "mamba2", "mixtral")
_PAIRED = ("t5", "bart")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """What became of one family: the configuration's fields that changed, the share of parameters that is left."""

    fields: dict[str, Any]
    params: float
    left_whole: dict[str, str]


def built(name: str) -> nn.Module:
    """A family's model with random weights."""
    family, head, config = FAMILIES[name]
    return hugging_face(family, head, **config)


def inputs(name: str, seed: int = 0) -> dict[str, Tensor]:
    """What its forward takes."""
    return ids(seed) | ({"decoder_input_ids": ids(seed + 7)["input_ids"]} if name in _PAIRED else {})


def round_trip(name: str, params: str = "70%") -> Trip:
    """Narrow, save, load with stock code, compare. Raises AssertionError where anything is not the same."""
    model = built(name)
    before = model.config.to_dict()  # type: ignore[union-attr,operator]
    data = [batch | ({"decoder_input_ids": batch["input_ids"]} if name in _PAIRED else {}) for batch in texts()]
    config = {"data_loader": data, "collect_func": lambda batch: batch}
    model, result = sc.prune(model, "minitron", {"params": params}, inputs(name), config)
    model.eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.save_pretrained(folder)  # type: ignore[operator]
        again = type(model).from_pretrained(folder).eval()  # type: ignore[attr-defined]
    _same(model, again, inputs(name))
    after = model.config.to_dict()  # type: ignore[union-attr,operator]
    return Trip(
        fields={key: (before.get(key), value) for key, value in after.items() if before.get(key) != value},
        params=result.after["params"] / result.before["params"],
        left_whole=result.plan.provenance["left_whole"],
    )


def _same(model: nn.Module, again: nn.Module, given: dict[str, Tensor]) -> None:
    with torch.no_grad():
        ours, theirs = model(**given).logits, again(**given).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-6)
    pairs = zip(model.named_parameters(), again.named_parameters(), strict=True)
    assert all(n == m and p.shape == q.shape and torch.equal(p, q) for (n, p), (m, q) in pairs)
    if hasattr(model, "generate") and "MaskedLM" not in type(model).__name__:
        asked = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
        texts_ = [m.generate(given["input_ids"], **asked) for m in (model, again)]  # type: ignore[operator]
        assert torch.equal(*texts_)
