"""The minitron mode: uniform widths of a language model, by activations on calibration text."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.torch.language import hugging_face, ids, llama, texts
from torch import nn

import secateur as sc

CONFIG: dict[str, Any] = {"data_loader": texts(), "collect_func": lambda batch: batch}


def _prune(model: nn.Module, constraints: dict[str, Any], **config: Any) -> sc.PruneResult:
    return sc.prune(model, "minitron", constraints, ids(), {**CONFIG, **config})[1]


def test_a_budget_is_met_with_the_same_widths_in_all_blocks() -> None:
    model = llama()
    result = _prune(model, {"params": "65%"})
    assert 0.6 < result.after["params"] / result.before["params"] <= 0.65
    assert len({layer.mlp.gate_proj.out_features for layer in model.model.layers}) == 1
    assert len({layer.self_attn.q_proj.out_features for layer in model.model.layers}) == 1
    kept = [result.plan.kept[f"model.layers.{i}.mlp.gate_proj.out_features"] for i in range(3)]
    assert len(set(kept)) > 1, "other units each"


@pytest.mark.parametrize("mode", ["minitron", "mcore_minitron", "mcore_gpt_minitron"])
@pytest.mark.parametrize(
    "names",
    [
        ("hidden_size", "ffn_hidden_size", "num_attention_heads"),
        ("d_model", "intermediate_size", "n_heads"),
    ],
)
def test_sizes_that_are_asked_for_are_what_comes_out(mode: str, names: tuple[str, ...]) -> None:
    model = llama()
    export = dict(zip(names, (24, 40, 6), strict=True))
    sc.prune(model, mode, {"export_config": export}, ids(), CONFIG)
    layer = model.model.layers[1]
    assert model.lm_head.in_features == 24
    assert layer.mlp.down_proj.in_features == 40
    assert layer.self_attn.q_proj.out_features == 6 * 8
    assert layer.self_attn.k_proj.out_features == 2 * 8
    generated = model.generate(ids()["input_ids"], max_new_tokens=3, do_sample=False)
    assert generated.shape[1] == 12


def test_query_groups_and_heads_are_asked_for_together() -> None:
    model = llama()
    _prune(model, {"export_config": {"num_attention_heads": 2, "num_query_groups": 1}})
    assert model.model.layers[0].self_attn.q_proj.out_features == 2 * 8
    assert model.model.layers[0].self_attn.k_proj.out_features == 8


def test_sizes_under_a_bound_that_they_do_not_meet_are_refused() -> None:
    model = llama()
    with pytest.raises(sc.Infeasible, match="export_config leaves params"):
        _prune(model, {"export_config": {"hidden_size": 24}, "params": "40%"})
    assert model.lm_head.in_features == 32


@pytest.mark.parametrize(
    ("export", "sentence"),
    [
        ({"num_attention_heads": 5}, "cannot be shared out among 2 query groups.*there can be 4, 6, 8"),
        ({"hidden_size": 40}, "hidden_size=40 is not possible.*there are at most 32"),
        ({"hidden_sise": 24}, "hidden_sise is unknown. Did you mean 'hidden_size'.*This model has ffn_hidden_size"),
        ({"vocab_size": 10}, "vocab_size is unknown.*This model has ffn.*how many layers there are is num_layers"),
        ({"head_dim": 3}, "head_dim=3 is not possible: 2 channels of .* go together, so 2, 4"),
        ({"hidden_size": 25}, r"cannot say these sizes .* It can with \d+ instead of 25 for model.embed_tokens"),
        ({"head_dim": 2}, "cannot say these sizes"),
        ({"intermediate_size": 24, "ffn_hidden_size": 20}, "ffn_hidden_size=20 and intermediate_size=24 are one size"),
        ({"mamba_num_heads": 2}, "no mamba_num_heads that can be changed; it has ffn_hidden_size"),
        ({"num_layers": 4}, "num_layers=4 is not possible: model.layers has 3 layers, 1 must stay"),
        ({"num_layers": 0}, "num_layers=0 is not possible: model.layers has 3 layers, 1 must stay"),
        ({"num_query_groups": 3}, "num_query_groups=3 is not possible.*there are at most 2"),
        ({"hidden_size": 0}, "a whole number of at least 1"),
        ({"hidden_size": "24"}, "a whole number of at least 1"),
        ({"hidden_size": True}, "a whole number of at least 1"),
        ({}, "export_config is written as"),
    ],
)
def test_impossible_sizes_say_what_is_possible(export: dict[str, Any], sentence: str) -> None:
    model = llama()
    with pytest.raises(sc.SecateurError, match=sentence):
        _prune(model, {"export_config": export})
    assert model.lm_head.in_features == 32


def test_a_size_may_be_a_whole_number_of_numpy() -> None:
    model = llama()
    _prune(model, {"export_config": {"hidden_size": np.int64(24), "num_layers": np.int64(2)}})
    assert (model.lm_head.in_features, len(model.model.layers)) == (24, 2)


def test_a_hidden_size_that_is_no_multiple_is_refused_with_those_that_are() -> None:
    with pytest.raises(sc.InputError, match=r"hidden_size=20 is not possible.*nearest counts are 8, 16, 24, 32"):
        _prune(llama(), {"export_config": {"hidden_size": 20}}, multiple_of=8)


BART = {
    "vocab_size": 64, "d_model": 32, "encoder_layers": 3, "decoder_layers": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2,
}  # fmt: skip


def _both(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch | {"decoder_input_ids": batch["input_ids"]}


def test_sizes_of_an_encoder_and_of_its_decoder_are_asked_for_apart() -> None:
    model = hugging_face("Bart", "ForConditionalGeneration", **BART)
    asked = {"encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 40}
    sc.prune(model, "minitron", {"export_config": asked}, _both(ids()), {**CONFIG, "data_loader": [_both(ids(1))]})
    assert {name: getattr(model.config, name) for name in asked} == asked
    assert model.config.decoder_ffn_dim == 48
    assert (len(model.model.encoder.layers), len(model.model.decoder.layers)) == (2, 3)


def test_a_number_of_layers_that_two_lists_have_says_how_to_ask_for_each() -> None:
    model = hugging_face("Bart", "ForConditionalGeneration", **BART)
    with pytest.raises(
        sc.InputError, match=r"encoder.layers \(3\), .*decoder.layers \(4\); ask for encoder_layers and"
    ):
        sc.prune(model, "minitron", {"export_config": {"num_layers": 2}}, _both(ids()), CONFIG)


def test_sizes_that_the_limits_do_not_allow_are_refused_with_the_nearest() -> None:
    with pytest.raises(sc.SecateurError, match=r"intermediate_size=41.*nearest counts are 16, 32, 48"):
        _prune(llama(), {"export_config": {"intermediate_size": 41}}, multiple_of=16)


def test_the_first_candidates_are_measured_and_the_best_is_taken() -> None:
    seen: list[int] = []

    def likes_a_narrow_stream(model: nn.Module) -> float:
        seen.append(model.lm_head.in_features)  # type: ignore[union-attr,arg-type]
        return -float(seen[-1])

    model = llama()
    result = _prune(model, {"params": "60%"}, score_func=likes_a_narrow_stream, top_k=4)
    assert 2 <= len(result.evidence.candidates) <= 4
    assert model.lm_head.in_features == min(seen) < max(seen)


def test_a_model_whose_activations_are_computed_again_is_pruned_as_any_other() -> None:
    one, other = llama(), llama()
    other.gradient_checkpointing_enable()
    for model in (one, other):
        _prune(model, {"params": "70%"})
        model.train()
        model(**ids(), labels=ids()["input_ids"]).loss.backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert other.model.layers[0].gradient_checkpointing


def test_a_score_that_is_no_number_for_any_candidate_is_refused() -> None:
    model = llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(sc.InputError, match="no finite number for any of the candidates"):
        _prune(model, {"params": "60%"}, score_func=lambda _: float("nan"), top_k=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_without_uniform_each_layer_gets_its_own_widths() -> None:
    model = llama()
    _prune(model, {"params": "60%"}, uniform=False)
    assert len({layer.mlp.gate_proj.out_features for layer in model.model.layers}) > 1


def test_text_can_come_through_a_forward_loop() -> None:
    def calibrate(model: nn.Module) -> None:
        for batch in texts():
            model(**batch)

    one, other = llama(), llama()
    sc.prune(one, "minitron", {"params": "70%"}, ids(), {"forward_loop": calibrate})
    sc.prune(other, "minitron", {"params": "70%"}, ids(), CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_without_text_the_way_out_is_said() -> None:
    with pytest.raises(sc.ConfigError, match="looks at data and was given none"):
        sc.prune(llama(), "minitron", {"params": "70%"}, ids())


def _by_hand(model: nn.Module) -> dict[str, np.ndarray]:
    """Scores as the paper has them, from hooks."""
    inputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            squares = args[0].detach().double().abs().mean(1).square().sum(0)
            inputs[name] = inputs.get(name, torch.zeros_like(squares)) + squares

        return hook

    layer = model.model.layers[1]
    last = model.model.layers[-1]
    watched = {"down": layer.mlp.down_proj, "out": layer.self_attn.o_proj, "head": model.lm_head}
    watched |= {f"q{i}": each.self_attn.q_proj for i, each in enumerate(model.model.layers)}
    watched |= {f"up{i}": each.mlp.gate_proj for i, each in enumerate(model.model.layers)}
    handles = [module.register_forward_pre_hook(keep(name)) for name, module in watched.items()]
    for batch in texts():
        model(**batch)
    for handle in handles:
        handle.remove()
    assert last is not layer
    places = [inputs[name].sqrt() for name in inputs if name[0] in "quh"]
    return {
        "model.layers.1.mlp.gate_proj.out_features": inputs["down"].sqrt().numpy(),
        "model.layers.1.self_attn.num_key_value_groups": inputs["out"].view(2, 4, 8).sum((0, 2)).sqrt().numpy(),
        "model.embed_tokens.embedding_dim": torch.stack(places).sum(0).numpy(),
    }


def test_scores_are_those_of_the_paper() -> None:
    model = llama()
    graph = sc.trace(model, ids())
    criterion = sc.criteria.ActivationNorm(data_loader=texts(), collect_func=lambda batch: batch)
    scores = criterion(graph, model)
    for name, due in _by_hand(model).items():
        np.testing.assert_allclose(scores[name], due, rtol=1e-5)


def test_aggregations_differ_and_are_named_when_wrong() -> None:
    model = llama()
    graph = sc.trace(model, ids())
    name = "model.layers.0.mlp.gate_proj.out_features"
    found = [
        sc.criteria.ActivationNorm(batch=b, sequence=s, data_loader=texts(), collect_func=lambda batch: batch)(
            graph, model
        )[name]
        for b in ("l2", "mean")
        for s in ("l2", "mean")
    ]
    assert len({tuple(np.round(one / one.sum(), 9)) for one in found}) == 4
    with pytest.raises(sc.ConfigError, match="sequence"):
        sc.criteria.ActivationNorm(sequence="median")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "head", "config"),
    [
        ("GPT2", "LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}),
        ("T5", "ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}),
        ("Mamba2", "ForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 4,
                                   "head_dim": 16, "n_groups": 2, "chunk_size": 4}),
        ("Mixtral", "ForCausalLM", {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2,
                                    "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}),
    ],
)  # fmt: skip
def test_it_needs_no_code_of_the_family(family: str, head: str, config: dict[str, Any]) -> None:
    model = hugging_face(family, head, vocab_size=64, decoder_start_token_id=0, **config)
    inputs = ids() | ({"decoder_input_ids": ids(5)["input_ids"]} if family == "T5" else {})
    data = [batch | ({"decoder_input_ids": batch["input_ids"]} if family == "T5" else {}) for batch in texts()]
    _, result = sc.prune(model, "minitron", {"params": "70%"}, inputs, {**CONFIG, "data_loader": data})
    assert result.after["params"] <= 0.7 * result.before["params"]
    assert not result.plan.provenance["not_scored"]


def test_layers_and_widths_share_one_budget() -> None:
    model = llama(6)
    result = _prune(model, {"params": "50%"}, depth=True)
    assert result.after["params"] <= 0.5 * result.before["params"]
    assert model.config.num_hidden_layers == len(model.model.layers) < 6
    assert len({layer.mlp.gate_proj.out_features for layer in model.model.layers}) == 1
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [*range(len(model.model.layers))]


def test_layers_alone_meet_a_budget_by_what_they_are_worth() -> None:
    model = llama(5)
    result = _prune(model, {"params": "70%"}, depth="only")
    assert result.after["params"] <= 0.7 * result.before["params"]
    assert len(model.model.layers) == 5 - len(result.plan.drops) < 5
    assert model.config.hidden_size == 32


def test_a_number_of_heads_that_cannot_be_changed_says_what_holds_them() -> None:
    model = hugging_face("Bloom", "ForCausalLM", vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    with pytest.raises(sc.InputError, match=r"n_head stays 4: transformer.h.0.self_attention.num_heads is left whole"):
        _prune(model, {"export_config": {"n_head": 2}})


def test_heads_that_each_group_has_one_of_are_asked_for_as_groups() -> None:
    model = llama(num_key_value_heads=8)
    sc.prune(model, "minitron", {"export_config": {"num_attention_heads": 4}}, ids(), CONFIG)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (4, 4)


@pytest.mark.parametrize(
    ("groups", "export", "sentence"),
    [
        (4, {"num_attention_heads": 8, "num_query_groups": 2}, "keeps its 2 heads, so 4 heads .*=2, and 4 groups .*=8"),
        (4, {"num_attention_heads": 4, "num_key_value_heads": 4}, "num_key_value_heads=4 do not go together"),
        (8, {"num_attention_heads": 4, "num_key_value_heads": 2}, "are one size of this model"),
        (1, {"num_query_groups": 2}, "no num_query_groups that can be changed"),
    ],
)
def test_heads_and_groups_that_do_not_go_together_say_what_would(
    groups: int, export: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(sc.InputError, match=sentence):
        _prune(llama(num_key_value_heads=groups), {"export_config": export})


@pytest.mark.parametrize(("groups", "left"), [(8, 4), (4, 2), (1, 1)])
def test_a_configuration_can_be_copied_with_what_stays_as_it_is(groups: int, left: int) -> None:
    model = llama(num_key_value_heads=groups)
    asked = {"num_attention_heads": 4, "num_key_value_heads": left, "head_dim": 8, "hidden_size": 32}
    sc.prune(model, "minitron", {"export_config": asked}, ids(), CONFIG)
    assert {name: getattr(model.config, name) for name in asked} == asked


def test_a_field_of_the_models_own_configuration_is_a_name_for_what_it_says() -> None:
    shape = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = hugging_face("Mixtral", "ForCausalLM", vocab_size=64, num_key_value_heads=2, num_local_experts=4, **shape)
    sc.prune(model, "minitron", {"export_config": {"intermediate_size": 16}}, ids(), CONFIG)
    assert model.config.intermediate_size == 16
    assert model.model.layers[1].mlp.experts.down_proj.shape == (4, 32, 16)


def test_the_size_that_there_is_already_is_no_way_out() -> None:
    with pytest.raises(sc.InputError, match=r"inv_freq is computed .*can with model.*head_dim_pairs left as it is"):
        _prune(llama(), {"export_config": {"head_dim": 4}})


def test_a_field_left_open_is_filled_where_the_others_would_change_what_it_stands_for() -> None:
    model = hugging_face("Mixtral", "ForCausalLM", vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, num_local_experts=4)  # fmt: skip
    assert model.config.head_dim is None
    _prune(model, {"export_config": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 40}})
    said = [getattr(model.config, name) for name in ("num_attention_heads", "num_key_value_heads", "head_dim")]
    assert (*said, model.config.intermediate_size) == (2, 1, 8, 40)
