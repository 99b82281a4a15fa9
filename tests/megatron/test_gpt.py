"""Models of Megatron-Core: narrowed, their configuration rewritten, built again from that by Megatron's own code."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

from tests.megatron import shim
from tests.megatron.models import EXPERTS, HYBRIDS, again, built, hybrid, inputs

DATA = {"data_loader": [inputs(1), inputs(2)], "collect_func": lambda batch: batch}
ASKED = {"hidden_size": 24, "ffn_hidden_size": 32, "num_attention_heads": 4, "num_layers": 2}


@pytest.fixture(autouse=True, scope="module")
def _one_process() -> Iterator[None]:
    shim.start()
    yield
    shim.stop()


def _pruned(kind: str, **asked: int) -> Any:
    return sc.prune(built(kind), "minitron", {"export_config": asked}, inputs(), DATA)[0]


@pytest.mark.parametrize("kind", ["gpt", "llama", "qk_norm"])
def test_sizes_that_are_asked_for_are_in_the_configuration_and_stock_code_builds_it(kind: str) -> None:
    model = _pruned(kind, **ASKED)
    assert {name: getattr(model.config, name) for name in ASKED} == ASKED
    assert [layer.layer_number for layer in model.decoder.layers] == [1, 2]
    _same(model, again(model, model.config))


def test_experts_are_narrowed_alike() -> None:
    model = _pruned("experts", hidden_size=24, moe_ffn_hidden_size=16, num_layers=2)
    assert (model.config.hidden_size, model.config.moe_ffn_hidden_size, model.config.num_layers) == (24, 16, 2)
    _same(model, again(model, model.config))


def test_query_groups_are_narrowed_with_their_heads() -> None:
    model = _pruned("llama", num_query_groups=1, num_attention_heads=3)
    assert (model.config.num_query_groups, model.config.num_attention_heads) == (1, 3)
    _same(model, again(model, model.config))


def test_a_budget_finds_a_uniform_model() -> None:
    model, result = sc.prune(built("llama"), "minitron", {"params": "60%"}, inputs(), DATA)
    assert result.after["params"] <= 0.6 * result.before["params"]
    _same(model, again(model, model.config))


def test_each_layer_has_heads_of_its_own_though_all_write_into_one_buffer() -> None:
    model = built("llama")
    model(**inputs())  # the buffer of the process is there, and large enough
    groups = [w.name for w in sc.trace(model, inputs()).free if w.kind == "query_groups"]
    assert groups == [f"decoder.layers.{i}.self_attention.num_query_groups_per_partition" for i in range(3)]


def test_the_configuration_is_one_object_in_all_modules() -> None:
    model = _pruned("gpt", ffn_hidden_size=32)
    assert len({id(module.config) for module in model.modules() if hasattr(module, "config")}) == 1


def test_backward_after_pruning_gives_every_parameter_a_gradient() -> None:
    model = _pruned("llama", **ASKED).train()
    model(**inputs(), labels=inputs()["input_ids"]).mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def _same(model: Any, stock: nn.Module) -> None:
    """Stock code takes the weights, gives the same, and shards them alike."""
    stock.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(**inputs(3)), stock(**inputs(3)))
    assert _sharded(model) == _sharded(stock)


def _sharded(model: Any) -> dict[str, tuple[Any, ...]]:
    found = model.sharded_state_dict().items()
    parts = ("key", "global_shape", "global_offset", "local_shape", "axis_fragmentations")
    return {name: tuple(getattr(entry, part, None) for part in parts) for name, entry in found}


def _asked_of(model: nn.Module) -> None:
    """Forward, backward and shards of a model, whatever its layers' widths are."""
    model.train()(**inputs(), labels=inputs()["input_ids"]).mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    shards = [getattr(entry, "data", None) for entry in model.sharded_state_dict().values()]  # type: ignore[operator]
    held = sum(data.numel() for data in shards if isinstance(data, torch.Tensor))
    assert held == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", ["llama", "experts"])
def test_each_layer_has_widths_of_its_own_by_gradients_and_what_is_left_is_fitted(kind: str) -> None:
    config = {**DATA, "depth": kind == "experts", "steps": 2}
    model, result = sc.prune(built(kind), "progressive", {"params": "70%"}, inputs(), config)
    assert result.after["params"] <= 0.7 * result.before["params"]
    _asked_of(model)


def _there(name: str) -> None:
    pytest.importorskip("mamba_ssm", reason="mamba-ssm is not installed")
    if name == "HybridModel" and importlib.util.find_spec("megatron.core.models.hybrid") is None:
        pytest.skip("this version has no HybridModel")


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_of_mixers_attention_and_feed_forward_loses_hidden_and_feed_forward_width(name: str) -> None:
    _there(name)
    asked: dict[str, Any] = {"hidden_size": 24, "ffn_hidden_size": 32}
    model: Any = sc.prune(hybrid(name), "minitron", {"export_config": asked}, inputs(), DATA)[0]
    assert {name: getattr(model.config, name) for name in asked} == asked
    _same(model, hybrid(name, **asked))


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_has_experts_too(name: str) -> None:
    _there(name)
    asked: dict[str, Any] = {"hidden_size": 24, "moe_ffn_hidden_size": 16}
    model = sc.prune(hybrid(name, "M*E-", **EXPERTS), "minitron", {"export_config": asked}, inputs(), DATA)[0]
    _same(model, hybrid(name, "M*E-", **{**EXPERTS, **asked}))


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_is_pruned_in_rounds(name: str) -> None:
    _there(name)
    model, result = sc.prune(hybrid(name), "progressive", {"params": "75%"}, inputs(), {**DATA, "steps": 2})
    assert result.after["params"] <= 0.75 * result.before["params"]
    _asked_of(model)


def test_what_only_a_mixers_decoding_goes_by_stays_whole() -> None:
    pytest.importorskip("mamba_ssm", reason="mamba-ssm is not installed")
    graph = sc.trace(hybrid(), inputs())
    inside = [width for width in graph.widths if ".mixer." in width.name]
    assert inside
    assert all("where no run came" in str(width.frozen) for width in inside)
