"""Small networks that train in seconds, for a first scenario and for tests.

    zoo:digits      a residual network for small images           {"widths": [24, 48, 96], "channels": 1, "classes": 10}
    zoo:table       two hidden layers for tables                  {"inputs": 13, "width": 64, "classes": 3}
    zoo:pets        torchvision's MobileNetV2 with four linear layers behind it: the network of Kenning's tutorial
    zoo:text        a transformer encoder for token numbers       {"classes": 2, "width": 64, "layers": 2, "heads": 4}

Invariant: what they take is what the data of the same kind give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from secateur.core.registry import Registry
from secateur.errors import InputError
from secateur.scenario.digits import DigitNet

NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network of the zoo")


@NETWORKS.add("digits")
def digits(widths: Sequence[int] = (24, 48, 96), channels: int = 1, classes: int = 10) -> nn.Module:
    """A stem, three stages of two residual blocks, a linear head."""
    first, second, third = widths
    return DigitNet((first, second, third), channels=channels, classes=classes)


@NETWORKS.add("table")
def table(inputs: int = 13, width: int = 64, classes: int = 3) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


@NETWORKS.add("pets")
def pets(classes: int = 37) -> nn.Module:
    """MobileNetV2 with the head of Kenning's tutorial: 4,130,853 parameters."""
    try:
        from torchvision.models import mobilenet_v2
    except ModuleNotFoundError:
        raise InputError("zoo:pets needs torchvision; add it with: pip install torchvision") from None
    model = mobilenet_v2(weights=None)
    model.classifier = nn.Sequential(
        nn.Linear(1280, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 128), nn.Linear(128, classes)
    )
    return model


class _Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm, each added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BTD: Tensor, seen_BT: Tensor | None) -> Tensor:
        batch, tokens, _ = x_BTD.shape
        inner = self.norm1(x_BTD)
        q, k, v = (
            layer(inner).view(batch, tokens, self.heads, self.head_dim).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mask = None if seen_BT is None else seen_BT[:, None, None, :].bool()
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x_BTD = x_BTD + self.out(mixed.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_dim))
        return x_BTD + self.feed(self.norm2(x_BTD))


class TextNet(nn.Module):
    """Token and place embeddings, blocks, the mean over tokens that are there, a linear head."""

    def __init__(self, classes: int, width: int, layers: int, heads: int, vocabulary: int, length: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits of the classes."""
        x_BTD = self.tokens(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        for block in self.blocks:
            x_BTD = block(x_BTD, attention_mask)
        x_BTD = self.norm(x_BTD)
        if attention_mask is None:
            return self.head(x_BTD.mean(1))
        seen = attention_mask[:, :, None].to(x_BTD.dtype)
        return self.head((x_BTD * seen).sum(1) / seen.sum(1))


def example_inputs(model: nn.Module) -> list[str]:
    """What a network of this zoo takes, as the command line writes it: one sample of the smallest of its data."""
    first = next(iter(model.parameters()))
    if isinstance(model, TextNet):
        return [f"ids:1x{min(16, model.places.num_embeddings)}"]
    if isinstance(model, DigitNet):
        return [f"1x{first.shape[1]}x8x8"]
    return [f"1x{first.shape[1]}" if first.dim() == 2 else f"1x{first.shape[1]}x224x224"]


@NETWORKS.add("text")
def text(
    classes: int = 2, width: int = 64, layers: int = 2, heads: int = 4, vocabulary: int = 257, length: int = 256
) -> nn.Module:
    """A transformer encoder with a head for classes; 257 tokens are the bytes and one for padding."""
    return TextNet(classes, width, layers, heads, vocabulary, length)
