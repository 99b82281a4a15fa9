"""The networks, and how a narrowed one is rebuilt from nothing but its weights.

    build("resnet20")                     the whole network, initialised from torch's seed
    state_of(model)                       what it takes to build it again
    rebuild("resnet20", state)            every layer resized to the shapes in ``state``

Invariant: no forward names a width, so the shapes of a state dict say what there is to know of an architecture; a tool's
result is judged as the network rebuilt here, not as whatever object the tool returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

VISION = ("resnet20", "mobilenetv2")
_HEAD_SIZES = "head_sizes"


class _Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        same = stride == 1 and inputs == outputs
        self.down = nn.Sequential() if same else nn.Sequential(_conv(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.down(x))


class ResNet20(nn.Module):
    """Nine basic blocks of 16, 32 and 64 channels; the stem halves the picture, which quarters the time of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        blocks, inputs = [], 16
        for stage, width in enumerate((16, 32, 64)):
            for block in range(3):
                blocks.append(_Basic(inputs, width, 2 if stage and not block else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.blocks(self.relu(self.bn1(self.conv1(x))))), 1))


class _Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.expand = nn.Sequential(_conv(inputs, hidden), nn.BatchNorm2d(hidden), nn.ReLU6())
        depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(hidden), nn.ReLU6())
        self.project = nn.Sequential(_conv(hidden, outputs), nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Ten inverted residuals of 16 to 64 channels, each expanded fourfold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        blocks, inputs = [], 16
        for width, number, stride in ((16, 2, 1), (24, 3, 2), (40, 3, 1), (64, 2, 2)):
            for block in range(number):
                blocks.append(_Inverted(inputs, width, stride if not block else 1, 4))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(_conv(64, 192), nn.BatchNorm2d(192), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.last(self.blocks(self.stem(x)))), 1))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def build(name: str, minilm: Path | None = None) -> nn.Module:
    """The whole network; ``minilm`` is the folder with the encoder's config.json."""
    if name == "resnet20":
        return ResNet20()
    if name == "mobilenetv2":
        return MobileNetV2()
    from tests.zoo.shim import declare_torchvision_operators

    declare_torchvision_operators()  # transformers imports torchvision where it is installed
    from transformers import BertConfig, BertForSequenceClassification

    assert minilm is not None, "the text network needs the folder of its configuration"
    config = BertConfig.from_json_file(minilm / "config.json")
    config.num_labels = 2
    config._attn_implementation = "eager"
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return BertForSequenceClassification(config)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """All that `rebuild` needs: the state dict, and the one size of an attention that no shape tells."""
    state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    sizes = [m.attention_head_size for m in model.modules() if hasattr(m, "attention_head_size")]
    return {**state, _HEAD_SIZES: torch.tensor(sizes)} if sizes else state


def rebuild(name: str, state: Mapping[str, Tensor], minilm: Path | None = None) -> nn.Module:
    """The network with these weights, whatever their widths."""
    model = build(name, minilm)
    module: Any
    for path, module in model.named_modules():
        weight = state.get(f"{path}.weight")
        if weight is not None:
            _resize(module, weight, state.get(f"{path}.bias"))
    attentions: list[Any] = [m for m in model.modules() if hasattr(m, "attention_head_size")]
    for attention, size in zip(attentions, state.get(_HEAD_SIZES, torch.empty(0)).tolist(), strict=True):
        attention.attention_head_size, attention.all_head_size = size, attention.query.out_features
        attention.num_attention_heads = attention.all_head_size // size
    model.load_state_dict({name: tensor for name, tensor in state.items() if name != _HEAD_SIZES})
    return model.eval()


def _resize(module: Any, weight: Tensor, bias: Tensor | None) -> None:
    if bias is not None or module.__dict__.get("_parameters", {}).get("bias") is not None:
        module.bias = None if bias is None else nn.Parameter(torch.empty_like(bias))
    module.weight = nn.Parameter(torch.empty_like(weight))
    if isinstance(module, nn.Conv2d):
        module.groups = weight.shape[0] if module.groups > 1 else 1
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = len(weight)
        module.running_mean, module.running_var = torch.zeros(len(weight)), torch.ones(len(weight))
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Logits of a batch of digits, or of mails (ids and attention mask)."""
    if x.dim() == 3:
        return model(x[:, 0], attention_mask=x[:, 1]).logits
    return model(x)


def macs(model: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of convolutions and matrix products for the first example of a batch, by torch's counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(model, x[:1])
    return counter.get_total_flops() // 2


def encoder_params(model: Any) -> int:
    """Parameters of the encoder's layers; embeddings, pooler and classifier are not part of the text budget."""
    return sum(p.numel() for p in model.bert.encoder.parameters())


def cost(name: str, model: nn.Module, x: Tensor) -> int:
    """What the budget is about: MACs of a vision network, encoder parameters of the text network."""
    return macs(model, x) if name in VISION else encoder_params(model)
