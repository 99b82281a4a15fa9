"""`kv_cache_bytes` is what the caches hold that a model gives back: narrowed or whole, at any batch and length."""

from typing import Any

import pytest
import torch
from tests.torch.language import hugging_face, ids, llama, texts
from torch import nn

import secateur as sc
from secateur.torch.running.outputs import output_tensors

T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
MAMBA2 = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 4}
FAMILIES: dict[str, Any] = {
    "llama": lambda: llama(),
    "half precision": lambda: llama().to(torch.bfloat16),
    "a hybrid of windows": lambda: hugging_face(
        "Gemma2", "ForCausalLM", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=4, head_dim=8, sliding_window=6,
    ),
    "encoder and decoder": lambda: hugging_face("T5", "ForConditionalGeneration", vocab_size=64, **T5),
    "states": lambda: hugging_face("Mamba2", "ForCausalLM", vocab_size=64, state_size=8, **MAMBA2),
}  # fmt: skip


def called(name: str, batch: int = 2, length: int = 9) -> dict[str, torch.Tensor]:
    x = ids(batch=batch, length=length)
    return x | ({"decoder_input_ids": x["input_ids"]} if name == "encoder and decoder" else {})


def held(model: nn.Module, x: dict[str, torch.Tensor]) -> int:
    """The bytes of keys, values and states that a real call gives back."""
    with torch.no_grad():
        out = model(**x)
    cache = out.cache_params if hasattr(out, "cache_params") else out.past_key_values
    return sum(t.nbytes for t in {id(t): t for t in output_tensors([cache])}.values() if t.dim() > 1)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("batch", [1, 2])
def test_the_bytes_are_those_that_a_call_gives_back(name: str, batch: int) -> None:
    model = FAMILIES[name]()
    graph = sc.trace(model, called(name, batch), depth=name == "llama")
    plan = sc.plan(graph, "random", {"kv_cache_bytes@3x14": "60%"})
    small = sc.apply(model, plan, verify=False)
    for one, counts in ((model, {}), (small, plan.sizes)):
        assert graph.cost("kv_cache_bytes", counts) == held(one, called(name, batch))
        assert graph.cost("kv_cache_bytes@3x14", counts) == held(one, called(name, 3, 14))


def test_each_layer_has_its_share_which_goes_with_it() -> None:
    model = llama()
    graph = sc.trace(model, ids(), depth=True)
    shares = graph.cost_by_module("kv_cache_bytes@1x100")
    assert shares == {f"model.layers.{i}.self_attn": 2 * 100 * 2 * 8 * 4 for i in range(3)}
    plan = graph.plan({"model.layers.1": []})
    assert graph.cost("kv_cache_bytes", plan.sizes) * 3 == graph.cost("kv_cache_bytes") * 2
    assert "model.layers.2.self_attn" in graph.table("kv_cache_bytes@1x100", plan)


def test_a_graph_from_a_file_counts_the_same() -> None:
    graph = sc.trace(llama(), ids())
    again = sc.Graph.from_json(graph.to_json())
    for metric in ("kv_cache_bytes", "kv_cache_bytes@8x4096"):
        assert again.cost(metric) == graph.cost(metric)


TEXT: dict[str, Any] = {"data_loader": texts(1), "collect_func": lambda batch: batch}


def size_of_answer(out: Any, labels: object) -> torch.Tensor:
    return out.logits.square().mean()


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("magnitude", {}),
        ("minitron", TEXT),
        ("progressive", {**TEXT, "steps": 1}),
        ("gradnas", {**TEXT, "loss_func": size_of_answer}),
        ("fastnas", {"score_func": lambda model: float(model(**ids()).logits.std()), "max_evaluations": 6}),
    ],
)
def test_every_mode_meets_a_bound_on_it(mode: str, options: dict[str, Any]) -> None:
    model = llama(2)
    before = held(model, ids(batch=4, length=20))
    _, result = sc.prune(model, mode, {"kv_cache_bytes@4x20": "60%"}, ids(), {**options, "verify": False})
    assert held(model, ids(batch=4, length=20)) <= 0.6 * before
    assert result.after["kv_cache_bytes@4x20"] == held(model, ids(batch=4, length=20))


@pytest.mark.parametrize(
    ("metric", "inputs", "sentence"),
    [
        ("kv_cache_bytes", {**ids(), "use_cache": False}, "gives no cache back on this example.*use_cache=True"),
        ("kv_cache_bytes@8", ids(), r"write kv_cache_bytes, or kv_cache_bytes@8x4096"),
        ("kv_cache_bytes@0x9", ids(), r"write kv_cache_bytes, or kv_cache_bytes@8x4096"),
        ("kv_cache_bytes@8x9", ids(length=1), "at least two tokens"),
        ("kv_cache_byte", ids(), "Did you mean.*kv_cache_bytes"),
    ],
)
def test_what_cannot_be_counted_says_what_is_missing(metric: str, inputs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(sc.ConfigError, match=sentence):
        sc.prune(llama(2), "magnitude", {metric: "50%"}, inputs)


def test_what_a_cache_does_not_hold_stays_unless_its_size_is_asked_for() -> None:
    graph = sc.trace(llama(), ids())
    up = "model.layers.0.mlp.gate_proj.out_features"
    whole = sc.plan(graph, "l1", {"kv_cache_bytes@1x16": "60%"}).sizes[up]
    assert whole == graph[up].size
    assert sc.plan(graph, "l1", {"kv_cache_bytes@1x16": "60%"}, sizes={up: whole // 2}).sizes[up] == whole // 2
