"""``hf:FOLDER``: a checkpoint is the class that it names, with all of its weights, in every command; or it is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import secateur as sc
from secateur.cli.main import app
from secateur.errors import InputError
from secateur.scenario.models import build, import_torchvision

pytest.importorskip("transformers")
torch.set_num_threads(1)
with contextlib.suppress(InputError):
    import_torchvision()  # transformers imports it as it finds it

IDS = {"input_ids": torch.arange(16).reshape(1, 16)}


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100", "TERM": "dumb"})
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder that `save_pretrained` of transformers wrote."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **shape)).save_pretrained(tmp_path / "llama")  # pyright: ignore[reportCallIssue]
    return tmp_path / "llama"


def _rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """The folder's configuration or weights after a change; what names it on the command line."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    change(config)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return f"hf:{folder}"


def test_a_folder_is_the_class_that_it_names_with_its_head(llama: Path) -> None:
    from transformers import LlamaForCausalLM

    expected = LlamaForCausalLM.from_pretrained(llama)(**IDS).logits
    model: Any = build(f"hf:{llama}")
    assert type(model) is LlamaForCausalLM
    assert torch.equal(model(**IDS).logits, expected)


def test_a_task_chooses_another_class_and_no_name_is_the_one_without_a_head(llama: Path) -> None:
    assert type(build(f"hf:{llama}", options={"task": "features"})).__name__ == "LlamaModel"
    named = build(f"hf:{llama}", options={"task": "text-classification"})
    assert type(named).__name__ == "LlamaForSequenceClassification"
    unnamed = _rewritten(llama, lambda config: config.pop("architectures"))
    with pytest.raises(InputError, match=r"no whole LlamaModel: it holds, beside it, lm_head\.weight; choose a class"):
        build(unnamed)


@pytest.mark.parametrize(
    "name", ["os", "LlamaConfig", "pathlib.Path", "AutoModelForCausalLM", "MyOwnLlama", "__class__"]
)
def test_what_is_no_model_class_of_transformers_is_not_built(name: str, llama: Path) -> None:
    spec = _rewritten(llama, lambda config: config.update(architectures=[name]))
    said = call("inspect", spec, code=2).stderr.replace("\n", " ")
    assert f"is a {name}, and transformers has no class of that name" in said
    assert '--options \'{"task": "language-model"}\'' in said
    assert build(spec, options={"task": "language-model"})


def test_weights_that_are_missing_or_too_many_are_named(llama: Path) -> None:
    whole = load_file(llama / "model.safetensors")
    save_file(
        {k: t for k, t in whole.items() if "mlp" not in k}, llama / "model.safetensors", metadata={"format": "pt"}
    )
    missing = r"it has no model\.layers\.0\.mlp\.down_proj\.weight, .* and 3 more; choose a class"
    with pytest.raises(InputError, match=missing):
        build(f"hf:{llama}")
    save_file({**whole, "other": torch.ones(2)}, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="it holds, beside it, other"):
        build(f"hf:{llama}")


def test_weights_that_are_tied_are_not_missed(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model: Any = build(f"hf:{tmp_path}")
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_folder_keeps_a_cache_where_that_is_asked_for_as_a_model_type_does(llama: Path) -> None:
    assert "KV cache" not in call("inspect", f"hf:{llama}").stdout
    assert "KV cache" in call("inspect", f"hf:{llama}", "--options", '{"use_cache": true}').stdout


@pytest.mark.filterwarnings("ignore:the configuration of:UserWarning", "ignore:.*went with no data:UserWarning")
def test_every_command_reads_a_folder_and_what_another_one_left(llama: Path, tmp_path: Path) -> None:
    whole = f"hf:{llama}"
    call("plan", whole, "-c", "params=80%", "-o", tmp_path / "plan.json")
    call("apply", tmp_path / "plan.json", whole, "-o", tmp_path / "applied")
    call("prune", whole, "-c", "params=80%", "-o", tmp_path / "pruned")
    applied, pruned = (build(f"hf:{tmp_path / name}") for name in ("applied", "pruned"))
    assert torch.equal(applied(**IDS).logits, pruned(**IDS).logits)
    call("prune", f"hf:{tmp_path / 'pruned'}", "-c", "params=80%", "-o", tmp_path / "twice")
    counts = [
        sum(p.numel() for p in build(f"hf:{at}").parameters())
        for at in (llama, tmp_path / "pruned", tmp_path / "twice")
    ]
    assert counts[2] < counts[1] < counts[0]
    call("inspect", f"hf:{tmp_path / 'twice'}", "--options", '{"use_cache": true}')
    refused = call("inspect", f"hf:{tmp_path / 'twice'}", "--options", '{"task": "features"}', code=2)
    assert "takes no options but use_cache" in refused.stderr


@pytest.mark.filterwarnings("ignore:the configuration of:UserWarning", "ignore:.*went with no data:UserWarning")
def test_a_scenario_goes_on_from_what_was_narrowed_before_it(llama: Path, tmp_path: Path) -> None:
    call("prune", f"hf:{llama}", "-c", "params=80%", "-o", tmp_path / "pruned")
    (tmp_path / "book.txt").write_text("the quick brown fox " * 60, encoding="utf-8")
    scenario = {
        "name": "again",
        "model": {"source": f"hf:{tmp_path / 'pruned'}"},
        "data": {"source": "text", "batch_size": 8, "options": {"path": "book.txt", "length": 16}},
        "loss": "next_token",
        "stages": [
            {"do": "train", "epochs": 1, "loss": "next_token"},
            {"do": "prune", "mode": "magnitude", "constraints": {"params": "80%"}, "score": "perplexity"},
            {"do": "measure", "num_runs": 1, "metrics": ["perplexity"]},
        ],
    }  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(scenario), encoding="utf-8")
    (found,) = json.loads(call("run", tmp_path / "s.json", "--json").stdout)
    before = sum(p.numel() for p in sc.hf.from_pretrained(tmp_path / "pruned").parameters())
    assert found["costs"]["params"] <= 0.8 * before
