"""A plan meets its budget, says how it was made, and refuses what it cannot do."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from secateur.core.budget import Budget
from secateur.errors import ConfigError, Infeasible, InputError, PlanError
from secateur.search.limits import Limits, restrict
from secateur.testing import small_network
from secateur.torch.criteria import L2, BatchNormScale
from secateur.torch.plan import plan
from secateur.torch.trace import trace

torch.set_num_threads(1)


def convolutions(*sizes: int) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in zip((3, *sizes), (*sizes, 5), strict=True):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


GRAPH = trace(convolutions(16, 32, 64), torch.zeros(1, 3, 8, 8))
FIRST, SECOND, THIRD = (w.name for w in GRAPH.free)


@pytest.mark.parametrize("criterion", ["l1", "l2", "lamp", "fpgm", "random", L2(reduction="max")])
@pytest.mark.parametrize("allocation", ["uniform", "local", "global", "per_cost"])
def test_a_plan_meets_its_budget(criterion, allocation):
    made = plan(GRAPH, criterion, {"macs": "50%", "params": "60%"}, allocation=allocation)
    assert GRAPH.cost("macs", made.sizes) <= GRAPH.macs // 2
    assert GRAPH.cost("params", made.sizes) <= GRAPH.params * 60 // 100
    assert GRAPH.cost("macs", made.sizes) >= 0.99 * (GRAPH.macs // 2) or (
        GRAPH.cost("params", made.sizes) >= 0.99 * (GRAPH.params * 60 // 100)
    )


@pytest.mark.parametrize("allocation", ["local", "global"])
def test_the_16_32_64_chain_shrinks_everywhere(allocation):
    """A peer makes 16-32-8 of it: the indices of one layer were applied to another."""
    sizes = plan(GRAPH, "l1", {"macs": "30%"}, allocation=allocation).sizes
    assert sizes[FIRST] < sizes[SECOND] < sizes[THIRD]
    assert all(0.3 < sizes[name] / GRAPH[name].size < 0.8 for name in (FIRST, SECOND, THIRD))


def test_sizes_by_hand():
    made = plan(GRAPH, "l1", sizes={FIRST: 4, THIRD: 64})
    assert (made.sizes[FIRST], made.sizes[SECOND], made.sizes[THIRD]) == (4, 32, 64)
    weight = GRAPH.example.model[0].weight.detach().abs().sum((1, 2, 3)) + GRAPH.example.model[
        2
    ].weight.detach().abs().sum((0, 2, 3))
    assert list(made.kept[FIRST]) == sorted(weight.argsort(descending=True)[:4].tolist())


def test_sizes_and_a_budget_together():
    made = plan(GRAPH, "l1", {"macs": "40%"}, sizes={SECOND: 30})
    assert made.sizes[SECOND] == 30
    assert 0.99 * 0.4 * GRAPH.macs <= GRAPH.cost("macs", made.sizes) <= 0.4 * GRAPH.macs


def test_limits_narrow_the_search_space():
    made = plan(GRAPH, "l1", {"macs": "60%"}, limits={"multiple_of": 8, "exclude": [FIRST], "floor": {THIRD: 0.5}})
    assert made.sizes[FIRST] == 16
    assert made.sizes[SECOND] % 8 == made.sizes[THIRD] % 8 == 0
    assert made.sizes[THIRD] >= 32
    rules = {"nn.Conv2d": {"*": {"multiple_of": 4}, "4": None}}
    assert plan(GRAPH, "l1", {"macs": "95%"}, limits={"rules": rules}).sizes[THIRD] == 64


def test_scores_made_before_are_taken():
    scores = {FIRST: np.arange(16.0), SECOND: np.arange(32.0), THIRD: np.arange(64.0)}
    made = plan(GRAPH, scores, sizes={FIRST: 2})
    assert made.kept == {FIRST: (14, 15)}
    assert made.provenance["criterion"] == {"name": "scores"}
    with pytest.raises(InputError, match="no width is called so"):
        plan(GRAPH, {"nobody": np.ones(3)}, {"macs": "50%"})


def test_the_provenance_says_how_the_plan_was_made_and_is_json():
    made = plan(GRAPH, L2(), {"macs": "50%"}, allocation="local", limits=Limits(multiple_of=2, exclude=[FIRST]))
    record = json.loads(json.dumps(made.provenance))
    assert record == made.provenance
    assert record["criterion"] == {"name": "l2", "reduction": "mean", "normalizer": "mean", "bias": False}
    assert record["allocation"] == "local"
    assert record["budget"] == {"macs": {"bound": GRAPH.macs // 2, "whole": GRAPH.macs}}
    assert record["limits"]["multiple_of"] == 2
    assert record["costs"]["macs"] == GRAPH.cost("macs", made.sizes)


def test_widths_that_a_criterion_cannot_judge_stay_whole_and_are_named():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    graph = trace(model.eval(), torch.zeros(1, 3, 8, 8))
    scaled, other = (w.name for w in graph.free)
    made = plan(graph, BatchNormScale(), {"macs": "60%"})
    assert made.provenance["not_scored"] == [other]
    assert made.sizes[other] == 6
    assert made.sizes[scaled] < 8
    with pytest.raises(InputError, match="must get smaller"):
        plan(graph, "bn_scale", sizes={other: 3})


def test_ragged_and_coupled_widths_give_a_valid_plan():
    graph = trace(small_network(), torch.zeros(2, 3, 6, 6))
    for criterion in ("l1", "fpgm", "random"):
        made = plan(graph, criterion, {"params": "40%"})
        assert graph.cost("params", made.sizes) <= 0.4 * graph.params


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (5, r"not 5; which of them, a criterion chooses: sc.plan\(graph, criterion, sizes={"),
        ([True, False, True], "makes indices of a mask"),
        ([0.5, 2.7], r"a list of indices, such as \[0, 2, 5\]"),
        ([[0, 1], [2]], "a list of them for each outer index"),
        (None, "not None"),
        ([-1, 3], "-1 is out of range for a width of 16: 0 to 15"),
        ([], "at least one unit must stay"),
    ],
)
def test_kept_sets_by_hand_are_indices(kept, said):
    """Fractions were cut to integers, and a mask was read as the indices 0 and 1."""
    with pytest.raises(PlanError, match=f"^{re.escape(FIRST)}: .*{said}"):
        GRAPH.plan({FIRST: kept})


def test_a_plan_for_a_width_that_is_not_there_says_which_are():
    with pytest.raises(PlanError, match=rf"There are {re.escape(FIRST)}, .*graph\.widths"):
        GRAPH.plan({"w": [1]})


def test_a_ready_made_budget_is_taken():
    assert plan(GRAPH, "l1", Budget.of({"macs": "50%"}, GRAPH)) == plan(GRAPH, "l1", {"macs": "50%"})


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({}, InputError, "what to keep"),
        ({"constraints": {"mac": "50%"}}, ConfigError, "Did you mean 'macs'"),
        ({"criterion": "l3", "constraints": {"macs": "50%"}}, ConfigError, "no criterion is called 'l3'"),
        ({"allocation": "locl", "constraints": {"macs": "50%"}}, ConfigError, "Did you mean 'local'"),
        ({"sizes": {"nobody": 3}}, InputError, "no width is called 'nobody'"),
        ({"sizes": {FIRST: 0}}, InputError, "the nearest choice is 1"),
        ({"sizes": {FIRST: 17}}, InputError, "the nearest choice is 16"),
        ({"sizes": {FIRST: 3}, "limits": {"multiple_of": 4}}, InputError, "the nearest choice is 4"),
        ({"sizes": {FIRST: 2.0}}, InputError, "a count is a whole number"),
        ({"sizes": {FIRST: 8}, "limits": {"exclude": [FIRST]}}, InputError, "excluded"),
        ({"constraints": {"macs": "50%"}, "limits": {"exclude": ["*"]}}, Infeasible, "cannot reach macs"),
        ({"constraints": {"macs": "50%"}, "limits": {"multiple_of": 64}}, Infeasible, "multiple_of=64"),
        (
            {"constraints": {"macs": "50%"}, "limits": {"multiple": 64}},
            ConfigError,
            "limits: .* Did you mean 'multiple_of'",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        plan(GRAPH, **{"criterion": "l1", **arguments})


def test_a_graph_without_a_model_takes_scores_only():
    from dataclasses import replace

    bare = replace(GRAPH, example=None)
    with pytest.raises(InputError, match="has no model to judge"):
        plan(bare, "l1", {"macs": "50%"})
    assert plan(bare, {w.name: np.arange(float(w.size)) for w in bare.free}, {"macs": "50%"}).kept


class BiasedAttention(nn.Module):
    """Four heads of sixteen, and one number for each head and pair of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.bias = nn.Parameter(torch.randn(5, 5, 4))
        self.qkv, self.out = nn.Linear(32, 192), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(x.shape[0], x.shape[1], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) + self.bias.permute(2, 0, 1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


def test_a_multiple_counts_the_positions_of_the_layer_that_makes_them() -> None:
    """A flattened channel is sixteen inputs of the next layer, and still one channel; a head is all its features."""
    flattened = nn.Sequential(nn.Conv2d(1, 32, 3), nn.Flatten(), nn.Linear(32 * 16, 3))
    graph = trace(flattened, torch.randn(2, 1, 6, 6))
    assert restrict(graph, Limits(multiple_of=8))["0.out_channels"].choices == (8, 16, 24, 32)
    assert trace(BiasedAttention(), torch.randn(2, 5, 32))["heads"].multiplier == 16
