"""Narrowed models of transformers: their own configuration says what is left, or we say that none can."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.torch.narrowing.host_building import on_meta
from tests.hf.families import QUICK, built, inputs, round_trip
from tests.torch.language import hugging_face, ids, llama, texts

CONFIG: dict[str, Any] = {"data_loader": texts(), "collect_func": lambda batch: batch}
UP = "model.layers.{}.mlp.gate_proj.out_features"


def _uneven(model: nn.Module) -> nn.Module:
    graph = sc.trace(model, ids())
    return sc.apply(model, graph.plan({UP.format(0): range(20), UP.format(1): range(8, 40)}))


@pytest.mark.parametrize("name", QUICK)
def test_stock_code_loads_what_the_models_own_save_writes(name: str) -> None:
    trip = round_trip(name)
    assert trip.params <= 0.7
    assert trip.fields


def test_modules_share_one_configuration_again() -> None:
    model = llama()
    sc.prune(model, "minitron", {"export_config": {"hidden_size": 24, "intermediate_size": 40}}, ids(), CONFIG)
    assert (model.config.hidden_size, model.config.intermediate_size) == (24, 40)
    configs = {id(module.config) for module in model.modules() if hasattr(module, "config")}
    assert len(configs) == 1


def test_the_given_model_keeps_its_configuration_where_a_new_one_is_returned() -> None:
    model = llama()
    graph = sc.trace(model, ids())
    small = sc.apply(model, graph.plan({UP.format(i): range(30) for i in range(3)}))
    assert small.config.intermediate_size == 30
    assert model.config.intermediate_size == 48


def test_a_fault_leaves_the_configuration_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    graph = sc.trace(model, ids())
    plan = graph.plan({UP.format(i): range(30) for i in range(3)})
    before, text = model.config, model.config.to_json_string()

    def stop(*args: object) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr("secateur.torch.narrowing.installing._drop_caches", stop)
    with pytest.raises(sc.ApplyError, match="stopped"):
        sc.apply(model, plan, in_place=True, verify=False)
    assert model.config is before
    assert model.config.to_json_string() == text
    assert all(module.config is before for module in model.modules() if hasattr(module, "config"))


def test_widths_of_their_own_are_said_when_applied_and_come_back_through_our_loader(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"cannot say what is left \(model.layers.\*.mlp.gate_proj.out_features has"):
        small = _uneven(llama())
    with pytest.warns(UserWarning, match="saved with a plan of ours"):
        sc.hf.save_pretrained(small, tmp_path / "small")
    assert json.loads((tmp_path / "small" / "config.json").read_text())["intermediate_size"] == 48
    again = sc.hf.from_pretrained(tmp_path / "small")
    assert type(again) is type(small)
    assert torch.equal(again(**ids()).logits, small(**ids()).logits)
    asked = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(again.generate(**ids(), **asked), small.generate(**ids(), **asked))


def test_numbers_of_a_configuration_that_are_not_finite_come_back(tmp_path: Path) -> None:
    model = hugging_face(
        "Mamba2", "ForCausalLM", vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=4,
        head_dim=16, n_groups=2, chunk_size=4,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="cannot say what is left"):
        small, _ = sc.prune(model, "magnitude", {"params": "70%"}, ids())
    sc.hf.save_pretrained(small, tmp_path)
    again = sc.hf.from_pretrained(tmp_path)
    assert again.config.time_step_limit[1] == float("inf")
    assert torch.equal(again(**ids()).logits, small(**ids()).logits)


def test_a_configuration_that_cannot_be_written_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = _uneven(llama())

    def refuse(*args: object) -> str:
        raise ValueError("refused")

    monkeypatch.setattr(type(small.generation_config), "to_json_string", refuse)
    with pytest.raises(ValueError, match="refused"):
        sc.hf.save_pretrained(small, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_half_precision_comes_back_as_it_was(tmp_path: Path) -> None:
    small = _uneven(llama().to(torch.bfloat16))
    sc.hf.save_pretrained(small, tmp_path)
    assert next(sc.hf.from_pretrained(tmp_path).parameters()).dtype is torch.bfloat16


def test_what_a_configuration_can_say_is_saved_without_a_word_of_ours(tmp_path: Path) -> None:
    model = llama()
    sc.prune(model, "minitron", {"params": "70%"}, ids(), CONFIG)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sc.hf.save_pretrained(model, tmp_path)
    assert not (tmp_path / "plan.json").exists()
    assert torch.equal(sc.hf.from_pretrained(tmp_path)(**ids()).logits, model(**ids()).logits)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    sc.prune(model, "minitron", {"export_config": {"hidden_size": 24}}, ids(), CONFIG)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    again = sc.hf.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_rotary_pairs_cannot_be_said_and_are_kept_by_our_own_format(tmp_path: Path) -> None:
    model = llama()
    graph = sc.trace(model, ids())
    with pytest.warns(UserWarning, match="inv_freq is computed from the configuration"):
        small = sc.apply(model, graph.plan({"model.layers.0.self_attn.head_dim_pairs": [0, 2, 3]}))
    sc.hf.save_pretrained(small, tmp_path)
    assert torch.equal(sc.hf.from_pretrained(tmp_path)(**ids()).logits, small(**ids()).logits)


def test_an_artefact_of_uniform_widths_is_restored_with_its_configuration(tmp_path: Path) -> None:
    model = llama()
    sc.prune(model, "minitron", {"export_config": {"intermediate_size": 40}}, ids(), CONFIG)
    sc.save(model, tmp_path / "ours")
    again = sc.restore(llama(), tmp_path / "ours")
    assert again.config.intermediate_size == 40
    again.save_pretrained(tmp_path / "theirs")
    assert torch.equal(sc.hf.from_pretrained(tmp_path / "theirs")(**ids()).logits, model(**ids()).logits)


def test_heads_that_a_configuration_ties_to_the_stream_go_with_it() -> None:
    model = built("bert")
    data = {"data_loader": texts(), "collect_func": lambda batch: batch}
    with pytest.raises(sc.InputError, match="cannot say these sizes"):
        sc.prune(model, "minitron", {"export_config": {"hidden_size": 24}}, inputs("bert"), data)
    sizes = {"hidden_size": 24, "num_attention_heads": 3}
    sc.prune(model, "minitron", {"export_config": sizes}, inputs("bert"), data)
    assert (model.config.hidden_size, model.config.num_attention_heads) == (24, 3)


def test_a_number_that_the_constructor_computes_is_no_number_to_change() -> None:
    model = hugging_face(
        "Gemma2", "ForCausalLM", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8,
    )  # fmt: skip
    graph = sc.trace(model, ids())
    with pytest.warns(UserWarning, match="scalar_embed_scale is computed from the configuration"):
        sc.apply(model, graph.plan({"model.embed_tokens.embedding_dim": range(24)}))


def test_layers_without_numbers_are_built_anew_without_a_word() -> None:
    sizes = {"embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2}
    model = hugging_face(
        "MobileBert", "ForMaskedLM", vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=32, **sizes,
    )  # fmt: skip
    assert model.cls.predictions.dense.weight.numel() == 0  # hidden_size - embedding_size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on_meta(model, model.config)


def test_what_is_no_model_of_transformers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sc.InputError, match=r"no model of transformers; use secateur.save"):
        sc.hf.save_pretrained(nn.Linear(2, 2), tmp_path)
    with pytest.raises(sc.ArtifactError, match="is no checkpoint"):
        sc.hf.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["os"]}')
    with pytest.raises(sc.ArtifactError, match="transformers has no class os"):
        sc.hf.from_pretrained(tmp_path)


def test_padded_batches_run_on_what_an_example_without_padding_narrowed() -> None:
    model = llama()
    mask = torch.ones_like(ids()["input_ids"])
    mask[-1, -3:] = 0
    sc.prune(model, "magnitude", {"params": "60%"}, ids())
    unpadded = model(**ids()).logits
    padded = model(**ids(), attention_mask=mask).logits
    assert torch.allclose(padded[0], unpadded[0], atol=1e-5)
    groups = {layer.self_attn.num_key_value_groups for layer in model.model.layers}
    heads = {layer.self_attn.q_proj.out_features // layer.self_attn.k_proj.out_features for layer in model.model.layers}
    assert groups == heads


class _Around(nn.Module):
    """A linear layer with a low rank beside it, put in by hand."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.low = base, nn.Linear(base.in_features, 2, bias=False)
        self.high = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.high(self.low(x))


