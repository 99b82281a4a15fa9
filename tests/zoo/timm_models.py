"""One architecture of every timm module: the smallest real one that has a head, where an image takes about 0.05 s.

The table was computed once, on one CPU thread, and is kept as text so that a run of the zoo means the same everywhere.
Options stand where even the smallest is too large to be quick: fewer blocks of the same kind, or a narrower classifier.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from .entry import Entry, Inputs, entry, noise
from .shim import declare_torchvision_operators


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The architecture that stands for a module: its timm name, the image's side in pixels, options for its builder."""

    model: str
    size: int
    options: Mapping[str, Any]

    def build(self) -> nn.Module:
        declare_torchvision_operators()
        import timm

        return timm.create_model(self.model, pretrained=False, **self.options)


def _at(model: str, size: int, **options: object) -> Choice:
    return Choice(model=model, size=size, options=options)


MODULES: Mapping[str, Choice] = {
    "beit": _at("beit_base_patch16_224", 128, img_size=128, depth=3),
    "byoanet": _at("eca_halonext26ts", 256),
    "byobnet": _at("mobileone_s1", 224),
    "cait": _at("cait_xxs24_224", 160, img_size=160),
    "coat": _at("coat_tiny", 96, img_size=96),
    "convit": _at("convit_tiny", 224),
    "convmixer": _at("convmixer_768_32", 64),
    "convnext": _at("convnext_zepto_rms", 224),
    "cpubone": _at("cpubone_nano", 224),
    "crossvit": _at("crossvit_tiny_240", 240),
    "csatv2": _at("csatv2", 256),
    "cspnet": _at("cs3darknet_focus_s", 256),
    "cspnext": _at("cspnext_tiny", 224),
    "davit": _at("davit_tiny", 96),
    "deepseek_vit": _at("deepseek_vit_412m", 126, depth=2, num_classes=10),
    "deit": _at("deit_tiny_patch16_224", 224),
    "densenet": _at("densenet121", 160),
    "dla": _at("dla46x_c", 224),
    "dpn": _at("dpn48b", 224),
    "edgenext": _at("edgenext_xx_small", 256),
    "efficientformer": _at("efficientformer_l1", 224),
    "efficientformer_v2": _at("efficientformerv2_s0", 224),
    "efficientnet": _at("mobilenetv2_035", 224),
    "efficientvim": _at("efficientvim_m1", 224),
    "efficientvit_mit": _at("efficientvit_b0", 224),
    "efficientvit_msra": _at("efficientvit_m0", 224),
    "eva": _at("eva02_tiny_patch14_224", 224),
    "fasternet": _at("fasternet_t0", 224),
    "fastvit": _at("fastvit_t8", 256),
    "focalnet": _at("focalnet_tiny_srf", 128),
    "gcvit": _at("gcvit_xxtiny", 192, img_size=192),
    "gemma4_vit": _at("gemma4_vit_167m", 96, depth=2, num_classes=10),
    "ghostnet": _at("ghostnet_050", 224),
    "hardcorenas": _at("hardcorenas_b", 224),
    "hgnet": _at("hgnetv2_b0", 224),
    "hiera": _at("hiera_tiny_224", 128, img_size=128),
    "hieradet_sam2": _at("hieradet_small", 128),
    "hrnet": _at("hrnet_w18_small", 224),
    "iformer": _at("iformer_t", 224),
    "inception_next": _at("inception_next_atto", 224),
    "inception_resnet_v2": _at("inception_resnet_v2", 96),
    "inception_v3": _at("inception_v3", 128),
    "inception_v4": _at("inception_v4", 96),
    "lcnetv2": _at("lcnetv2_small", 224),
    "levit": _at("levit_128s", 224),
    "lowformer": _at("lowformer_b0", 224),
    "mambaout": _at("mambaout_femto", 224),
    "maxxvit": _at("maxvit_pico_rw_256", 192, img_size=192),
    "metaformer": _at("poolformerv2_s12", 224),
    "mlp_mixer": _at("gmlp_ti16_224", 224),
    "mobilenetv3": _at("mobilenetv3_small_050", 224),
    "mobilenetv5": _at("mobilenetv5_base", 64, num_classes=10),
    "mobilevit": _at("mobilevit_xxs", 256),
    "mvitv2": _at("mvitv2_tiny", 128, img_size=128),
    "naflexvit": _at("naflexvit_base_patch16_gap", 128, depth=3),
    "nasnet": _at("nasnetalarge", 96, num_features=1056, stem_size=32),
    "nest": _at("nest_tiny", 128, img_size=128),
    "nextvit": _at("nextvit_small", 128),
    "nfnet": _at("nf_regnet_b0", 192),
    "pit": _at("pit_ti_224", 224),
    "pnasnet": _at("pnasnet5large", 64),
    "pvt_v2": _at("pvt_v2_b0", 224),
    "qwen3_vit": _at("qwen3_vit_88m", 96, depth=2, num_classes=10),
    "rdnet": _at("rdnet_tiny", 128),
    "regnet": _at("regnetx_002", 224),
    "repghost": _at("repghostnet_050", 224),
    "repvit": _at("repvit_m1", 224),
    "res2net": _at("res2next50", 128),
    "resnest": _at("resnest14d", 192),
    "resnet": _at("resnet10t", 176),
    "resnetv2": _at("resnetv2_18", 224),
    "rexnet": _at("rexnet_100", 224),
    "selecsls": _at("selecsls42", 128),
    "senet": _at("legacy_seresnet18", 224),
    "sequencer": _at("sequencer2d_s", 96, img_size=96),
    "shvit": _at("shvit_s1", 224),
    "sknet": _at("skresnet18", 224),
    "starnet": _at("starnet_s050", 224),
    "swiftformer": _at("swiftformer_xs", 224),
    "swin_transformer": _at("swin_tiny_patch4_window7_224", 224),
    "swin_transformer_v2": _at("swinv2_tiny_window8_256", 128, img_size=128),
    "swin_transformer_v2_cr": _at("swinv2_cr_tiny_224", 128, img_size=128),
    "tiny_vit": _at("tiny_vit_5m_224", 224),
    "tnt": _at("tnt_s_legacy_patch16_224", 128, img_size=128),
    "tresnet": _at("tresnet_m", 128),
    "twins": _at("twins_svt_small", 128, img_size=128),
    "vgg": _at("vgg11", 64, mlp_ratio=0.125),
    "visformer": _at("visformer_tiny", 224),
    "vision_transformer": _at("vit_tiny_patch16_224", 224),
    "vision_transformer_hybrid": _at("vit_tiny_r_s16_p8_224", 224),
    "vision_transformer_relpos": _at("vit_srelpos_small_patch16_224", 160, img_size=160),
    "vision_transformer_sam": _at("samvit_base_patch16_224", 128, img_size=128, depth=3, global_attn_indexes=(2,)),
    "vitamin": _at("vitamin_small_224", 128, img_size=128),
    "volo": _at("volo_d1_224", 96, img_size=96),
    "vovnet": _at("ese_vovnet19b_slim_dw", 224),
    "xception": _at("legacy_xception", 128),
    "xception_aligned": _at("xception41p", 128),
    "xcit": _at("xcit_nano_12_p8_224", 192, img_size=192),
}


def timm_entries() -> tuple[Entry, ...]:
    """One entry per row of the table, named after the architecture."""
    return tuple(entry(f"timm/{c.model}", c.build, partial(_image, c.size)) for c in MODULES.values())


def modules_without_entry() -> frozenset[str]:
    """The timm modules, as installed here, that the table does not know."""
    declare_torchvision_operators()
    import timm

    return frozenset(timm.list_modules()) - MODULES.keys()


def _image(size: int) -> Inputs:
    return (noise(1, 3, size, size),)
