"""Saved and restored, bit for bit; and what `save` refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import EXAMPLES, Decoder, Recurrent, Residual, Shared, everything, narrowed
from safetensors.torch import load_file
from torch import nn

from secateur.errors import ArtifactError, InputError, PlanError
from secateur.io import atomic
from secateur.io.artifact import restore, save
from secateur.torch.apply import apply, plans_of
from secateur.torch.trace import trace


class Lent(nn.Module):
    """A depthwise convolution that two blocks hold."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))


def test_a_module_under_several_names_is_saved_as_one(tmp_path: Path) -> None:
    def net() -> nn.Module:
        shared = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        return nn.Sequential(nn.Conv2d(1, 8, 3), Lent(shared), Lent(shared), nn.Conv2d(8, 2, 1)).eval()

    model, x = net(), torch.randn(2, 1, 8, 8)
    graph = trace(model, x)
    small = apply(model, graph.plan({"0.out_channels": range(5)}))
    save(small, tmp_path / "small")
    assert torch.equal(restore(net(), tmp_path / "small")(x), small(x))


class MakesATable(nn.Module):
    """A table of distances that is no part of its state dict, made when it first runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 4)
        self.register_buffer("table", None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            steps = torch.arange(x.shape[1]).float()
            self.register_buffer("table", -(steps[:, None] - steps).abs(), persistent=False)
        h = self.first(x)
        return self.last((h @ h.mT + self.table).softmax(-1) @ h)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_a_table_that_the_first_run_makes_may_be_there_or_not(tmp_path: Path, before: bool, after: bool) -> None:
    model, x = MakesATable().eval(), torch.randn(2, 8, 6)
    if before:
        model(x)
    small = apply(model, trace(model, x).plan({"first.out_features": range(5)}))
    wanted = small(x)
    save(small, tmp_path / "small")
    fresh = MakesATable().eval()
    if after:
        fresh(x)
    assert torch.equal(restore(fresh, tmp_path / "small")(x), wanted)


class Leaky(nn.Module):
    """Spiking neurons, whose charge is empty until the first call tells its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("charge", torch.zeros(0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.charge.shape != x.shape:
            self.charge = torch.zeros_like(x)
        self.charge = 0.9 * self.charge + x
        return (self.charge > 0.5).float()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_state_that_waits_for_a_first_run(tmp_path: Path, before: bool, after: bool) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 24), Leaky(), nn.Linear(24, 16), Leaky(), nn.Linear(16, 3)).eval()

    model, x = net(), torch.randn(2, 6)
    if before:
        model(x)
    graph = trace(model, x)
    assert {w.name for w in graph.free} == {"0.out_features", "2.out_features"}
    small = apply(model, graph.plan({"0.out_features": range(5), "2.out_features": range(3, 9)}))
    save(small, tmp_path / "small")
    fresh = net()
    if after:
        fresh(x)
    back = restore(fresh, tmp_path / "small")
    assert [torch.equal(back(y), small(y)) for y in (x, -x, 2 * x)] == [True] * 3


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_restored_is_what_was_saved_bit_for_bit(kind: type[nn.Module], tmp_path: Path) -> None:
    small = narrowed(kind)
    save(small, tmp_path / "small")
    torch.manual_seed(1)
    fresh = kind().eval()
    back = restore(fresh, tmp_path / "small")
    assert back is fresh
    assert everything(back) == everything(small)
    assert torch.equal(back(EXAMPLES[kind]), small(EXAMPLES[kind]))
    assert plans_of(back) == plans_of(small)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_come_from_the_folder(dtype: torch.dtype, tmp_path: Path) -> None:
    small = narrowed(Decoder).to(dtype)
    save(small, tmp_path)
    back = restore(Decoder().eval(), tmp_path)
    assert everything(back) == everything(small)


def test_successive_prunings_are_restored_in_one_go(tmp_path: Path) -> None:
    for kind in EXAMPLES:
        twice = narrowed(kind, model=narrowed(kind))
        assert len(plans_of(twice)) == 2
        save(twice, tmp_path / kind.__name__)
        assert everything(restore(kind().eval(), tmp_path / kind.__name__)) == everything(twice)


