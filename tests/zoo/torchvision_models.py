"""Every torchvision classifier; segmentation, video, optical flow; and what detectors see with, without their boxes.

Whole detectors are absent: they choose boxes by value, in an operator that a CPU build of torchvision may lack. Their
feature pyramids are plain networks and are here under the detector's name.

Four giants keep their block and lose layers: four blocks in `vit_l_16`, `vit_l_32` and `vit_h_14`; ten in
`regnet_y_128gf`, which makes three of its four stages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from .entry import Entry, Inputs, entry, noise
from .shim import declare_torchvision_operators


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    name: str
    shapes: tuple[tuple[int, ...], ...]
    make: Callable[[], nn.Module]

    def build(self) -> nn.Module:
        declare_torchvision_operators()
        return self.make()

    def inputs(self) -> Inputs:
        return tuple(noise(*shape) for shape in self.shapes)


def _model(name: str, size: int, **options: object) -> _Model:
    return _Model(name=name, shapes=((1, 3, size, size),), make=partial(_registered, name, options))


def _video(name: str, frames: int, size: int) -> _Model:
    return _Model(name=name, shapes=((1, 3, frames, size, size),), make=partial(_registered, name, {}))


def _flow(name: str, size: int) -> _Model:
    return _Model(name=name, shapes=((1, 3, size, size),) * 2, make=partial(_registered, name, {}))


def _pyramid(detector: str, size: int) -> _Model:
    make = partial(_backbone, detector)
    return _Model(name=f"{detector}.backbone", shapes=((1, 3, size, size),), make=make)


def _vit(name: str, size: int, *, patch: int, width: int, heads: int) -> _Model:
    make = partial(_short_vit, size, patch, width, heads)
    return _Model(name=name, shapes=((1, 3, size, size),), make=make)


def _registered(name: str, options: Mapping[str, object]) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, weights=None, **options)


def _backbone(detector: str) -> nn.Module:
    return _registered(detector, {"weights_backbone": None}).get_submodule("backbone")


def _short_vit(size: int, patch: int, width: int, heads: int) -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=size, patch_size=patch, num_layers=4, num_heads=heads, hidden_dim=width, mlp_dim=4 * width
    )


def _short_regnet_y_128gf() -> nn.Module:
    from torchvision.models import RegNet
    from torchvision.models.regnet import BlockParams

    blocks = BlockParams.from_init_params(depth=10, w_0=456, w_a=160.83, w_m=2.52, group_width=264, se_ratio=0.25)
    return RegNet(blocks)


_CLASSIFIERS = (
    _model("alexnet", 64),
    _model("convnext_base", 64),
    _model("convnext_large", 64),
    _model("convnext_small", 64),
    _model("convnext_tiny", 64),
    _model("densenet121", 64),
    _model("densenet161", 64),
    _model("densenet169", 64),
    _model("densenet201", 64),
    _model("efficientnet_b0", 64),
    _model("efficientnet_b1", 64),
    _model("efficientnet_b2", 64),
    _model("efficientnet_b3", 64),
    _model("efficientnet_b4", 64),
    _model("efficientnet_b5", 64),
    _model("efficientnet_b6", 64),
    _model("efficientnet_b7", 64),
    _model("efficientnet_v2_l", 64),
    _model("efficientnet_v2_m", 64),
    _model("efficientnet_v2_s", 64),
    _model("mnasnet0_5", 64),
    _model("mnasnet0_75", 64),
    _model("mnasnet1_0", 64),
    _model("mnasnet1_3", 64),
    _model("mobilenet_v2", 64),
    _model("mobilenet_v3_large", 64),
    _model("mobilenet_v3_small", 64),
    _model("regnet_x_16gf", 64),
    _model("regnet_x_1_6gf", 64),
    _model("regnet_x_32gf", 64),
    _model("regnet_x_3_2gf", 64),
    _model("regnet_x_400mf", 64),
    _model("regnet_x_800mf", 64),
    _model("regnet_x_8gf", 64),
    _model("regnet_y_16gf", 64),
    _model("regnet_y_1_6gf", 64),
    _model("regnet_y_32gf", 64),
    _model("regnet_y_3_2gf", 64),
    _model("regnet_y_400mf", 64),
    _model("regnet_y_800mf", 64),
    _model("regnet_y_8gf", 64),
    _model("resnet101", 64),
    _model("resnet152", 64),
    _model("resnet18", 64),
    _model("resnet34", 64),
    _model("resnet50", 64),
    _model("resnext101_32x8d", 64),
    _model("resnext101_64x4d", 64),
    _model("resnext50_32x4d", 64),
    _model("shufflenet_v2_x0_5", 64),
    _model("shufflenet_v2_x1_0", 64),
    _model("shufflenet_v2_x1_5", 64),
    _model("shufflenet_v2_x2_0", 64),
    _model("squeezenet1_0", 64),
    _model("squeezenet1_1", 64),
    _model("swin_b", 64),
    _model("swin_s", 64),
    _model("swin_t", 64),
    _model("swin_v2_b", 64),
    _model("swin_v2_s", 64),
    _model("swin_v2_t", 64),
    _model("vgg11", 64),
    _model("vgg11_bn", 64),
    _model("vgg13", 64),
    _model("vgg13_bn", 64),
    _model("vgg16", 64),
    _model("vgg16_bn", 64),
    _model("vgg19", 64),
    _model("vgg19_bn", 64),
    _model("wide_resnet101_2", 64),
    _model("wide_resnet50_2", 64),
    # The auxiliary classifiers train, and never run in eval mode.
    _model("googlenet", 64, aux_logits=False, init_weights=False),
    _model("inception_v3", 96, aux_logits=False, init_weights=False),
    # Windows of seven must tile every stage.
    _model("maxvit_t", 224),
    _model("vit_b_16", 64, image_size=64),
    _model("vit_b_32", 96, image_size=96),
    _vit("vit_l_16", 64, patch=16, width=1024, heads=16),
    _vit("vit_l_32", 96, patch=32, width=1024, heads=16),
    _vit("vit_h_14", 56, patch=14, width=1280, heads=16),
    _Model(name="regnet_y_128gf", shapes=((1, 3, 64, 64),), make=_short_regnet_y_128gf),
)

_OTHERS = (
    *(
        _model(name, 64, weights_backbone=None)
        for name in (
            "deeplabv3_mobilenet_v3_large",
            "deeplabv3_resnet101",
            "deeplabv3_resnet50",
            "fcn_resnet101",
            "fcn_resnet50",
            "lraspp_mobilenet_v3_large",
        )
    ),
    _pyramid("fasterrcnn_mobilenet_v3_large_fpn", 128),
    _pyramid("fasterrcnn_resnet50_fpn", 128),
    _pyramid("fasterrcnn_resnet50_fpn_v2", 128),
    _pyramid("fcos_resnet50_fpn", 128),
    _pyramid("retinanet_resnet50_fpn", 128),
    _pyramid("retinanet_resnet50_fpn_v2", 128),
    # The smallest image its unpadded last layers accept.
    _pyramid("ssd300_vgg16", 272),
    _pyramid("ssdlite320_mobilenet_v3_large", 192),
    _video("mc3_18", 8, 32),
    _video("r2plus1d_18", 8, 32),
    _video("r3d_18", 8, 32),
    _video("swin3d_t", 8, 64),
    _flow("raft_small", 128),
)


def torchvision_entries() -> tuple[Entry, ...]:
    """One entry per model in the tables."""
    return tuple(entry(f"torchvision/{m.name}", m.build, m.inputs) for m in (*_CLASSIFIERS, *_OTHERS))


def classifiers_without_entry() -> frozenset[str]:
    """The torchvision classifiers, as installed here, that the table does not know."""
    declare_torchvision_operators()
    from torchvision import models

    return frozenset(models.list_models(module=models)) - {model.name for model in _CLASSIFIERS}
