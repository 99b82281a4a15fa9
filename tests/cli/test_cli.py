"""The command line: what it prints, what it refuses and how it says so, and that no name can act on the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner, Result

import secateur
from secateur.cli import demo, inspecting
from secateur.cli.inputs import read_inputs
from secateur.cli.main import app
from secateur.core.show import graph_summary
from secateur.errors import Infeasible, InputError, SecateurError, TraceError, VerificationError
from secateur.scenario import models
from secateur.scenario.digits import DigitImages, DigitNet, Digits, accuracy, load_digits, train
from secateur.scenario.exporting import export_onnx
from secateur.scenario.models import build, default_inputs, import_torchvision
from secateur.search.limits import Limits, restrict

torch.set_num_threads(1)
with contextlib.suppress(InputError):
    import_torchvision()  # timm and transformers import it as they find it

SMALL_BERT = '{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}'


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100", "TERM": "dumb"})


def test_inspect_shows_the_search_space_of_a_timm_model() -> None:
    pytest.importorskip("timm")
    result = run("inspect", "timm:resnet18", "--input", "1x3x224x224")
    assert result.exit_code == 0
    assert "*  layer1.0.conv1.out_channels" in result.output
    assert "Number of configurable widths: 12" in result.output
    assert "1.81G" in result.output
    assert "the model's output" in result.output


def test_a_bound_on_the_cache_is_planned_for_at_any_batch_and_length() -> None:
    pytest.importorskip("transformers")
    shape = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 8,
        "num_key_value_heads": 4,
    }  # fmt: skip
    asked = ("plan", "hf:llama", "--input", "ids:1x9", "-c", "kv_cache_bytes@8x4096=50%")
    result = run(*asked, "--options", json.dumps({**shape, "use_cache": True}))
    assert result.exit_code == 0
    assert "num_key_value_heads" in result.output
    refused = run(*asked, "--options", json.dumps(shape))
    assert refused.exit_code == 2
    assert "gives no cache back" in refused.output


def test_inspect_gives_the_same_as_data() -> None:
    pytest.importorskip("timm")
    result = run("inspect", "timm:test_resnet", "--input", "1x3x64x64", "--json")
    found = json.loads(result.output)
    assert result.exit_code == 0
    assert found["profile"]["macs"]["max"] > found["profile"]["macs"]["min"]
    assert {"name", "kind", "size", "choices", "exact", "frozen"} <= found["widths"][0].keys()
    assert int(found["search_space"]) > 1


def test_inspect_knows_torchvision_and_transformers() -> None:
    assert "Number of configurable widths" in run("inspect", "torchvision:squeezenet1_1", "--input", "1x3x64x64").output
    pytest.importorskip("transformers")
    result = run("inspect", "hf:bert", "--all", "--options", SMALL_BERT)
    assert result.exit_code == 0, result.output
    (line,) = (text for text in result.output.splitlines() if "layer.1.intermediate.dense.out_features " in text)
    assert "22, 23, 24]" in line
    assert "encoder.layer.2" not in result.output


def test_numbers_that_are_no_ids_are_refused_where_they_are_looked_up() -> None:
    pytest.importorskip("transformers")
    result = run("inspect", "hf:bert", "--options", SMALL_BERT, "--input", "1x16")
    assert result.exit_code == 2
    assert "whole numbers: torch.long, on the command line ids:1x16" in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["timm:resnet81", "--input", "1x3x8x8"], "Did you mean 'resnet18'?"),
        (["torchvision:resnet81", "--input", "1x3x8x8"], "Did you mean 'resnet18'?"),
        (["hf:bertt"], "Did you mean 'bert'?"),
        (["tim:resnet18"], "Did you mean 'timm'?"),
        (["resnet18"], "write timm:NAME"),
        (["timm:"], "write timm:NAME"),
        (["timm:test_resnet", "--input", "3,224,224"], "cannot read the input"),
        (["timm:test_resnet", "--input", "idz:1x16"], "Did you mean 'ids'?"),
        (["timm:test_resnet", "--input", "0x3"], "between one and"),
        (["timm:test_resnet", "--input", "1x5x32x32"], "does not run"),
        (["hf:wav2vec2"], "--input"),
        (["hf:bert", "--options", '{"hidden_sise": 32}'], "Did you mean 'hidden_size'?"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_exit_code_two(arguments: list[str], expected: str) -> None:
    result = run("inspect", *arguments)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


def test_a_missing_package_is_named_with_the_command_that_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    result = run("inspect", "timm:resnet18")
    assert result.exit_code == 2
    assert "pip install timm" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 2),
        (TraceError("x"), 2),
        (Infeasible("x", metric="macs", bound=1, reachable=2), 3),
        (VerificationError("x"), 4),
        (SecateurError("x"), 2),
    ],
)
def test_exit_codes_name_the_kind_of_error(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(inspecting, "trace_spec", fail)
    assert run("inspect", "timm:resnet18").exit_code == code


def test_a_defect_of_ours_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspecting, "trace_spec", lambda *_: 1 / 0)
    assert isinstance(run("inspect", "timm:resnet18").exception, ZeroDivisionError)


class Hostile(nn.Module):
    """Names that would colour, link or rewrite a terminal."""

    NAME = "fc\x1b[31m[bold]\x1b]8;;https://x\x07\u202e"

    def __init__(self) -> None:
        super().__init__()
        self.add_module(self.NAME, nn.Linear(4, 6))
        self.last = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.get_submodule(self.NAME)(x))


def test_names_cannot_act_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspecting, "build", lambda *_, **options: Hostile())
    result = run("inspect", "timm:x", "--input", "1x4", "--all")
    assert result.exit_code == 0, result.stderr
    assert r"fc\x1b[31m[bold]\x1b]8;;https://x\x07\u202e" in result.output
    assert not set(result.output) & set("\x1b\x07\u202e")


@given(st.text(max_size=30))
def test_no_argument_can_act_on_the_terminal(spec: str) -> None:
    result = run("inspect", "--", spec)
    assert result.exit_code == 2
    assert result.stderr.replace("\n", "").isprintable() or not spec.isprintable()
    assert not set(result.output) & {"\x1b", "\x07", "\x9b"}


def test_doctor_tells_versions() -> None:
    result = run("doctor")
    assert result.exit_code == 0
    assert secateur.__version__ in result.output
    assert torch.__version__ in result.output
    found = json.loads(run("doctor", "--json").output)
    assert found["packages"]["torch"] == torch.__version__
    assert found["devices"][0].startswith("cpu")


def test_the_module_can_be_run() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "secateur", "--help"], capture_output=True, text=True, env={**os.environ, "TERM": "dumb"}
    )
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("inspect", "demo", "doctor"))


# inputs


def test_inputs_become_a_dummy_input() -> None:
    image, ids, named = read_inputs(["1x3x4x4", "ids:1x7", "mask=mask:1x7", "scale=2"])
    assert isinstance(image, torch.Tensor)
    assert image.shape == (1, 3, 4, 4)
    assert isinstance(ids, torch.Tensor)
    assert ids.dtype == torch.int64
    assert isinstance(named, dict)
    assert named["mask"].shape == (1, 7)
    assert named["scale"].dtype == torch.float32
    with pytest.raises(InputError, match="given twice"):
        read_inputs(["a=1", "a=2"])


@given(st.text(max_size=20))
def test_any_other_text_is_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        found = read_inputs([text])
        assert isinstance(found[-1], dict)
        assert all(isinstance(given, torch.Tensor) for given in found[:-1])


# models


def test_models_are_built_without_weights() -> None:
    pytest.importorskip("timm")
    model = build("timm:resnet18")
    assert all(p.is_meta for p in model.parameters())
    assert not model.training
    assert default_inputs(model, "timm:resnet18") == ["1x3x224x224"]
    assert not any(p.is_meta for p in build("timm:test_resnet", "cpu").parameters())


def test_a_constructor_that_needs_values_gets_a_real_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_values() -> nn.Module:
        return nn.Linear(int(torch.ones(3).sum().item()), 2)

    monkeypatch.setitem(models.MODELS._entries, "timm", lambda name, options: needs_values)
    assert build("timm:any").weight.shape == (2, 3)  # type: ignore[union-attr]

    def broken() -> nn.Module:
        raise RuntimeError("boom\x1b[31m")

    monkeypatch.setitem(models.MODELS._entries, "timm", lambda name, options: broken)
    with pytest.raises(InputError, match=r"cannot be built: boom\\x1b"):
        build("timm:any")


def test_a_class_name_is_as_good_as_a_model_type() -> None:
    pytest.importorskip("transformers")
    model = build("transformers:BertConfig")
    assert type(model).__name__ == "BertModel"
    assert default_inputs(model, "transformers:BertConfig") == ["input_ids=ids:1x16"]


# the demo


def small_digits() -> Digits:
    """A fifth of the data, for tests of the machinery."""
    data = load_digits()
    return Digits(*(DigitImages(p.images_N1hw[::5], p.labels_N[::5]) for p in (data.train, data.valid, data.test)))


def test_the_data_are_split_once_and_for_all() -> None:
    data = load_digits()
    parts = (data.train, data.valid, data.test)
    assert [len(part.labels_N) for part in parts] == [1077, 180, 540]
    images = torch.cat([part.images_N1hw.flatten(1) for part in parts])
    assert abs(float(data.train.images_N1hw.mean())) < 1e-5
    again = load_digits()
    assert torch.equal(images, torch.cat([p.images_N1hw.flatten(1) for p in (again.train, again.valid, again.test)]))


def test_training_is_repeatable_and_learns() -> None:
    data = load_digits()
    remarks: list[str] = []

    def trained() -> nn.Module:
        torch.manual_seed(0)
        model = DigitNet((4, 8, 8))
        train(model, data, epochs=3, rate=0.1, seed=0, step=remarks.append)
        return model

    one, two = trained(), trained()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert accuracy(one, data.test) > 0.6
    assert len(remarks) == 6
    assert remarks[0].startswith("validation accuracy")


def test_the_demo_goes_the_whole_road(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(demo, "load_digits", small_digits)
    monkeypatch.setattr(demo, "EPOCHS", 2)
    monkeypatch.setattr(demo, "FINE_TUNING_EPOCHS", 1)
    result = run("demo", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    for word in (
        "before",
        "pruned",
        "fine-tuned",
        "test accuracy",
        "MACs",
        "parameters",
        "latency",
        "verified",
        "ONNX",
    ):
        assert word in result.stdout
    assert sorted(os.listdir(tmp_path / "out")) == ["digits-pruned", "digits-pruned.onnx"]
    back = secateur.restore(DigitNet(), tmp_path / "out" / "digits-pruned")
    assert sum(p.numel() for p in back.parameters()) < sum(p.numel() for p in DigitNet().parameters())


def test_several_seeds_are_told_with_their_range() -> None:
    def outcome(accuracy: float) -> demo.DemoRun:
        one = demo.Figures(accuracy=accuracy, macs=100, params=10, file_bytes=40, latency_ms=1.0)
        return demo.DemoRun(
            before=one, pruned=one, tuned=one, verification="verified", onnx_difference=1e-7, seconds=2.0
        )

    shown = demo.report([outcome(0.99), outcome(0.97)])
    assert "98.0% (97.0% … 99.0%)" in shown
    assert "2 seeds" in shown
    assert "accuracy change: +0.00 points" in shown


def test_an_export_that_differs_is_not_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    pytest.importorskip("onnxruntime")
    model, example = nn.Sequential(nn.Linear(3, 2)), torch.rand(2, 3)
    assert export_onnx(model, example, tmp_path / "fine.onnx") < 1e-5
    monkeypatch.setattr("secateur.scenario.exporting._difference", lambda *_: float("nan"))
    with pytest.raises(VerificationError):
        export_onnx(model, example, tmp_path / "wrong.onnx")
    assert os.listdir(tmp_path) == ["fine.onnx"]


def test_the_published_search_space_of_resnet50_is_reproduced() -> None:
    """NVIDIA's table: divisor 32, ratios 0.05 to 1.00, the 2048-wide stream kept, one image of 224 by 244."""
    model = build("torchvision:resnet50")
    graph = secateur.trace(model, torch.empty(1, 3, 224, 244, device="meta"))
    stream = next(width.name for width in graph.widths if width.size == 2048)
    limits = Limits(multiple_of=32, ratios=tuple(i / 20 for i in range(1, 21)), exclude=[stream])
    lines = graph_summary(restrict(graph, limits)).splitlines()
    cells = {row[0].strip(): [c.strip() for c in row[1:]] for line in lines if (row := line.strip("│").split("│"))[1:]}
    assert cells["MACs"] == ["274.34M", "1.28G", "4.59G", "16.73"]
    assert cells["params without batch norm"] == ["2.70M", "9.75M", "25.50M", "9.43"]
    assert "Number of configurable widths: 36" in lines
    assert "Total size of the search space: 2.48e+28" in lines
