"""Distillation in somebody else's loop: by `distilling`, on transformers.Trainer, on accelerate, and by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.zoo.shim import declare_torchvision_operators
from torch import nn

import secateur as sc
from secateur.errors import InputError
from secateur.training import Distillation, distilling, finetune, logit_loss

declare_torchvision_operators()
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

IDS = torch.randint(2, 40, (16, 10), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": IDS, "labels": IDS}


def teacher(layers: int = 3) -> Any:
    torch.manual_seed(0)
    shape: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, num_key_value_heads=2, use_cache=False, **shape)).eval()


def student(whole: Any, share: str = "60%", **config: Any) -> Any:
    model, _ = sc.prune(copy.deepcopy(whole), "magnitude", {"params": share}, {"input_ids": IDS[:2]}, config or None)
    return model


def divergence(model: Any, whole: Any) -> float:
    with torch.no_grad():
        return float(logit_loss(model.eval()(IDS), whole(IDS), 1.0))


def test_in_training_the_loss_is_the_lesson_and_in_evaluation_the_task() -> None:
    whole = teacher()
    small = student(whole)
    task = float(small.eval()(**BATCH).loss)
    with distilling(small, Distillation(teacher=whole, weight=0.25, temperature=3.0)):
        assert float(small(**BATCH).loss) == pytest.approx(task)
        loss = small.train()(**BATCH).loss
        expected = 0.75 * task + 0.25 * float(logit_loss(small(**BATCH), whole(IDS), 3.0))
        assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(small(**BATCH).loss) == pytest.approx(task)
    assert not small._forward_hooks


def test_a_loop_of_ones_own_learns_without_labels() -> None:
    whole = teacher()
    small = student(whole)
    before = divergence(small, whole)
    optimizer = torch.optim.AdamW(small.parameters(), lr=3e-3)
    with distilling(small, Distillation(teacher=whole, weight=1.0)):
        for _ in range(15):
            small.train()
            optimizer.zero_grad()
            small(input_ids=IDS)["loss"].backward()
            optimizer.step()
    assert divergence(small, whole) < 0.7 * before


def test_transformers_trainer_distils(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    whole = teacher()
    small = student(whole)
    before = divergence(small, whole)
    rows = [{"input_ids": ids, "labels": ids} for ids in IDS]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=15,
        learning_rate=3e-3,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    with distilling(small, Distillation(teacher=whole, weight=1.0)):
        Trainer(small, arguments, train_dataset=rows).train()  # type: ignore[arg-type]
    assert divergence(small, whole) < 0.7 * before


def test_gradients_gathered_over_several_batches_are_those_of_one() -> None:
    """What Trainer does: it tells the model how many tokens a step has, and adds up."""
    whole = teacher()
    small = student(whole).train()
    wish = Distillation(teacher=whole, weight=0.5)
    gradients = []
    with distilling(small, wish):
        for parts in ([IDS], IDS.split(4)):
            small.zero_grad()
            for ids in parts:
                small(input_ids=ids, labels=ids, num_items_in_batch=torch.tensor(16 * 9)).loss.backward()
            gradients.append(small.model.norm.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_accelerate_without_a_trainer_distils() -> None:
    accelerate = pytest.importorskip("accelerate")
    whole = teacher()
    small = student(whole)
    before = divergence(small, whole)
    accelerator = accelerate.Accelerator(cpu=True)
    loader = torch.utils.data.DataLoader([{"input_ids": ids, "labels": ids} for ids in IDS], batch_size=8)  # type: ignore[arg-type]
    model, optimizer, loader = accelerator.prepare(small, torch.optim.AdamW(small.parameters(), lr=3e-3), loader)
    with distilling(small, Distillation(teacher=whole, weight=1.0)):
        for _ in range(8):
            for batch in loader:
                model.train()
                optimizer.zero_grad()
                accelerator.backward(model(**batch).loss)
                optimizer.step()
    assert divergence(small, whole) < 0.7 * before


def test_padding_teaches_nothing() -> None:
    whole = teacher()
    small = student(whole).train()
    mask = torch.ones_like(IDS)
    mask[3, 5:] = 0
    other = IDS.masked_fill(mask == 0, 7)
    with distilling(small, Distillation(teacher=whole, weight=1.0, features=["model.norm"])):
        losses = [float(small(input_ids=ids, attention_mask=mask)["loss"]) for ids in (IDS, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_features_follow_layers_that_were_renumbered() -> None:
    whole = teacher(4)
    small = student(whole, "80%", depth="only")
    assert len(small.model.layers) < 4
    name = f"model.layers.{len(small.model.layers) - 1}.mlp.down_proj"
    wish = Distillation(teacher=whole, weight=0.0, features=[name])
    with distilling(small, wish):
        loss = float(small.train()(**BATCH).loss)
    own = float(small.eval()(**BATCH).loss)
    seen: dict[str, torch.Tensor] = {}
    last = next(i for i in range(4) if torch.equal(_down(whole, i), _down(small, -1)))
    for key, module in (("ours", small.get_submodule(name)), ("theirs", whole.model.layers[last].mlp.down_proj)):
        module.register_forward_hook(lambda m, a, out, key=key: seen.__setitem__(key, out))
    small(**BATCH)
    whole(IDS)
    apart = (seen["ours"] - seen["theirs"]).square().mean() / seen["theirs"].square().mean()
    assert loss == pytest.approx(own + float(apart), rel=1e-4)


def _down(model: Any, layer: int) -> torch.Tensor:
    return model.model.layers[layer].mlp.down_proj.weight


def test_a_projection_compares_what_no_plan_relates_and_is_trained() -> None:
    whole = teacher()
    small = student(whole, "40%")
    width = len(small.model.norm.weight)
    assert width < 32
    with pytest.raises(InputError, match=r"give a projection: features=\{'model.layers.1': nn.Linear"):
        finetune(small, [BATCH], epochs=1, teacher=Distillation(teacher=whole, features=["model.layers.1"]))
    projection = nn.Linear(width, 32)
    was = projection.weight.detach().clone()
    wish = Distillation(teacher=whole, features={"model.layers.1": projection, "model.embed_tokens": None})
    finetune(small, [BATCH], epochs=4, teacher=wish, config={"lr": 1e-2})
    assert not torch.equal(projection.weight, was)


def test_an_output_without_a_place_for_a_loss_is_refused() -> None:
    net, whole = nn.Linear(3, 4), nn.Linear(3, 4)
    with distilling(net, whole), pytest.raises(InputError, match="an output with a loss"):
        net.train()(torch.randn(2, 3))


def test_a_teacher_beside_no_labels_needs_the_whole_weight() -> None:
    whole = teacher()
    small = student(whole).train()
    with distilling(small, whole), pytest.raises(InputError, match="weight=1"):
        small(input_ids=IDS)
