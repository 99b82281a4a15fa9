"""Once a call is over nothing that it looked at is still in memory: no activation hangs on in a circle through autograd."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from tests.torch.language import llama, texts

import secateur as sc

TEXT = [{**batch, "labels": batch["input_ids"]} for batch in texts()]
LENGTH = TEXT[0]["input_ids"].shape[1]


def activations() -> int:
    """Tensors of one number, or more, for each place of the text, that somebody still holds."""
    gc.collect()
    return sum(o.dim() > 1 and o.shape[1] == LENGTH for o in gc.get_objects() if type(o) is torch.Tensor)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("progressive", {"steps": 2}),
        ("gradnas", {}),
        ("minitron", {}),
        *(
            ("magnitude", {"criterion": name})
            for name in ("brain_surgeon", "gate_gradient", "taylor", "activation_norm")
        ),
        ("magnitude", {"compensate": "answers"}),
    ],
)
def test_no_activation_is_held_after_a_call(mode: str, options: dict[str, Any]) -> None:
    before = activations()
    config = {"data_loader": TEXT, "collect_func": lambda batch: batch, **options}
    model, _ = sc.prune(llama(), mode, {"params": "80%"}, TEXT[0], config)
    assert activations() == before
    assert model is not None
