"""The examples of the tour run from beginning to end, show what they say, and leave a picture."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zoo.shim import declare_torchvision_operators

TOUR = Path(__file__).parent.parent / "examples" / "tour"

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    declare_torchvision_operators()  # timm and transformers import torchvision
    torch.set_num_threads(1)


def main_of(name: str) -> Callable[..., dict[str, Any]]:
    return runpy.run_path(str(TOUR / f"{name}.py"))["main"]


def is_picture(path: Path) -> bool:
    """A page that draws something, and fetches nothing to do so."""
    text = path.read_text("utf-8")
    return "Plotly.newPlot" in text and 'src="http' not in text


def test_vision_cnn(tmp_path: Path) -> None:
    found = main_of("vision_cnn")(tmp_path, epochs=4)
    assert found["progressive"][-1] > found["magnitude"][-1] + 0.1
    assert found["progressive"][1] > found["progressive"][0] - 0.03
    assert is_picture(tmp_path / "vision_cnn.html")


def test_vit(tmp_path: Path) -> None:
    found = main_of("vit")(tmp_path, epochs=4)
    assert found["fine-tuned"] > found["whole"] - 0.05
    assert is_picture(tmp_path / "vit.html")


def test_language_model(tmp_path: Path) -> None:
    found = main_of("language_model")(tmp_path, steps=30)
    assert list(found) == ["100%", "70%", "45%"]
    assert all(trained < pruned for pruned, trained in list(found.values())[1:])
    assert is_picture(tmp_path / "language_model.html")
    from transformers import LlamaForCausalLM

    assert LlamaForCausalLM.from_pretrained(tmp_path / "small-llama").num_parameters() > 0


def test_own_criterion(tmp_path: Path) -> None:
    found = main_of("own_criterion")(tmp_path, epochs=4)
    assert found["spread"] > found["random"]
    assert is_picture(tmp_path / "own_criterion.html")


def test_scenario(tmp_path: Path) -> None:
    found = main_of("scenario")(tmp_path)
    assert len(found) == 2
    assert min(found.values()) > 0.85
    assert "plotly" in (tmp_path / "report.html").read_text("utf-8")
    assert (tmp_path / "report.md").exists()


def test_latency(tmp_path: Path) -> None:
    found = main_of("latency")(tmp_path, size=16)
    assert list(found) == ["whole", "60% of macs", "60% of latency_ms"]
    assert is_picture(tmp_path / "latency.html")


def test_every_example_of_the_tour_is_tested() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in TOUR.glob("*.py")} <= tested
