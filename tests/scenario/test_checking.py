"""What can be told of a scenario without its network is told before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.core.budget import COSTS
from secateur.core.cached import KV_CACHE
from secateur.errors import ConfigError
from secateur.scenario import read_file, run
from secateur.scenario.models import build
from secateur.torch.trace import trace
from tests.scenario.small import SMALL, written

pytest.importorskip("sklearn")
TRAIN = {"do": "train", "epochs": 1}


def _prune(**changes: Any) -> dict[str, Any]:
    return {"do": "prune", "constraints": {"macs": "40%"}, **changes}


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (_prune(mode="progresive"), "no mode is called 'progresive'. Did you mean 'progressive'?"),
        ({"do": "measure", "metrics": ["accuracy", "acuracy"]}, "Did you mean 'accuracy'?"),
        (_prune(score="acuracy"), "Did you mean 'accuracy'?"),
        (_prune(constraints={"mac": "40%"}), "no cost is called 'mac'. Did you mean 'macs'?"),
        (_prune(constraints={"latency": "40%"}), "Did you mean 'latency_ms'?"),
        (_prune(constraints={"kv_cache_bytes@8": "40%"}), "kv_cache_bytes@8x4096 for 8 sequences"),
        (_prune(constraints={"macs": "forty"}), "macs: cannot read 'forty'"),
        (_prune(constraints={"macs": "140%"}), "macs: '140%' is no share"),
        (_prune(constraints={"latency_ms": "200%"}), "latency_ms: '200%' is no share"),
        (_prune(constraints={}), "constraints are needed"),
        (_prune(options={"step": 3}), "unknown option 'step'. Did you mean 'steps'?"),
        (_prune(options={"criterion": "l7"}), "no criterion is called 'l7'. Did you mean 'l2'?"),
        (_prune(options={"target": "cuda"}), "no target is called 'cuda'"),
        (_prune(options={"data_loader": 3}), "comes from the scenario's data and loss"),
        (_prune(device="gpu"), "there is no device 'gpu' here"),
        (_prune(mode="activation", compat={"pruner": "apoz"}), "unknown option 'pruner'"),
        (_prune(mode="activation", compat={"pruner_type": "apos"}), "pruner_type"),
        (_prune(compat={"pruner_type": "apoz"}), "beside mode: activation"),
        ({"do": "finetune", "optimizer": "Adam"}, "no optimizer is called 'Adam'. Did you mean 'adam'?"),
        ({"do": "finetune", "loss": "crossentropy"}, "Did you mean 'cross_entropy'?"),
        ({"do": "report"}, "nothing is measured before it"),
    ],
)
def test_a_slip_in_a_later_stage_costs_no_training(stage: dict[str, Any], said: str, tmp_path: Path) -> None:
    scenario = read_file(written(tmp_path, {**SMALL, "stages": [TRAIN, stage]}))
    with pytest.raises(ConfigError) as refused:
        run(scenario, tmp_path, tmp_path / "out")
    assert str(refused.value).startswith(f"stage 2 ({stage['do']}): ")
    assert said in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_the_costs_that_can_be_named_are_those_that_a_trace_counts() -> None:
    graph = trace(build("zoo:digits", "cpu", {"widths": [4, 8, 8]}), torch.rand(1, 1, 8, 8))
    assert set(graph.costs) | {KV_CACHE} == set(COSTS)


def test_measurements_of_stages_that_are_gone_are_gone(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    measure = {"do": "measure", "num_runs": 1}
    ran = [
        [TRAIN, {**measure, "name": "a"}, {**measure, "name": "b"}],
        [{**measure, "name": "c"}],
    ]
    for stages in ran:
        run(read_file(written(tmp_path, {**SMALL, "stages": stages})), tmp_path, tmp_path / "out")
    (tmp_path / "out" / "measurements" / "mine.json").write_text("{}", encoding="utf-8")
    run(read_file(written(tmp_path, {**SMALL, "stages": ran[1]})), tmp_path, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "measurements").iterdir()) == ["01-c.json", "mine.json"]


def test_an_error_of_a_stage_names_it(tmp_path: Path) -> None:
    stages = [{"do": "measure", "num_runs": 1}, {"do": "prune", "mode": "magnitude", "constraints": {"macs": 10}}]
    with pytest.raises(Exception, match=r"^stage 2 \(prune\): cannot reach macs") as refused:
        run(read_file(written(tmp_path, {**SMALL, "stages": stages})), tmp_path, tmp_path / "out")
    assert (refused.value.metric, refused.value.bound) == ("macs", 10)  # type: ignore[attr-defined]
