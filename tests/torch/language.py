"""Small language models with random weights, and calibration text for them."""

from pathlib import Path
from typing import Any

import torch
from tests.zoo.shim import declare_torchvision_operators
from torch import Tensor, nn

VOCABULARY = 64


def llama(layers: int = 3, **more: object) -> nn.Module:
    """Grouped queries, rotary positions, a gated feed-forward; called with its defaults."""
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 32,
    }
    return hugging_face("Llama", "ForCausalLM", **{**shape, **more})


def hugging_face(family: str, head: str, **config: object) -> nn.Module:
    """A model of transformers with weights that leave a trace in the output."""
    declare_torchvision_operators()
    import transformers

    torch.manual_seed(0)
    made = getattr(transformers, f"{family}Config")(
        initializer_range=0.1, bos_token_id=1, eos_token_id=2, pad_token_id=0, **config
    )
    return getattr(transformers, family + head)(made).eval()


def ids(seed: int = 0, batch: int = 2, length: int = 9) -> dict[str, Tensor]:
    """A batch of token ids, as keyword arguments."""
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(3, VOCABULARY, (batch, length), generator=generator)}


def texts(number: int = 3) -> list[dict[str, Tensor]]:
    """Batches to calibrate on."""
    return [ids(seed + 1) for seed in range(number)]


def read_back(model: nn.Module, folder: Path) -> Any:
    """What stock code makes of a checkpoint, its weights in memory of their own.

    In the file they begin at whatever address comes; kernels of some processors then add up in another order, and answers that
    are to be equal bit for bit differ in the last.
    """
    kind: Any = type(model)
    loaded = kind.from_pretrained(folder).eval()
    loaded.load_state_dict({name: tensor.clone() for name, tensor in loaded.state_dict().items()}, assign=True)
    return loaded