def test_a_model_with_modules_put_in_by_hand_is_restored_as_the_warning_says(tmp_path: Path) -> None:
    def made() -> Any:
        model: Any = llama()
        for layer in model.model.layers:
            layer.mlp.up_proj = _Around(layer.mlp.up_proj)
        return model

    small, _ = sc.prune(made(), "magnitude", {"params": "70%"}, ids())
    with pytest.warns(UserWarning, match=r"put in by hand is built as it was and given to secateur\.restore"):
        sc.hf.save_pretrained(small, tmp_path)
    with pytest.raises(sc.ArtifactError, match=r"put in by hand is built as it was and given to secateur\.restore"):
        sc.hf.from_pretrained(tmp_path)
    again = sc.restore(made(), tmp_path)
    assert torch.equal(again(**ids()).logits, small(**ids()).logits)


def test_what_save_wrote_loads_as_what_save_pretrained_wrote(tmp_path: Path) -> None:
    small = _uneven(llama())
    sc.save(small, tmp_path)
    assert torch.equal(sc.hf.from_pretrained(tmp_path)(**ids()).logits, small(**ids()).logits)


def test_a_head_width_that_no_configuration_says_survives_the_artefact(tmp_path: Path) -> None:
    """Its constructor computes it from two fields, of which code reads neither: the plan says that it stays."""
    from transformers import MegatronBertConfig, MegatronBertForMaskedLM

    def whole() -> Any:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        return MegatronBertForMaskedLM(MegatronBertConfig(vocab_size=96, initializer_range=0.3, **sizes)).eval()

    export = {"hidden_size": 24, "num_attention_heads": 3}
    model, result = sc.prune(whole(), "minitron", {"export_config": export}, ids(), CONFIG)
    sc.save(model, tmp_path / "small")
    wanted = model(**ids()).logits
    for again in (
        sc.restore(whole(), tmp_path / "small"),
        sc.apply(whole(), sc.Plan.from_json(result.plan.to_json()), verify=False),
    ):
        assert again.bert.encoder.layer[0].attention.self.attention_head_size == 8
        assert torch.equal(again(**ids()).logits, wanted)


