"""Which outputs keep their dimensions: what the model is run for; not its caches, nor looks inside."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from tests.zoo.shim import declare_torchvision_operators
from torch import Tensor, nn

import secateur as sc

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
Pair = namedtuple("Pair", "scores hidden_states")


class Net(nn.Module):
    """Two layers; what it returns is decided by the test."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.up, self.down, self.answer = nn.Linear(8, 16), nn.Linear(16, 4), answer

    def forward(self, x: Tensor) -> object:
        hidden = self.up(x).relu()
        return self.answer(self.down(hidden), hidden)  # type: ignore[operator]


class KeyValueCache:
    """A cache of one's own, known by its class's name."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = [keys]


@dataclass
class Answer:
    """What a dataclass returns."""

    logits: Tensor
    attentions: tuple[Tensor, ...]
    past_key_values: object = None


INTERIOR = {
    "a cache in a tuple": lambda y, h: (y, KeyValueCache(h)),
    "legacy tuples": lambda y, h: {"logits": y, "past_key_values": ((h, h), (h, h))},
    "states of a mamba": lambda y, h: {"logits": y, "cache_params": [h]},
    "hidden states": lambda y, h: {"scores": y, "hidden_states": (h, h)},
    "an encoder's": lambda y, h: {"logits": y, "encoder_last_hidden_state": h},
    "a recurrent model's": lambda y, h: {"logits": y, "state": [h]},
    "the body's beside the head's": lambda y, h: {"pred_logits": y, "last_hidden_state": h},
    "pictures beside what is said of them": lambda y, h: {"logits": y, "image_embeds": h},
    "a dataclass": lambda y, h: Answer(y, (h,), KeyValueCache(h)),
    "a named tuple": lambda y, h: Pair(y, h),
    "nested": lambda y, h: (y, {"inner": {"out": y, "past": [h]}}),
}

PINNED = {
    "a tuple": lambda y, h: (y, h),
    "a list": lambda y, h: [y, [h]],
    "a field of another name": lambda y, h: {"logits": y, "features": h},
    "nothing else": lambda y, h: {"hidden_states": (h, h)},
    "embeddings of pictures, compared": lambda y, h: {"logits_per_image": y, "image_embeds": h},
    "the body's alone": lambda y, h: {"last_hidden_state": h, "pooler_output": y},
    "logits that are not there": lambda y, h: {"logits": None, "last_hidden_state": h},
}


@pytest.mark.parametrize("case", INTERIOR)
def test_caches_and_looks_inside_do_not_pin(case: str) -> None:
    graph = sc.trace(Net(INTERIOR[case]), X)
    assert graph["up.out_features"].frozen is None
    assert "not pinned" in str(graph)


@pytest.mark.parametrize("case", PINNED)
def test_everything_else_keeps_its_dimensions(case: str) -> None:
    graph = sc.trace(Net(PINNED[case]), X)
    assert graph["up.out_features"].frozen == "the model's output"


def test_a_list_says_which_outputs_keep_their_dimensions() -> None:
    net = Net(lambda y, h: {"logits": y, "hidden_states": (h, h)})
    assert sc.trace(net, X, interface=["hidden_states[0]", "logits"])["up.out_features"].frozen == "the model's output"
    assert sc.trace(net, X, interface=["hidden_*"])["up.out_features"].frozen == "the model's output"
    assert sc.trace(net, X, interface=["logits"])["up.out_features"].frozen is None
    pair = Net(lambda y, h: (y, h))
    assert sc.trace(pair, X, interface=["[0]"])["up.out_features"].frozen is None


def test_an_output_that_is_not_there_is_said_with_those_that_are() -> None:
    net = Net(lambda y, h: {"logits": y, "hidden_states": (h, h)})
    with pytest.raises(sc.InputError, match=r"no output is called 'logit'.*logits, hidden_states"):
        sc.trace(net, X, interface=["logit"])


@pytest.mark.parametrize("interface", ["logits", [], [0], 3, None])
def test_an_interface_of_another_kind_is_refused(interface: object) -> None:
    with pytest.raises(sc.InputError, match="interface"):
        sc.trace(Net(lambda y, h: y), X, interface=interface)  # type: ignore[arg-type]


def test_the_interface_holds_over_all_rounds_of_a_call() -> None:
    net = Net(lambda y, h: (y, h))
    loader = [torch.randn(8, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    config = {"steps": 2, "data_loader": loader, "collect_func": lambda x: x, "compensate": "bias"}
    net, result = sc.prune(net, "magnitude", {"params": "55%"}, X, config, interface=["[0]"])
    assert net.up.out_features < 16
    assert result.verification.comparisons[0].outputs == ("[0]", "[1]")


def _llama() -> nn.Module:
    declare_torchvision_operators()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=2,
            pad_token_id=0,
        )
    ).eval()


def test_a_language_model_called_with_its_defaults_loses_heads_and_generates_with_its_cache() -> None:
    model, ids = _llama(), torch.randint(1, 64, (2, 7), generator=torch.Generator().manual_seed(0))
    graph = sc.trace(model, {"input_ids": ids})
    assert {"query_groups", "queries_per_group", "head_dim"} <= {w.kind for w in graph.free}
    groups = {
        "model.layers.0.self_attn.num_key_value_heads": [0, 1],
        "model.layers.1.self_attn.num_key_value_heads": [1],
    }
    small = sc.apply(model, graph.plan(groups))
    again = [
        small.generate(ids, max_new_tokens=6, do_sample=False, use_cache=cache, pad_token_id=0)  # type: ignore[operator]
        for cache in (True, False)
    ]
    assert torch.equal(*again)
    cache = small(ids).past_key_values
    assert [layer.keys.shape[1] for layer in cache.layers] == [2, 1]
