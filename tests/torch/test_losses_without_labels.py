"""What a loss is where nobody says: of the next token for a causal model, else agreement; and padding is part of neither."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.zoo.shim import declare_torchvision_operators
from torch import nn
from torch.nn import functional

import secateur as sc
from secateur.torch.compensation import Compensator
from secateur.torch.measuring.targets import aimed, with_a_loss
from secateur.torch.running.data import Data
from secateur.torch.running.padding import Padding

declare_torchvision_operators()
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM  # noqa: E402

IDS = torch.randint(2, 50, (6, 12), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(6, 12, dtype=torch.long)
MASK[0, 7:] = 0
MASK[3, 4:] = 0


def llama() -> Any:
    torch.manual_seed(0)
    shape: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=2, use_cache=False, **shape)).eval()


def masked_bert() -> Any:
    torch.manual_seed(0)
    shape: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertForMaskedLM(BertConfig(vocab_size=50, **shape)).eval()


def loss(model: nn.Module, batch: Any) -> float:
    data = with_a_loss(Data(loader=[batch]), model)
    with torch.no_grad():
        return float(data.loss_of(data.output(model, batch), batch))


def test_a_causal_model_is_asked_for_the_next_token() -> None:
    model = llama()
    assert loss(model, {"input_ids": IDS}) == pytest.approx(float(model(IDS, labels=IDS).loss), rel=1e-5)


def test_text_may_be_a_tensor_of_its_own() -> None:
    assert loss(llama(), IDS) == pytest.approx(loss(llama(), {"input_ids": IDS}))


def test_padding_is_no_next_token() -> None:
    model, other = llama(), IDS.clone()
    other[MASK == 0] = 3
    batches = [{"input_ids": ids, "attention_mask": MASK} for ids in (IDS, other)]
    assert loss(model, batches[0]) == pytest.approx(loss(model, batches[1]), rel=1e-5)
    assert loss(model, {"input_ids": IDS}) != pytest.approx(loss(model, {"input_ids": other}), rel=1e-5)


def test_looking_for_the_text_leaves_the_batch_as_it_is() -> None:
    ids = IDS.clone()
    loss(llama(), {"input_ids": ids})
    assert torch.equal(ids, IDS)


def test_what_sees_all_tokens_is_asked_for_agreement_not_for_the_next_token() -> None:
    model = masked_bert()
    data = with_a_loss(Data(loader=[{"input_ids": IDS}]), model)
    assert type(data.loss).__name__ == "_Agreement"


def test_labels_are_never_passed_over() -> None:
    model = llama()
    batch = {"input_ids": IDS, "labels": IDS}
    assert with_a_loss(Data(loader=[batch]), model).loss is None


def test_the_gradient_of_agreement_squared_is_the_curvature_of_the_divergence() -> None:
    torch.manual_seed(0)
    logits = torch.randn(20000, 5).mul(0).add(torch.tensor([2.0, 1.0, 0.0, 0.0, -1.0]))
    gate = torch.ones(20000, 1, requires_grad=True)
    data = aimed(Data(loader=[logits]), "agreement", nn.Identity())
    data.loss_of(gate * logits, logits).backward()
    assert gate.grad is not None
    chances = logits[0].softmax(0)
    variance = (chances * logits[0] ** 2).sum() - (chances * logits[0]).sum() ** 2
    assert float((gate.grad * 20000).square().mean()) == pytest.approx(float(variance), rel=0.05)


def test_labels_of_tokens_are_read_shifted_or_not() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids))

    model = Reader()
    logits = model(IDS)
    shifted = functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    data = Data(loader=[])
    assert torch.allclose(data.loss_of(logits, (IDS, IDS)), shifted)
    ahead = (IDS[:, :-1], IDS[:, 1:])  # as a loader that shifts by itself gives them
    assert torch.allclose(data.loss_of(model(ahead[0]), ahead), shifted)


@pytest.mark.parametrize("build", [llama, masked_bert])
def test_progressive_needs_no_labels(build: Any) -> None:
    batch = {"input_ids": IDS, "attention_mask": MASK}
    model, result = sc.prune(build(), "progressive", {"params": "70%"}, batch, {"data_loader": [batch], "steps": 2})
    assert result.params <= 0.7 * result.before["params"]
    assert torch.isfinite(model(**batch).logits).all()


@pytest.mark.parametrize("criterion", ["second_moment", "activation_norm", "gate_gradient", "block_influence"])
def test_what_padding_holds_changes_no_score(criterion: str) -> None:
    """Left-padded text in a causal model: what stands there reaches nobody, but for these rows themselves."""
    model, mask = llama(), MASK.flip(1)
    other = IDS.clone()
    other[mask == 0] = 3
    found = []
    for ids in (IDS, other):
        batch = {"input_ids": ids, "attention_mask": mask}
        graph = sc.trace(model, batch, depth="only" if criterion == "block_influence" else False)
        found.append(sc.criteria.CRITERIA[criterion](data=with_a_loss(Data(loader=[batch]), model))(graph, model))
    assert found[0]
    for name, values in found[0].items():
        np.testing.assert_allclose(values, found[1][name], rtol=1e-4)


def test_padding_is_no_row_of_a_fit() -> None:
    model, mask = llama(), MASK
    record = Compensator(model, Data(loader=[{"input_ids": IDS, "attention_mask": mask}]), samples=6).record
    seen = record.contractions["model.layers.0.mlp.down_proj.weight#1"].seen[0]
    assert seen.at.tolist() == mask.flatten().nonzero().flatten().tolist()


def test_masks_are_known_by_what_the_model_calls_them() -> None:
    class Encoder(nn.Module):
        def forward(self, x: torch.Tensor, src_key_padding_mask: torch.Tensor) -> torch.Tensor:
            return x

    padding = Padding.of(Encoder(), (torch.randn(6, 12, 4), MASK == 0))
    live = padding.live((6, 12))
    assert live is not None
    assert torch.equal(live, MASK != 0)
    assert padding.live((6, 13)) is None
    assert padding.only(torch.randn(6, 12, 4)).shape == (int(MASK.sum()), 4)
