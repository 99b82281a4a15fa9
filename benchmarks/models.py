"""The networks that are measured, with random weights: six that the peer can prune, three where it gives no result.

Imported by both sides, so it needs torch, timm and transformers, and nothing of Secateur's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tests.zoo.shim import declare_torchvision_operators
from torch import nn

_BATCH, _TOKENS, _IMAGE = 1, 32, 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network to measure: ``head`` is the classifier that both sides keep, ``share`` of parameters to keep where the
    peer, which sets the target, has no result; ``peer_works`` is what is expected of it.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    head: str
    repeats: int = 5
    share: float = 0.28
    peer_works: bool = True


def _image() -> torch.Tensor:
    return torch.randn(_BATCH, 3, _IMAGE, _IMAGE)


def _tokens() -> torch.Tensor:
    return torch.randint(0, 1000, (_BATCH, _TOKENS))


def _text() -> dict[str, torch.Tensor]:
    return {"input_ids": _tokens(), "attention_mask": torch.ones(_BATCH, _TOKENS, dtype=torch.long)}


def _timm(name: str, head: str, **options: Any) -> Case:
    def build() -> nn.Module:
        declare_torchvision_operators()
        import timm

        return timm.create_model(name, pretrained=False).eval()

    return Case(name=name, build=build, inputs=_image, head=head, **options)


def _bert() -> nn.Module:
    declare_torchvision_operators()
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig()).eval()


def llama(dtype: torch.dtype = torch.float32, **shape: int) -> nn.Module:
    """A Llama-shaped decoder whose attention is written out, as the peer needs it, and that keeps no cache."""
    declare_torchvision_operators()
    from transformers import LlamaConfig, LlamaForCausalLM

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = LlamaForCausalLM(LlamaConfig(use_cache=False, attn_implementation="eager", **shape))
    finally:
        torch.set_default_dtype(before)
    return model.eval()


BILLION = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
_SMALL_GROUPED = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
LLAMA_3_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def billion_llama() -> nn.Module:
    """1.26 billion parameters in bfloat16, with as many key-value heads as heads."""
    return llama(torch.bfloat16, **BILLION)


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        _timm("resnet50", "fc"),
        _timm("densenet121", "classifier"),
        _timm("mobilenetv2_100", "classifier"),
        _timm("convnext_tiny", "head.fc"),
        Case(name="bert_base", build=_bert, inputs=_text, head="classifier"),
        Case(name="llama_1.26b_bf16", build=billion_llama, inputs=_tokens, head="lm_head", repeats=2),
        _timm("vit_base_patch16_224", "head", repeats=3, peer_works=False),
        _timm("swin_tiny_patch4_window7_224", "head.fc", repeats=3, peer_works=False),
        Case(
            name="llama_grouped_small",
            build=lambda: llama(**_SMALL_GROUPED),
            inputs=_tokens,
            head="lm_head",
            repeats=3,
            peer_works=False,
        ),
    )
}