def test_what_was_restored_can_be_pruned_trained_and_saved_again(tmp_path: Path) -> None:
    save(narrowed(Residual), tmp_path / "one")
    back = restore(Residual(), tmp_path / "one")
    back(EXAMPLES[Residual]).sum().backward()
    torch.optim.SGD(back.parameters(), lr=0.1).step()
    save(back, tmp_path / "two")
    assert everything(restore(Residual(), tmp_path / "two")) == everything(back)
    again = narrowed(Residual, model=restore(Residual(), tmp_path / "two"))
    save(again, tmp_path / "two")
    assert everything(restore(Residual().eval(), tmp_path / "two")) == everything(again)


def test_the_fresh_model_keeps_what_is_its_own(tmp_path: Path) -> None:
    save(narrowed(Residual), tmp_path)
    fresh = Residual().train()
    fresh.stem.weight.requires_grad_(False)
    back = restore(fresh, tmp_path)
    assert back.training
    assert not back.stem.weight.requires_grad
    assert not back.head.bias.requires_grad
    assert back.back.weight.requires_grad
    assert back.inner.weight.note == "no weight decay"


def test_ties_are_kept_and_stored_once(tmp_path: Path) -> None:
    save(narrowed(Decoder), tmp_path)
    back = restore(Decoder(), tmp_path)
    assert back.unembed.weight is back.embed.weight
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(name.endswith("embed.weight") for name in stored) == 1
    shared = narrowed(Shared)
    save(shared, tmp_path / "shared")
    fresh = restore(Shared(), tmp_path / "shared")
    assert fresh.again is fresh.middle


def test_parameters_that_share_memory_are_stored_once(tmp_path: Path) -> None:
    small = narrowed(Recurrent)
    small.lstm.bias_hh_l0.data = small.lstm.bias_ih_l0.data
    save(small, tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text())["weights"]["aliases"] == {
        "lstm.bias_hh_l0": "lstm.bias_ih_l0"
    }
    assert everything(restore(Recurrent().eval(), tmp_path)) == everything(small)


def test_a_model_without_weights_can_be_restored_onto(tmp_path: Path) -> None:
    small = narrowed(Residual)
    save(small, tmp_path)
    with torch.device("meta"):
        fresh = Residual().eval()
    assert everything(restore(fresh, tmp_path)) == everything(small)


def test_buffers_that_only_the_constructor_makes_need_a_real_device(tmp_path: Path) -> None:
    save(narrowed(Decoder), tmp_path)
    with torch.device("meta"):
        fresh = Decoder()
    with pytest.raises(ArtifactError, match="mask is not stored and has no values here"):
        restore(fresh, tmp_path)
    assert all(p.is_meta for p in fresh.parameters())


