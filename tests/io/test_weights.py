"""Files that hold no weights are told as such, whatever is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.errors import ArtifactError
from secateur.io.weights import load_weights


@pytest.mark.parametrize("contents", [b"", b"{}", b'{"a": 1}', b"some text\n", bytes(range(256)), b"PK\x03\x04", b"e"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_file_that_holds_no_weights_is_said_to(tmp_path: Path, name: str, contents: bytes) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ArtifactError, match=name):
        load_weights(model, tmp_path / name)
    assert torch.equal(model.weight, before)
