"""ModelOpt's Minitron on the same network, in a process of its own: moved into Megatron-Core, pruned there, and moved back.

    pip install torch==2.13.0 numpy                                          a build for CPUs will do
    pip install megatron-core==0.16.1 nvidia-modelopt==0.42.0 torch==2.13.0  for Python 3.11

    Llama ──► GPTModel ──► scored on the calibration text ──► ten candidates at the bound ──► the best, a smaller Llama

From 0.44 on it imports Transformer Engine, which wants CUDA. The search is its own, over all sizes that it can prune (keys and
values stay): of the networks under the bound the ten with most parameters (its default) are judged by loss on the windows that
our minitron picks by; layers go by block influence, its metric. Its other defaults are for large networks. Here hidden widths
come in steps of 16 (not 256), feed-forward in steps of 8 (512), layers one by one (in pairs), and a width may lose 60 % (40 %),
the depth half (a fifth): by loss on those windows no other of seven such settings was better at any share, for seed 0.

Invariant: Megatron-Core's network gives the logits of the Llama that it stands for, before it is pruned and after; both checked.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.language.elsewhere import run_elsewhere

_SHOWN = 4  # windows that logits are compared on
_CLOSE = 1e-4
_OUTER = {  # theirs, ours
    "embedding.word_embeddings": "model.embed_tokens",
    "decoder.final_layernorm": "model.norm",
    "output_layer": "lm_head",
}
_INNER = {
    "input_layernorm": "input_layernorm",
    "self_attention.linear_proj": "self_attn.o_proj",
    "pre_mlp_layernorm": "post_attention_layernorm",
    "mlp.linear_fc2": "mlp.down_proj",
}
_SIZES = {  # as Megatron-Core has them, and as a configuration of Hugging Face does
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
    "num_query_groups": "num_key_value_heads",
    "kv_channels": "head_dim",
}
State = dict[str, Tensor]
Recipe = Callable[[nn.Module, int, Any], None]


def modelopt_recipes(python: str) -> dict[str, Recipe]:
    """Its search under a bound on parameters, as a method."""
    return {"ModelOpt, Minitron": _in_process(python)}


def _in_process(python: str) -> Recipe:
    def prune(model: Any, params: int, text: Any) -> None:
        ids = torch.cat([batch["input_ids"] for batch in text.calibration])
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            state = {f"model.{name}": t.contiguous() for name, t in model.state_dict().items()}
            given = {"ids": ids, "validation": text.validation, "logits": model(input_ids=ids[:_SHOWN]).logits}
            save_file({**state, **given}, f"{folder}/in.safetensors")
            sizes = {theirs: getattr(model.config, ours) for theirs, ours in _SIZES.items()}
            job = {"folder": folder, "params": params, "sizes": sizes}
            run_elsewhere(python, "benchmarks.language.modelopt", job, seconds=1800)
            found = json.loads(Path(folder, "found.json").read_text())
            print(f"  {found}", flush=True)
            pruned = load_file(f"{folder}/out.safetensors")
            expected = pruned.pop("logits")
            config = copy.deepcopy(model.config)
            config.update({ours: found["sizes"][theirs] for theirs, ours in _SIZES.items()})
            smaller = type(model)(config).eval()
            smaller.load_state_dict(to_llama(pruned, found["sizes"]))
            _check_same(smaller(input_ids=ids[:_SHOWN]).logits, expected)
        model.__dict__.clear()
        model.__dict__.update(smaller.__dict__)

    return prune


def _check_same(logits: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(logits, expected, atol=_CLOSE, rtol=_CLOSE)


def to_megatron(llama: State, sizes: dict[str, int]) -> State:
    """Queries, keys and values of a group stand together there, and the gate above what it gates."""
    state = {f"{theirs}.weight": llama[f"{ours}.weight"] for theirs, ours in _OUTER.items()}
    for i in range(sizes["num_layers"]):
        theirs, ours = f"decoder.layers.{i}", f"model.layers.{i}"
        state |= {f"{theirs}.{a}.weight": llama[f"{ours}.{b}.weight"] for a, b in _INNER.items()}
        qkv = [llama[f"{ours}.self_attn.{x}_proj.weight"].unflatten(0, (sizes["num_query_groups"], -1)) for x in "qkv"]
        state[f"{theirs}.self_attention.linear_qkv.weight"] = torch.cat(qkv, 1).flatten(0, 1)
        gated = [llama[f"{ours}.mlp.{x}_proj.weight"] for x in ("gate", "up")]
        state[f"{theirs}.mlp.linear_fc1.weight"] = torch.cat(gated)
    return state


def to_llama(megatron: State, sizes: dict[str, int]) -> State:
    """The way back."""
    groups, width = sizes["num_query_groups"], sizes["kv_channels"]
    state = {f"{ours}.weight": megatron[f"{theirs}.weight"] for theirs, ours in _OUTER.items()}
    for i in range(sizes["num_layers"]):
        theirs, ours = f"decoder.layers.{i}", f"model.layers.{i}"
        state |= {f"{ours}.{b}.weight": megatron[f"{theirs}.{a}.weight"] for a, b in _INNER.items()}
        each = [sizes["num_attention_heads"] // groups * width, width, width]
        qkv = megatron[f"{theirs}.self_attention.linear_qkv.weight"].unflatten(0, (groups, -1)).split(each, 1)
        state |= {f"{ours}.self_attn.{x}_proj.weight": part.flatten(0, 1) for x, part in zip("qkv", qkv, strict=True)}
        gated = megatron[f"{theirs}.mlp.linear_fc1.weight"].chunk(2)
        state |= {f"{ours}.mlp.{x}_proj.weight": part for x, part in zip(("gate", "up"), gated, strict=True)}
    return state


def _network(sizes: dict[str, int], length: int) -> Any:
    """Megatron-Core's, of plain PyTorch: by default nothing is fused."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        **sizes,
        normalization="RMSNorm",
        layernorm_epsilon=1e-6,
        gated_linear_unit=True,
        activation_func=functional.silu,
        add_bias_linear=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        use_cpu_initialization=True,
        pipeline_dtype=torch.float32,
    )
    return GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=256,
        max_sequence_length=length,
        position_embedding_type="rope",
        rotary_base=10000,
        share_embeddings_and_output_weights=False,
    ).eval()


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    count = ids.shape[1]
    later = torch.ones(1, 1, count, count, dtype=torch.bool).triu(1)
    with torch.no_grad():
        return model(ids, torch.arange(count)[None].expand_as(ids), later)


