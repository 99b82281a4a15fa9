"""Tiny configurations of Hugging Face transformers families: two layers, random weights, nothing downloaded.

Every family is built with the head people use it with, so its output is classes or a vocabulary and not the residual
stream. Where a family has grouped queries, two key/value heads serve its query heads.

`T` below is the sequence length, `V` the vocabulary. Weights are drawn five times wider than the usual 0.02: at these
widths a layer would otherwise leave no trace in the output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .entry import Entry, Inputs, entry, noise
from .shim import declare_torchvision_operators

_T = 12
_V = 128

_SPECIAL_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_TEXT = {"vocab_size": _V, "initializer_range": 0.1, **_SPECIAL_TOKENS}
_ENCODER = {
    **_TEXT,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_DECODER = {**_ENCODER, "num_attention_heads": 8}
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
_GROUPED_WIDE = {**_GROUPED, "head_dim": 16}
_EXPERTS = {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GPT = {**_TEXT, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
_SEQ2SEQ = {
    **_TEXT,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
}
_T5 = {
    "vocab_size": _V,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_VISION = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.1,
}
_STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 24, 32, 48], "initializer_range": 0.1}
_TWO_TOWERS = {
    "text_config": {**_ENCODER, "hidden_size": 32, "projection_dim": 24},
    "vision_config": {**_VISION, "projection_dim": 24},
    "projection_dim": 24,
}
_SIGLIP = {"text_config": _ENCODER, "vision_config": _VISION}
_SPEECH = {
    **_ENCODER,
    "conv_dim": [32, 32, 32],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_MAMBA = {**_TEXT, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
_HYBRID = {
    **_GROUPED,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_ssm": 128,
    "mamba_d_state": 16,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 8,
}


_LATENT = {
    **_DECODER,
    "num_key_value_heads": 8,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
_LATENT_V2 = {**_LATENT, "topk_method": "group_limited_greedy", "n_shared_experts": 1}
_SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "initializer_range": 0.1,
}
_PYRAMID = {
    "hidden_sizes": [16, 32, 40, 64],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 5, 8],
    "mlp_ratios": [2, 2, 2, 2],
    "initializer_range": 0.1,
}
_BLIP = {
    "text_config": {**_ENCODER, "encoder_hidden_size": 64, "projection_dim": 24, "sep_token_id": 2, "is_decoder": True},
    "vision_config": _VISION,
    "projection_dim": 24,
}
_ZAMBA2 = {
    **_GROUPED,
    "num_hidden_layers": 4,
    "num_key_value_heads": 8,
    "mamba_d_state": 16,
    "mamba_ngroups": 2,
    "n_mamba_heads": 8,
    "chunk_size": 8,
    "num_mem_blocks": 1,
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    "use_mem_rope": True,
    "adapter_rank": 8,
}
_NEMOTRON_H = {
    **_GROUPED,
    "head_dim": 16,
    "hybrid_override_pattern": "M*-M",
    "num_hidden_layers": 4,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "chunk_size": 8,
}
_GRANITE_HYBRID = {
    **_HYBRID,
    "layer_types": ["mamba", "attention"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 64,
}
_QWEN3_NEXT = {
    **_EXPERTS,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "shared_expert_intermediate_size": 32,
}


def _ids(seed: int = 0) -> Tensor:
    return torch.randint(3, _V, (1, _T), generator=torch.Generator().manual_seed(seed))


def _tokens() -> Inputs:
    return ({"input_ids": _ids()},)


def _masked_tokens() -> Inputs:
    return ({"input_ids": _ids(), "attention_mask": torch.ones(1, _T, dtype=torch.long)},)


def _source_and_target() -> Inputs:
    return ({"input_ids": _ids(), "decoder_input_ids": _ids(seed=1)},)


def _pixels(size: int = 32) -> Inputs:
    return ({"pixel_values": noise(1, 3, size, size)},)


def _tokens_and_pixels() -> Inputs:
    return ({"input_ids": _ids(), "pixel_values": noise(1, 3, 32, 32)},)


def _waveform() -> Inputs:
    return ({"input_values": noise(1, 800)},)


def _spectrogram(*shape: int) -> Inputs:
    return ({"input_features": noise(*shape), "decoder_input_ids": _ids()},)


def _features(name: str, *shape: int) -> Inputs:
    return ({name: noise(*shape)},)


# Families whose text model is configured under a name of its own.
_CONFIG_PREFIXES = {"Gemma3": "Gemma3Text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    name: str
    prefix: str
    head: str
    config: Mapping[str, object]
    inputs: Callable[[], Inputs]

    def build(self) -> nn.Module:
        declare_torchvision_operators()
        import transformers

        prefix = _CONFIG_PREFIXES.get(self.prefix, self.prefix)
        config = getattr(transformers, f"{prefix}Config")(**{"num_labels": 10, **self.config})
        return getattr(transformers, self.prefix + self.head)(config)


def _family(
    name: str, prefix: str, head: str, config: Mapping[str, object], inputs: Callable[[], Inputs] = _tokens
) -> _Family:
    return _Family(name=name, prefix=prefix, head=head, config=config, inputs=inputs)


_FAMILIES = (
    # Text encoders.
    _family("bert", "Bert", "ForSequenceClassification", _ENCODER, _masked_tokens),
    _family(
        "distilbert",
        "DistilBert",
        "ForSequenceClassification",
        {**_TEXT, "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4},
        _masked_tokens,
    ),
    _family("roberta", "Roberta", "ForSequenceClassification", _ENCODER, _masked_tokens),
    _family("xlm_roberta", "XLMRoberta", "ForSequenceClassification", _ENCODER, _masked_tokens),
    _family("camembert", "Camembert", "ForMaskedLM", _ENCODER, _masked_tokens),
    _family("albert", "Albert", "ForSequenceClassification", {**_ENCODER, "embedding_size": 32}, _masked_tokens),
    _family("electra", "Electra", "ForSequenceClassification", {**_ENCODER, "embedding_size": 32}, _masked_tokens),
    _family(
        "deberta",
        "Deberta",
        "ForSequenceClassification",
        {**_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        _masked_tokens,
    ),
    _family(
        "deberta_v2",
        "DebertaV2",
        "ForSequenceClassification",
        {**_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
        _masked_tokens,
    ),
    _family("mpnet", "MPNet", "ForSequenceClassification", _ENCODER, _masked_tokens),
    _family(
        "modernbert",
        "ModernBert",
        "ForSequenceClassification",
        {**_ENCODER, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
        _masked_tokens,
    ),
    _family("ernie", "Ernie", "ForSequenceClassification", _ENCODER, _masked_tokens),
    _family("megatron_bert", "MegatronBert", "ForSequenceClassification", _ENCODER, _masked_tokens),
    _family(
        "rembert",
        "RemBert",
        "ForSequenceClassification",
        {**_ENCODER, "input_embedding_size": 32, "output_embedding_size": 48},
        _masked_tokens,
    ),
    _family("roformer", "RoFormer", "ForSequenceClassification", _ENCODER, _masked_tokens),
    _family("convbert", "ConvBert", "ForSequenceClassification", {**_ENCODER, "embedding_size": 32}, _masked_tokens),
    _family(
        "mobilebert",
        "MobileBert",
        "ForSequenceClassification",
        {**_ENCODER, "embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2},
        _masked_tokens,
    ),
    _family(
        "squeezebert", "SqueezeBert", "ForSequenceClassification", {**_ENCODER, "embedding_size": 64}, _masked_tokens
    ),
    _family("fnet", "FNet", "ForSequenceClassification", _ENCODER),
    _family(
        "nystromformer",
        "Nystromformer",
        "ForSequenceClassification",
        {**_ENCODER, "segment_means_seq_len": 12, "num_landmarks": 4},
        _masked_tokens,
    ),
    _family("esm", "Esm", "ForSequenceClassification", _ENCODER, _masked_tokens),
    _family(
        "funnel",
        "Funnel",
        "ForSequenceClassification",
        {**_TEXT, "block_sizes": [1, 1], "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128},
        _masked_tokens,
    ),
    _family(
        "xlnet",
        "XLNet",
        "ForSequenceClassification",
        {**_TEXT, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128},
        _masked_tokens,
    ),
    _family("nomic_bert", "NomicBert", "ForSequenceClassification", _ENCODER, _masked_tokens),
    # Decoders with learned, rotary or ALiBi positions and ordinary heads.
    _family("gpt2", "GPT2", "LMHeadModel", _GPT),
    _family("gptj", "GPTJ", "ForCausalLM", {**_GPT, "rotary_dim": 8}),
    _family(
        "gpt_neo",
        "GPTNeo",
        "ForCausalLM",
        {
            **_TEXT,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
        },
    ),
    _family("gpt_neox", "GPTNeoX", "ForCausalLM", _DECODER),
    _family("gpt_bigcode", "GPTBigCode", "ForCausalLM", _GPT),
    _family("codegen", "CodeGen", "ForCausalLM", {**_GPT, "rotary_dim": 8}),
    _family("opt", "OPT", "ForCausalLM", {**_DECODER, "word_embed_proj_dim": 64, "ffn_dim": 128}),
    _family("bloom", "Bloom", "ForCausalLM", {**_TEXT, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    _family(
        "mpt",
        "Mpt",
        "ForCausalLM",
        {**_TEXT, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    ),
    _family("falcon", "Falcon", "ForCausalLM", {**_DECODER, "multi_query": True}),
    _family(
        "falcon_grouped", "Falcon", "ForCausalLM", {**_DECODER, "new_decoder_architecture": True, "num_kv_heads": 2}
    ),
    _family("phi", "Phi", "ForCausalLM", _DECODER),
    _family("persimmon", "Persimmon", "ForCausalLM", _DECODER),
    _family("biogpt", "BioGpt", "ForCausalLM", _DECODER),
    _family(
        "xglm",
        "XGLM",
        "ForCausalLM",
        {
            **_TEXT,
            "d_model": 64,
            "num_layers": 2,
            "attention_heads": 4,
            "ffn_dim": 128,
            "max_position_embeddings": 64,
        },
    ),
    _family("llama_mha", "Llama", "ForCausalLM", _DECODER),
    # Decoders with grouped queries.
    _family("llama", "Llama", "ForCausalLM", _GROUPED),
    _family("mistral", "Mistral", "ForCausalLM", _GROUPED),
    _family("qwen2", "Qwen2", "ForCausalLM", _GROUPED),
    _family("qwen3", "Qwen3", "ForCausalLM", _GROUPED_WIDE),
    _family("gemma", "Gemma", "ForCausalLM", _GROUPED_WIDE),
    _family(
        "gemma2",
        "Gemma2",
        "ForCausalLM",
        {**_GROUPED_WIDE, "query_pre_attn_scalar": 16, "sliding_window": 8},
    ),
    _family(
        "gemma3",
        "Gemma3",
        "ForCausalLM",
        {
            **_GROUPED_WIDE,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 16,
            "sliding_window": 8,
        },
    ),
    _family("phi3", "Phi3", "ForCausalLM", _GROUPED),
    _family("olmo", "Olmo", "ForCausalLM", _GROUPED),
    _family("olmo2", "Olmo2", "ForCausalLM", _GROUPED),
    _family("olmo3", "Olmo3", "ForCausalLM", _GROUPED),
    _family("stablelm", "StableLm", "ForCausalLM", _GROUPED),
    _family("starcoder2", "Starcoder2", "ForCausalLM", _GROUPED),
    _family("granite", "Granite", "ForCausalLM", _GROUPED),
    _family("cohere", "Cohere", "ForCausalLM", _GROUPED),
    _family("cohere2", "Cohere2", "ForCausalLM", _GROUPED),
    _family("nemotron", "Nemotron", "ForCausalLM", _GROUPED),
    _family("smollm3", "SmolLM3", "ForCausalLM", _GROUPED),
    _family("exaone4", "Exaone4", "ForCausalLM", _GROUPED),
    _family("glm", "Glm", "ForCausalLM", _GROUPED_WIDE),
    _family("glm4", "Glm4", "ForCausalLM", _GROUPED_WIDE),
    _family("helium", "Helium", "ForCausalLM", {**_GROUPED, "head_dim": 8}),
    _family("arcee", "Arcee", "ForCausalLM", _GROUPED),
    _family("ernie4_5", "Ernie4_5", "ForCausalLM", _GROUPED_WIDE),
    _family("seed_oss", "SeedOss", "ForCausalLM", _GROUPED_WIDE),
    _family("hunyuan", "HunYuanDenseV1", "ForCausalLM", _GROUPED_WIDE),
    _family("diffllama", "DiffLlama", "ForCausalLM", _GROUPED),
    _family("apertus", "Apertus", "ForCausalLM", {**_GROUPED, "max_position_embeddings": 65536}),
    _family("bitnet", "BitNet", "ForCausalLM", _GROUPED),
    # Mixtures of experts and latent attention.
    _family("mixtral", "Mixtral", "ForCausalLM", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    _family("qwen2_moe", "Qwen2Moe", "ForCausalLM", {**_EXPERTS, "shared_expert_intermediate_size": 64}),
    _family("qwen3_moe", "Qwen3Moe", "ForCausalLM", {**_EXPERTS, "head_dim": 16}),
    _family("olmoe", "Olmoe", "ForCausalLM", _EXPERTS),
    _family("granitemoe", "GraniteMoe", "ForCausalLM", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    _family("phimoe", "Phimoe", "ForCausalLM", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    _family(
        "gpt_oss",
        "GptOss",
        "ForCausalLM",
        {
            **_GROUPED_WIDE,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "max_position_embeddings": 131072,
        },
    ),
    _family("deepseek_v3", "DeepseekV3", "ForCausalLM", _LATENT),
    _family("deepseek_v2", "DeepseekV2", "ForCausalLM", _LATENT_V2),
    _family(
        "minicpm3",
        "MiniCPM3",
        "ForCausalLM",
        {
            **_DECODER,
            "q_lora_rank": 24,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
    _family(
        "switch_transformers",
        "SwitchTransformers",
        "ForConditionalGeneration",
        {**_T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        _source_and_target,
    ),
    # Encoder-decoders.
    _family("t5", "T5", "ForConditionalGeneration", _T5, _source_and_target),
    _family("mt5", "MT5", "ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-gelu"}, _source_and_target),
    _family("umt5", "UMT5", "ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-gelu"}, _source_and_target),
    _family("bart", "Bart", "ForConditionalGeneration", _SEQ2SEQ, _source_and_target),
    _family("mbart", "MBart", "ForConditionalGeneration", _SEQ2SEQ, _source_and_target),
    _family("pegasus", "Pegasus", "ForConditionalGeneration", _SEQ2SEQ, _source_and_target),
    _family("blenderbot", "Blenderbot", "ForConditionalGeneration", _SEQ2SEQ, _source_and_target),
    _family("m2m_100", "M2M100", "ForConditionalGeneration", _SEQ2SEQ, _source_and_target),
    _family("marian", "Marian", "MTModel", _SEQ2SEQ, _source_and_target),
    # Speech.
    _family(
        "whisper",
        "Whisper",
        "ForConditionalGeneration",
        {**_SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 64},
        partial(_spectrogram, 1, 8, 40),
    ),
    _family(
        "speech_to_text",
        "Speech2Text",
        "ForConditionalGeneration",
        {
            **_SEQ2SEQ,
            "input_feat_per_channel": 8,
            "max_source_positions": 64,
            "max_target_positions": 64,
            "conv_channels": 32,
        },
        partial(_spectrogram, 1, 40, 8),
    ),
    _family("wav2vec2", "Wav2Vec2", "ForCTC", _SPEECH, _waveform),
    _family("hubert", "Hubert", "ForCTC", _SPEECH, _waveform),
    _family("wavlm", "WavLM", "ForSequenceClassification", _SPEECH, _waveform),
    _family("unispeech", "UniSpeech", "ForCTC", _SPEECH, _waveform),
    _family("data2vec_audio", "Data2VecAudio", "ForCTC", _SPEECH, _waveform),
    _family("sew", "SEW", "ForCTC", {**_SPEECH, "squeeze_factor": 2}, _waveform),
    _family(
        "wav2vec2_conformer",
        "Wav2Vec2Conformer",
        "ForCTC",
        {**_SPEECH, "position_embeddings_type": "rotary"},
        _waveform,
    ),
    _family(
        "audio_spectrogram_transformer",
        "AST",
        "ForAudioClassification",
        {**_VISION, "num_mel_bins": 16, "max_length": 32, "frequency_stride": 8, "time_stride": 8},
        partial(_features, "input_values", 1, 32, 16),
    ),
    # Vision.
    _family("vit", "ViT", "ForImageClassification", _VISION, _pixels),
    _family("deit", "DeiT", "ForImageClassification", _VISION, _pixels),
    _family("vit_msn", "ViTMSN", "ForImageClassification", _VISION, _pixels),
    _family("beit", "Beit", "ForImageClassification", _VISION, _pixels),
    _family("dinov2", "Dinov2", "ForImageClassification", _VISION, _pixels),
    _family("dinov2_with_registers", "Dinov2WithRegisters", "ForImageClassification", _VISION, _pixels),
    _family("ijepa", "IJepa", "ForImageClassification", _VISION, _pixels),
    _family(
        "siglip_vision",
        "Siglip",
        "ForImageClassification",
        {"text_config": _ENCODER, "vision_config": _VISION},
        _pixels,
    ),
    _family("swin", "Swin", "ForImageClassification", _SWIN, partial(_pixels, 64)),
    _family("swinv2", "Swinv2", "ForImageClassification", _SWIN, partial(_pixels, 64)),
    _family("convnext", "ConvNext", "ForImageClassification", _STAGES, partial(_pixels, 64)),
    _family("convnextv2", "ConvNextV2", "ForImageClassification", _STAGES, partial(_pixels, 64)),
    _family("resnet", "ResNet", "ForImageClassification", {**_STAGES, "embedding_size": 16}, partial(_pixels, 64)),
    _family(
        "regnet",
        "RegNet",
        "ForImageClassification",
        {**_STAGES, "embedding_size": 16, "groups_width": 8},
        partial(_pixels, 64),
    ),
    _family(
        "bit", "Bit", "ForImageClassification", {**_STAGES, "embedding_size": 16, "num_groups": 4}, partial(_pixels, 64)
    ),
    _family("segformer", "Segformer", "ForImageClassification", _PYRAMID, partial(_pixels, 64)),
    _family(
        "segformer_segmentation",
        "Segformer",
        "ForSemanticSegmentation",
        {**_PYRAMID, "decoder_hidden_size": 32},
        partial(_pixels, 64),
    ),
    _family(
        "pvt_v2",
        "PvtV2",
        "ForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 40, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 5, 8],
            "mlp_ratios": [2, 2, 2, 2],
            "initializer_range": 0.1,
        },
        partial(_pixels, 64),
    ),
    _family(
        "poolformer",
        "PoolFormer",
        "ForImageClassification",
        {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "initializer_range": 0.1},
        partial(_pixels, 64),
    ),
    _family(
        "cvt",
        "Cvt",
        "ForImageClassification",
        {
            "embed_dim": [16, 32, 48],
            "num_heads": [1, 2, 3],
            "depth": [1, 2, 3],
            "initializer_range": 0.1,
        },
        partial(_pixels, 64),
    ),
    _family(
        "levit",
        "Levit",
        "ForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        partial(_pixels, 64),
    ),
    _family("mobilenet_v1", "MobileNetV1", "ForImageClassification", {"depth_multiplier": 0.25}, partial(_pixels, 64)),
    _family("mobilenet_v2", "MobileNetV2", "ForImageClassification", {"depth_multiplier": 0.25}, partial(_pixels, 64)),
    _family(
        "mobilevit",
        "MobileViT",
        "ForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [32, 40, 48],
            "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64],
            "num_attention_heads": 4,
        },
        partial(_pixels, 64),
    ),
    _family(
        "efficientnet",
        "EfficientNet",
        "ForImageClassification",
        {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
        partial(_pixels, 64),
    ),
    _family(
        "focalnet",
        "FocalNet",
        "ForImageClassification",
        {
            "image_size": 64,
            "embed_dim": 16,
            "hidden_sizes": [16, 32, 64, 128],
            "depths": [1, 1, 1, 1],
            "initializer_range": 0.1,
        },
        partial(_pixels, 64),
    ),
    _family(
        "hiera",
        "Hiera",
        "ForImageClassification",
        {
            "image_size": [64, 64],
            "embed_dim": 16,
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 2, 4, 8],
            "initializer_range": 0.1,
        },
        partial(_pixels, 64),
    ),
    _family(
        "dpt",
        "DPT",
        "ForDepthEstimation",
        {
            **_VISION,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 24, 32, 48],
            "fusion_hidden_size": 32,
        },
        partial(_pixels, 32),
    ),
    _family(
        "yolos", "Yolos", "ForObjectDetection", {**_VISION, "image_size": [32, 32], "num_detection_tokens": 4}, _pixels
    ),
    # Text with images.
    _family("clip", "CLIP", "Model", _TWO_TOWERS, _tokens_and_pixels),
    _family("siglip", "Siglip", "Model", _SIGLIP, _tokens_and_pixels),
    _family("blip", "Blip", "ForConditionalGeneration", _BLIP, _tokens_and_pixels),
    # State spaces and hybrids.
    _family("mamba", "Mamba", "ForCausalLM", _MAMBA),
    _family("falcon_mamba", "FalconMamba", "ForCausalLM", _MAMBA),
    _family(
        "mamba2", "Mamba2", "ForCausalLM", {**_MAMBA, "num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 8}
    ),
    _family(
        "jamba",
        "Jamba",
        "ForCausalLM",
        {
            **_GROUPED,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
        },
    ),
    _family("zamba2", "Zamba2", "ForCausalLM", _ZAMBA2),
    _family("bamba", "Bamba", "ForCausalLM", {**_HYBRID, "attn_layer_indices": [1]}),
    _family("nemotron_h", "NemotronH", "ForCausalLM", _NEMOTRON_H),
    _family("falcon_h1", "FalconH1", "ForCausalLM", _HYBRID),
    _family("granitemoehybrid", "GraniteMoeHybrid", "ForCausalLM", _GRANITE_HYBRID),
    _family(
        "recurrent_gemma",
        "RecurrentGemma",
        "ForCausalLM",
        {**_GROUPED, "num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 8},
    ),
    _family("qwen3_next", "Qwen3Next", "ForCausalLM", _QWEN3_NEXT),
    _family(
        "lfm2", "Lfm2", "ForCausalLM", {**_GROUPED, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8}
    ),
    _family(
        "rwkv",
        "Rwkv",
        "ForCausalLM",
        {
            **_TEXT,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "attention_hidden_size": 64,
            "intermediate_size": 128,
            "context_length": 64,
        },
    ),
    # Time series.
    _family(
        "patchtst",
        "PatchTST",
        "ForPrediction",
        {
            "num_input_channels": 3,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "prediction_length": 4,
            "d_model": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
        },
        partial(_features, "past_values", 1, 32, 3),
    ),
)


def hf_entries() -> tuple[Entry, ...]:
    """One entry per family in the table."""
    return tuple(entry(f"hf/{family.name}", family.build, family.inputs) for family in _FAMILIES)
