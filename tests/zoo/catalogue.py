"""The zoo's list: what to build, and what to feed it.

    for entry in catalogue("timm"):
        model, inputs = entry.build(), entry.inputs()

Reading the list imports none of timm, torchvision and transformers; building an entry imports the one it needs.
"""

from typing import Literal

from .entry import Entry, forward, randomise_norms
from .hf_models import hf_entries
from .timm_models import timm_entries
from .torchvision_models import torchvision_entries

__all__ = ["Entry", "Family", "catalogue", "forward", "randomise_norms", "subset"]

Family = Literal["timm", "torchvision", "hf"]

_FAMILIES = {"timm": timm_entries, "torchvision": torchvision_entries, "hf": hf_entries}


def catalogue(family: Family | None = None) -> tuple[Entry, ...]:
    """All entries of a family, or of all three, in a fixed order."""
    if family is not None:
        return _FAMILIES[family]()
    return tuple(entry for entries in _FAMILIES.values() for entry in entries())


def subset() -> tuple[str, ...]:
    """Names of entries that are quick and, between them, couple channels in most of the ways the zoo knows."""
    return _SUBSET


_SUBSET = (
    # Convolutions: plain, residual, dense, grouped, shuffled, gated, split, depthwise.
    "torchvision/alexnet",
    "torchvision/resnet18",
    "torchvision/densenet121",
    "torchvision/mobilenet_v3_small",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/squeezenet1_1",
    "torchvision/googlenet",
    "torchvision/regnet_y_400mf",
    "torchvision/lraspp_mobilenet_v3_large",
    "torchvision/ssdlite320_mobilenet_v3_large.backbone",
    "timm/dla46x_c",
    "timm/dpn48b",
    "timm/cs3darknet_focus_s",
    "timm/ghostnet_050",
    "timm/resnest14d",
    "timm/hrnet_w18_small",
    "timm/starnet_s050",
    "timm/convnext_zepto_rms",
    # Attention over images.
    "timm/vit_tiny_patch16_224",
    "timm/levit_128s",
    "timm/efficientvit_m0",
    "timm/mobilevit_xxs",
    "timm/edgenext_xx_small",
    "timm/swinv2_cr_tiny_224",
    "hf/dinov2",
    "hf/swin",
    "hf/segformer",
    # Text: encoders, decoders, both; shared layers, grouped queries, experts, latent attention, state spaces.
    "hf/bert",
    "hf/albert",
    "hf/deberta_v2",
    "hf/gpt2",
    "hf/gptj",
    "hf/llama",
    "hf/falcon_grouped",
    "hf/gemma3",
    "hf/mixtral",
    "hf/gpt_oss",
    "hf/deepseek_v3",
    "hf/t5",
    "hf/whisper",
    "hf/mamba",
    "hf/mamba2",
    "hf/zamba2",
    "hf/qwen3_next",
    # Two inputs, two towers.
    "hf/clip",
)