def test_the_weights_are_an_ordinary_state_dict(tmp_path: Path) -> None:
    small = narrowed(Residual)
    save(small, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() == small.state_dict().keys()


def test_restoring_runs_no_model_and_draws_no_random_numbers(tmp_path: Path) -> None:
    save(narrowed(Residual), tmp_path)
    fresh = Residual()
    fresh.forward = None  # type: ignore[assignment, method-assign]
    before = torch.get_rng_state()
    restore(fresh, tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_the_restored_model_does_not_lean_on_the_file(tmp_path: Path) -> None:
    small = narrowed(Residual)
    save(small, tmp_path / "small")
    back = restore(Residual().eval(), tmp_path / "small")
    with (tmp_path / "small" / "model.safetensors").open("r+b") as file:
        file.write(b"\0" * os.fstat(file.fileno()).st_size)
    assert everything(back) == everything(small)


def test_a_model_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no plan"):
        save(Residual(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_plan_can_be_given(tmp_path: Path) -> None:
    small = narrowed(Residual)
    plans = plans_of(small)
    del small.__dict__["_secateur_plans"]
    save(small, tmp_path, plans[0])
    assert everything(restore(Residual().eval(), tmp_path)) == everything(small)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: setattr(m, "head", nn.Linear(4, 7)), "head.weight is .* in the model"),
        (lambda m: setattr(m, "extra", nn.Linear(2, 2)), "added, removed or replaced"),
        (lambda m: setattr(m, "norm", nn.Identity()), "norm.* is gone in the model"),
        (lambda m: m.to("meta"), "meta device"),
        (lambda m: setattr(m.stem, "weight", nn.Parameter(m.stem.weight.detach().to_sparse())), "only ordinary dense"),
    ],
)
def test_a_model_that_its_plan_does_not_describe_is_refused(
    change: Callable[[Any], object], expected: str, tmp_path: Path
) -> None:
    small = narrowed(Residual)
    change(small)
    with pytest.raises(ArtifactError, match=expected):
        save(small, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_attribute_changed_after_narrowing_is_refused(tmp_path: Path) -> None:
    small = narrowed(Decoder)
    small.num_heads = 1
    with pytest.raises(PlanError, match="num_heads"):
        save(small, tmp_path)


def test_state_that_would_need_pickle_is_refused(tmp_path: Path) -> None:
    class Extra(Residual):
        def get_extra_state(self) -> object:
            return {"anything": 1}

    small = narrowed(Residual, model=Extra())
    with pytest.raises(ArtifactError, match="get_extra_state"):
        save(small, tmp_path)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    small = narrowed(Residual)
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ArtifactError, match=r"'thesis\.tex' and no artefact"):
        save(small, tmp_path)
    (tmp_path / "plan.json").write_text('{"plan": "world domination"}')
    with pytest.raises(ArtifactError, match="left alone"):
        save(small, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["plan.json", "thesis.tex"]
    with pytest.raises(ArtifactError):
        save(small, tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_folder_of_ours_is_written_over_and_notes_in_it_are_kept(tmp_path: Path) -> None:
    save(narrowed(Residual), tmp_path)
    (tmp_path / "README.md").write_text("my notes")
    small = narrowed(Residual, seed=5, step=3)
    save(small, tmp_path)
    assert everything(restore(Residual().eval(), tmp_path)) == everything(small)
    assert sorted(os.listdir(tmp_path)) == ["README.md", "model.safetensors", "plan.json"]


def test_links_in_the_folder_are_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "small"
    save(narrowed(Residual), folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(victim)
    small = narrowed(Residual, seed=3)
    save(small, folder)
    assert victim.read_text() == "precious"
    assert everything(restore(Residual().eval(), folder)) == everything(small)


@pytest.mark.skipif(atomic.fcntl is None, reason="needs POSIX locks")
def test_a_folder_that_is_being_written_is_refused(tmp_path: Path) -> None:
    small = narrowed(Residual)
    save(small, tmp_path)
    with atomic._locked(tmp_path), pytest.raises(ArtifactError, match="another process"):
        save(small, tmp_path)
    save(small, tmp_path)


def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    save(narrowed(Residual), tmp_path)
    modes = {(tmp_path / name).stat().st_mode & 0o777 for name in ("plan.json", "model.safetensors")}
    (tmp_path / "plain").write_text("")
    assert modes == {(tmp_path / "plain").stat().st_mode & 0o777}


def test_a_hugging_face_model_is_rebuilt_from_its_own_config(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from secateur.scenario.models import import_torchvision

    import_torchvision()
    from transformers import AutoConfig, AutoModel, BertConfig

    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, vocab_size=30)
    model = AutoModel.from_config(config).eval()
    ids = torch.arange(6)[None]
    graph = trace(model, {"input_ids": ids})
    small = apply(model, graph.plan({w.name: range(0, w.size, 2) for w in graph.free}), verify=False)
    save(small, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_attention_heads"] == 4
    fresh = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path)).eval()
    back = restore(fresh, tmp_path)
    assert torch.equal(back(ids).last_hidden_state, small(ids).last_hidden_state)
    assert sum(p.numel() for p in back.parameters()) < sum(p.numel() for p in model.parameters())


def test_sizes_in_the_config_are_written_as_they_were(tmp_path: Path) -> None:
    class Host(Config := type("HostConfig", (), {})):  # type: ignore[misc]
        def __init__(self) -> None:
            self.num_heads = 4

        def to_json_string(self) -> str:
            return json.dumps(vars(self))

    class WithConfig(Decoder):
        def __init__(self) -> None:
            super().__init__()
            self.config = Host()

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            self.num_heads = self.config.num_heads
            return super().forward(ids)

    small = narrowed(Decoder, model=WithConfig())
    save(small, tmp_path)
    assert small.config.num_heads == 2
    assert json.loads((tmp_path / "config.json").read_text()) == {"num_heads": 4}
    assert restore(WithConfig().eval(), tmp_path).config.num_heads == 2
