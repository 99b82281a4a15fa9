"""The judge of benchmarks/accuracy: what it rebuilds is what it was handed, and noise is not called a lead."""

import pytest
import torch
from benchmarks.accuracy.networks import VISION, build, macs, rebuild, state_of

import secateur


@pytest.mark.parametrize("name", VISION)
def test_a_narrowed_network_is_rebuilt_from_its_weights_alone(name):
    torch.manual_seed(0)
    x = torch.randn(2, 1, 28, 28)
    model = build(name).eval()
    whole = macs(model, x)
    secateur.prune(model, constraints={"macs": "30%"}, dummy_input=x, config={"verify": False})

    again = rebuild(name, state_of(model))

    assert torch.equal(again(x), model(x))
    assert 0.25 * whole < macs(again, x) <= 0.3 * whole


def test_only_a_difference_beyond_the_spread_of_its_pairs_gets_a_star():
    pytest.importorskip("scipy")
    from benchmarks.accuracy.table import difference

    def rows(*values):
        return [{"seed": seed, "acc": value} for seed, value in enumerate(values)]

    assert difference(rows(91, 82, 95), rows(89, 80.1, 92.9), "acc") == "+2.0*"
    assert difference(rows(91, 82, 95), rows(85, 88, 89), "acc") == "+2.0"
    assert difference(rows(91), rows(80)[1:], "acc") == "no pair"
