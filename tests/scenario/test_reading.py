"""What a scenario may say, and how it is told what it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from secateur.errors import ConfigError, InputError
from secateur.scenario import json_schema, read_file
from secateur.scenario.schema import Finetune, Measure, Prune, Scenario
from tests.scenario.small import SMALL, written

YAML = """
name: small
model: {source: zoo:digits, options: {widths: [4, 8, 8]}}
data: {source: digits, options: {limit: 150}}
stages:
  - {do: train, epochs: 2, lr: 1e-2}
  - {do: prune, constraints: {macs: 70%}}
"""


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    data = {**SMALL, "stages": [SMALL["stages"][0], {"do": "prune", "constraints": {"macs": "70%"}}]}
    (tmp_path / "s.yaml").write_text(YAML, encoding="utf-8")
    assert read_file(tmp_path / "s.yaml") == read_file(written(tmp_path, data))


def test_a_name_alone_is_a_model_or_data(tmp_path: Path) -> None:
    found = read_file(
        written(tmp_path, {"model": "zoo:digits", "data": "digits", "stages": [{"do": "measure"}]}, "plain.json")
    )
    assert (found.name, found.model.source, found.data.batch_size) == ("plain", "zoo:digits", 64)


def _with(**changes: Any) -> dict[str, Any]:
    return {**SMALL, **changes}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (_with(modle="x"), "modle: unknown key. Did you mean 'model'?"),
        (_with(data={"source": "digits", "batch": 3}), "Did you mean 'batch_size'?"),
        (_with(stages=[{"do": "prune", "constraint": {}}]), "Did you mean 'constraints'?"),
        (_with(stages=[{"epochs": 3}]), "a stage says what to do"),
        (_with(stages=[{"do": "prun"}]), "prun"),
        (_with(stages=[]), "stages"),
        (_with(stages=[{"do": "train", "epochs": 0}]), "epochs"),
        (_with(stages=[{"do": "measure", "batch_sizes": [0]}]), "batch_sizes"),
        (_with(name="../evil"), "name"),
        (_with(stages=[{"do": "fly"}]), "there is no stage 'fly': write do: train, "),
        (_with(seed="x"), "seed: a whole number is needed, not 'x'."),
        (_with(seed=True), "seed: a whole number is needed, not True."),
        (_with(seed=10**30), "seed: a number below 4611686018427387904 is needed"),
        (_with(stages=[{"do": "train", "lr": True}]), "stage 1 (train): lr: a number is needed, not True."),
        (_with(stages=[{"do": "train", "epochs": "2"}]), "stage 1 (train): epochs: a whole number is needed, not '2'."),
        (_with(stages=[{"do": "export", "onnx": "no"}]), "stage 1 (export): onnx: "),
        ([1], "a dict is needed"),
        ({"name": "x"}, "model: it is needed, and is not there."),
        (_with(stages=[]), "stages: at least one entry is needed, not []."),
        (_with(stages=["train"]), "stage 1: a dict is needed, not 'train'."),
        (_with(stages=[{"do": "measure"}, {"do": "train", "epoch": 1}]), "stage 2 (train): epoch: unknown key."),
        (_with(stages=[{"do": "export", "name": "work"}]), "stage 1 (export): name: 'work' is what the run itself"),
        (_with(stages=[{"do": "export", "name": "Measurements"}]), "what the run itself writes"),
        (_with(stages=[{"do": "export", "name": "report.html"}]), "what the run itself writes"),
        (_with(stages=[{"do": "export", "name": "../../evil"}]), "without / and \\, is needed"),
        (_with(stages=[{"do": "export", "name": ".."}]), "is no name"),
        (_with(stages=[{"do": "export"}, {"do": "export"}]), "stages 1 and 2 (export): both write model"),
        (_with(stages=[{"do": "export", "name": "a b"}, {"do": "export", "name": "A-b.onnx"}]), "both write A-b.onnx"),
    ],
)
def test_what_is_wrong_is_told_by_its_place(data: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read_file(written(tmp_path, data))
    assert said in str(refused.value)
    assert "pydantic" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("name: a\nname: b\n", "occurs twice"),
        ("name: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("a: [1\n", "not usable YAML"),
    ],
)
def test_yaml_is_plain_data(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        read_file(tmp_path / "s.yaml")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_file(tmp_path / "none.yaml")


def test_the_schema_names_every_key() -> None:
    schema = json_schema()
    known = json.dumps(schema)
    parts: list[type[BaseModel]] = [Scenario, Prune, Measure, Finetune]
    assert [f for part in parts for f in part.model_fields if f'"{f}"' not in known] == []