def _start() -> None:
    """One process without CUDA: what Megatron-Core wants for that, and what ModelOpt wants beside it."""
    from tests.megatron.shim import start

    start()
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]
    gather: Any = torch.distributed.all_gather_into_tensor

    def gather_of_any_shape(into: Tensor, one: Tensor, *args: Any, **kwargs: Any) -> Any:
        return gather(into, one.reshape(-1), *args, **kwargs)  # gloo takes no tensor without dimensions

    torch.distributed.all_gather_into_tensor = gather_of_any_shape
    from modelopt.torch.nas.modules import _DynamicLayerNorm
    from modelopt.torch.nas.registry import DMRegistry

    class _RMSNorm(_DynamicLayerNorm):
        """PyTorch's norm, as it treats that of Apex, the only one it knows."""

        def _setup(self, *, num_features: Any) -> None:
            self._register_hparam("num_features", num_features)
            self._register_dynamic_attribute("weight", self._cut_to_active_features)
            self._register_dynamic_attribute("normalized_shape", self._get_normalized_shape)

    DMRegistry.register({nn.RMSNorm: "nn.RMSNorm"})(_RMSNorm)


def main(job: dict[str, Any]) -> None:
    """Prune to the bound, and save weights, sizes and some logits."""
    started = time.process_time()
    stored = load_file(f"{job['folder']}/in.safetensors")
    ids, validation, expected = (stored.pop(name) for name in ("ids", "validation", "logits"))
    llama = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    _start()
    model = _network(job["sizes"], ids.shape[1])
    told = model.load_state_dict(to_megatron(llama, job["sizes"]), strict=False)
    assert not told.unexpected_keys, told
    assert all(name.endswith("_extra_state") for name in told.missing_keys), told
    _check_same(_logits(model, ids[:_SHOWN]), expected)
    model, scores = _pruned(model, job["params"], ids, validation)
    sizes = {name: getattr(model.config, name) for name in _SIZES}
    state = {name: t.contiguous() for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    save_file({**state, "logits": _logits(model, ids[:_SHOWN])}, f"{job['folder']}/out.safetensors")
    found = {"sizes": sizes, "scores": scores, "seconds": round(time.process_time() - started, 1)}
    Path(job["folder"], "found.json").write_text(json.dumps(found))


def _pruned(model: nn.Module, params: int, ids: Tensor, validation: Tensor) -> tuple[Any, list[float]]:
    """What its search finds, and the scores of the candidates."""
    import modelopt.torch.prune as mtp
    from modelopt.torch.prune.plugins.mcore_minitron import get_mcore_minitron_config

    scores: list[float] = []

    def calibrate(model: nn.Module) -> None:
        for rows in ids.split(32):
            _logits(model, rows)

    def score(model: nn.Module) -> float:
        logits = _logits(model, validation[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), validation[:, 1:].flatten())
        scores.append(round(-float(loss), 4))
        return -float(loss)

    steps = get_mcore_minitron_config(hidden_size_divisor=16, ffn_hidden_size_divisor=8, num_layers_divisor=1)
    within = {"max_width_pruning": 0.6, "max_depth_pruning": 0.5, "top_k": 10}
    model, _ = mtp.prune(
        model,
        mode=[("mcore_minitron", steps)],
        constraints={"params": params},
        dummy_input=None,
        config={"forward_loop": calibrate, "score_func": score, **within},
    )
    return model, scores


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(json.loads(sys.argv[1]))