def test_what_would_load_with_random_weights_is_not_written(tmp_path: Path) -> None:
    model = llama()
    torch.nn.utils.parametrizations.orthogonal(model.model.layers[0].self_attn.q_proj)
    with pytest.raises(sc.ArtifactError, match="masks and other parametrizations off first"):
        sc.hf.save_pretrained(model, tmp_path / "masked")
    model = llama()
    model.model.layers[0].mlp.down_proj = nn.Sequential(model.model.layers[0].mlp.down_proj, nn.Linear(32, 32))
    with pytest.raises(sc.ArtifactError, match="put in by hand"):
        sc.hf.save_pretrained(model, tmp_path / "adapted")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_lacks_weights_is_not_loaded_with_random_ones(tmp_path: Path) -> None:
    llama().model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}), "utf-8")
    with pytest.raises(sc.ArtifactError, match=r"lacks lm_head.weight \(1 tensors of LlamaForCausalLM"):
        sc.hf.from_pretrained(tmp_path)


def test_a_table_that_stock_code_builds_anew_keeps_its_width_in_an_ordinary_checkpoint(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 64}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    extra = {"max_position_embeddings": 32, "decoder_start_token_id": 1, "forced_eos_token_id": 2}
    model = hugging_face("Marian", "MTModel", **sizes, **layers, **extra)
    given = {"input_ids": torch.randint(3, 60, (2, 9)), "decoder_input_ids": torch.randint(3, 60, (2, 5))}
    batches = {"data_loader": [given] * 4, "collect_func": lambda batch: batch}
    sc.prune(model, "minitron", {"params": "80%"}, given, batches)
    sc.hf.save_pretrained(model, tmp_path)
    again = sc.hf.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(**given).logits, model(**given).logits)


def test_channels_of_a_convolution_whose_weight_alone_is_taken_are_saved_and_restored(tmp_path: Path) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    layers = {"num_key_value_heads": 2, "num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1}
    mixed = {"num_experts": 2, "mamba_d_state": 8, "mamba_dt_rank": 8}
    model = hugging_face("Jamba", "ForCausalLM", **sizes, **layers, **mixed)
    whole = copy.deepcopy(model)
    given = ids()
    graph = sc.trace(model, given)
    width = next(width for width in graph.free if "mamba.conv1d.weight" in str(width.uses))
    sc.apply(model, graph.plan({width.name: range(50)}), in_place=True)
    convolution = model.model.layers[0].mamba.conv1d
    assert convolution.groups == convolution.weight.shape[0] < whole.model.layers[0].mamba.conv1d.groups
    sc.save(model, tmp_path / "small")
    again = sc.restore(whole, tmp_path / "small")
    with torch.no_grad():
        torch.testing.assert_close(again(**given).logits, model(**given).logits)


def test_a_whole_network_of_other_settings_is_told_when_it_is_restored_onto(tmp_path: Path) -> None:
    model = sc.prune(llama(), "magnitude", {"params": "70%"}, ids())[0]
    sc.save(model, tmp_path / "small")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sc.restore(llama(), tmp_path / "small")
    other = llama()
    other.config.rms_norm_eps = 0.1  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="rms_norm_eps=0.1 and not"):
        sc.restore(other, tmp_path / "small")


def test_a_state_dict_of_another_network_is_refused() -> None:
    model = llama()
    plan = sc.plan(sc.trace(model, ids()), "l1", {"params": "70%"})
    shared = plan.narrowed[0]
    with pytest.raises(sc.PlanError, match="another network"):
        sc.narrowed({shared: model.state_dict()[shared], "a": torch.zeros(3), "b": torch.zeros(3)}, plan)
