"""A budget says how large a result may be, and refuses what it cannot mean."""

import json

import numpy as np
import pytest

from secateur.core.budget import Bound, Budget, measure
from secateur.errors import ConfigError, InputError
from tests.handmade import chain

GRAPH = chain(16, 32)
WHOLE = GRAPH.macs


def test_a_share_is_of_the_whole_graph_rounded_down():
    assert Budget.of({"macs": "60%"}, GRAPH).bounds == {"macs": WHOLE * 60 // 100}
    assert Budget.of({"macs": "33.3 %"}, GRAPH).bounds == {"macs": WHOLE * 333 // 1000}
    assert Budget.of({"macs": "100%"}, GRAPH).bounds == {"macs": WHOLE}


@pytest.mark.parametrize(("written", "bound"), [(3000, 3000), (3e3, 3000), ("3000", 3000), ("3k", 3000), ("3e3", 3000),
                                                ("0.003M", 3000), (np.int64(3000), 3000), (3000.9, 3000)])  # fmt: skip
def test_an_absolute_bound_may_be_written_in_many_ways(written, bound):
    assert Budget.of({"params": written}, GRAPH).bounds == {"params": bound}


def test_flops_are_two_macs():
    assert measure(GRAPH, "flops") == 2 * WHOLE
    assert Budget.of({"flops": "50%"}, GRAPH).bounds == {"flops": WHOLE}
    assert Budget.of({"flops": WHOLE}, GRAPH).costs(GRAPH) == {"flops": 2 * WHOLE}


def test_several_bounds_hold_together():
    budget = Budget.of({"macs": "50%", "params": "80%"}, GRAPH)
    half, most = budget.bounds["macs"], budget.bounds["params"]
    assert budget.satisfied({"macs": half, "params": most})
    assert not budget.satisfied({"macs": half + 1, "params": most})
    assert not budget.satisfied({"macs": half, "params": most + 1})
    assert budget.fullness({"macs": half // 2, "params": most}) == 1.0


def test_candidates_are_judged_all_at_once():
    budget = Budget.of({"macs": "50%", "params": "50%"}, GRAPH)
    costs = budget.costs(GRAPH, {"conv0.out": np.array([1, 8, 16]), "conv1.out": np.array([32, 1, 32])})
    one_by_one = [budget.satisfied({m: int(c[i]) for m, c in costs.items()}) for i in range(3)]
    assert budget.satisfied(costs).tolist() == one_by_one == [True, True, False]
    assert ((budget.fullness(costs) <= 1) == budget.satisfied(costs)).all()


def test_a_budget_is_returned_as_it_is_and_keeps_its_bounds_for_a_narrower_graph():
    budget = Budget.of({"macs": "60%"}, GRAPH)
    assert Budget.of(budget, chain(8, 8)) is budget


def test_a_budget_survives_json():
    budget = Budget.of({"macs": "60%", "params": 3000}, GRAPH)
    assert Budget.from_json(json.loads(json.dumps(budget.to_json()))) == budget


@pytest.mark.parametrize("data", [{}, [], None, {"macs": 3}, {"macs": {"bound": 0, "whole": 1}},
                                  {"macs": {"bound": 3}}, {"macs": {"bound": "3", "whole": 9}}])  # fmt: skip
def test_damaged_json_is_refused(data):
    with pytest.raises(ConfigError, match="not a budget"):
        Budget.from_json(data)


def test_a_budget_prints_what_it_bounds_and_how_much_that_is():
    bound = Bound(metric="macs", most=2_750_000_000, whole=4_583_000_000)
    assert str(bound) == "macs ≤ 2.75G (60% of 4.58G)"
    assert str(Budget(entries=(bound, bound))) == f"{bound}, {bound}"


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no cost is called 'mac'. Did you mean 'macs'?"):
        Budget.of({"mac": "60%"}, GRAPH)
    with pytest.raises(ConfigError, match=r"Did you mean 'flops'?"):
        Budget.of({"flop": "60%"}, GRAPH)


@pytest.mark.parametrize("bound", ["0%", "101%", "-5%", "60 percent", "", "%", 0, -3, True, None, [1], float("nan"),
                                   float("inf"), "1e-9%"])  # fmt: skip
def test_a_bound_that_means_nothing_is_refused_with_its_metric(bound):
    with pytest.raises(ConfigError, match="macs"):
        Budget.of({"macs": bound}, GRAPH)


BEYOND = [
    "1e99999999",
    "1e-99999999",
    "1" * 10**6,
    "9e400",
    "1e40",
    10**400,
    -(10**400),
    1e999,
    np.float64("inf"),
    1e31,
]


@pytest.mark.parametrize("bound", BEYOND, ids=lambda bound: str(bound)[:12] if isinstance(bound, str) else "number")
def test_a_number_beyond_all_networks_is_refused_at_once(bound):
    with pytest.raises(ConfigError, match="params") as caught:
        Budget.of({"params": bound}, GRAPH)
    assert len(str(caught.value)) < 200


def test_a_fraction_is_taken_for_a_forgotten_percent_sign():
    with pytest.raises(ConfigError, match="write '60%'"):
        Budget.of({"macs": 0.6}, GRAPH)


@pytest.mark.parametrize("budget", [{}, "60%", 3e6, None, [("macs", "60%")]])
def test_what_is_no_mapping_is_refused_with_an_example(budget):
    with pytest.raises(InputError, match=r'{"macs": "60%"}'):
        Budget.of(budget, GRAPH)
