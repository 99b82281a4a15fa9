"""How many experts there are is a width: a router's rows, the experts' tensors, and what chooses between them by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.torch.language import hugging_face, ids, read_back, texts
from torch import Tensor, nn

import secateur as sc

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
}
DEEPSEEK = {
    "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 24, "first_k_dense_replace": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Mixtral": ("num_local_experts", {"num_key_value_heads": 2, "num_local_experts": 6}),
    "Qwen2Moe": (
        "num_experts",
        {
            "num_key_value_heads": 2,
            "num_experts": 6,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
        },
    ),
    "DeepseekV3": ("n_routed_experts", DEEPSEEK),  # in groups, of which the best are taken first
    "GptOss": ("num_local_experts", {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 6}),
}
FAMILIES["Phimoe"] = (
    "num_local_experts",
    {"num_key_value_heads": 2, "num_local_experts": 6},
)  # by max, one after another
TEXT = {"data_loader": texts(), "collect_func": lambda batch: batch}


def built(family: str) -> Any:
    return hugging_face(family, "ForCausalLM", **{**SHAPE, **FAMILIES[family][1]})


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_experts_are_asked_for_by_the_configurations_name_and_stock_code_loads_them(
    family: str, tmp_path: Any
) -> None:
    model, name = built(family), FAMILIES[family][0]
    sc.prune(model, "minitron", {"export_config": {name: 4}}, ids(), TEXT)
    assert getattr(model.config, name) == 4
    model.save_pretrained(tmp_path)
    again = read_back(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(again(**ids(3)).logits, model(**ids(3)).logits)
        assert model.generate(**ids(), max_new_tokens=2, do_sample=False).shape[1] == 11


def test_experts_that_the_router_never_chooses_can_go_and_nothing_changes() -> None:
    model, keep = built("GptOss"), [0, 2, 3, 5]
    for layer in model.model.layers:
        layer.mlp.router.bias.data[[1, 4]] = -1e4
    with torch.no_grad():
        before = model(**ids(3)).logits
    graph = sc.trace(model, ids())
    plan = graph.plan({f"model.layers.{i}.mlp.experts.num_experts": keep for i in range(2)})
    small: Any = sc.apply(model, plan)
    assert small.model.layers[0].mlp.experts.gate_up_proj.shape[0] == small.model.layers[0].mlp.experts.num_experts == 4
    with torch.no_grad():
        torch.testing.assert_close(small(**ids(3)).logits, before)


@pytest.mark.parametrize(
    ("family", "asked", "sentence"),
    [
        ("Mixtral", 1, "num_local_experts=1 is not possible.*nearest counts are 2, 3, 4.*at least 2, which is what the router"),
        ("Mixtral", 7, "num_local_experts=7 is not possible.*there are at most 6"),
        ("DeepseekV3", 5, "n_routed_experts=5 cannot be shared out among 2 groups of experts.*There can be 4, 6, 8"),
        ("DeepseekV3", 2, "n_routed_experts=2 is not possible.*nearest counts are 4, 6, 8"),
    ],
)  # fmt: skip
def test_a_number_of_experts_that_cannot_be_says_which_can(family: str, asked: int, sentence: str) -> None:
    with pytest.raises(sc.InputError, match=sentence):
        sc.prune(built(family), "minitron", {"export_config": {FAMILIES[family][0]: asked}}, ids(), TEXT)


def test_a_budget_may_take_experts() -> None:
    model = built("Mixtral")
    options = {"only": ["*.num_experts"], "verify": False}
    sc.prune(model, "magnitude", {"params": "70%"}, ids(), options)
    kept = [layer.mlp.gate.weight.shape[0] for layer in model.model.layers]
    assert [layer.mlp.experts.down_proj.shape[0] for layer in model.model.layers] == kept
    assert min(kept) >= 2
    assert sum(kept) < 12


class Chosen(nn.Module):
    """Features of which the best three go on, in some way."""

    def __init__(self, way: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.up, self.way = nn.Linear(4, 8), way

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        best = h.topk(3, dim=-1)
        return self.way(h, best.values, best.indices)


class LookedUp(nn.Module):
    """A table of which the best three rows are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.table = nn.Linear(4, 8), nn.Parameter(torch.randn(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        best = self.up(x).topk(3, dim=-1)
        return (self.table[best.indices] * best.values[..., None]).sum(1)


def table(h: Tensor, values: Tensor, ids: Tensor) -> Tensor:
    """Stands for `LookedUp`."""
    raise NotImplementedError


def _width(way: Callable[..., Tensor]) -> sc.Width:
    torch.manual_seed(0)
    graph = sc.trace(LookedUp() if way is table else Chosen(way), torch.randn(5, 4))
    return graph["up.out_features"]


BY_POSITION: dict[str, Callable[..., Tensor]] = {
    "looked up": table,
    "gathered": lambda h, values, ids: h.sigmoid().gather(1, ids).sum(1),
    "scattered": lambda h, values, ids: torch.zeros_like(h).scatter(1, ids.reshape(-1, 3).contiguous(), values).square().mean(1),
    "sorted, then gathered": lambda h, values, ids: h.gather(1, ids.sort(-1).values).sum(1),
}  # fmt: skip
AS_NUMBERS: dict[str, Callable[..., Tensor]] = {
    "calculated with": lambda h, values, ids: values.sum(1) + ids.sum(1),
    "compared": lambda h, values, ids: torch.where(ids < 4, values, -values).sum(1),
    "compared with one of them": lambda h, values, ids: torch.where(ids == 4, values, -values).sum(1),
    "told from one of them": lambda h, values, ids: torch.where(h.argmax(1) != 2, values.sum(1), -values.sum(1)),
    "returned": lambda h, values, ids: ids,
    "cast, then calculated with": lambda h, values, ids: values.sum(1) * ids.to(values.dtype).mean(1),
    "beside a constant of that size": lambda h, values, ids: torch.arange(8.0)[ids].sum(1) + values.sum(1),
    "written": lambda h, values, ids: torch.zeros_like(h).long().scatter(1, ids, ids).sum(1) + values.sum(1),
    "made into a list": lambda h, values, ids: values.sum(1) + torch.tensor([row[0] for row in ids.tolist()]),
}


@pytest.mark.parametrize("name", BY_POSITION)
def test_what_is_chosen_by_rank_is_free_where_its_positions_only_point(name: str) -> None:
    width = _width(BY_POSITION[name])
    assert width.frozen is None
    assert not width.exact
    assert width.choices[0] == 3, "no fewer than are chosen"


@pytest.mark.parametrize("name", AS_NUMBERS)
def test_what_is_chosen_by_rank_stays_where_its_positions_are_numbers(name: str) -> None:
    assert "position" in str(_width(AS_NUMBERS[name]).frozen)
