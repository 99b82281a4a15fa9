"""What the generator promises to those who test with it.

Every network runs, gives finite numbers, and is the same for the same seed; every kind of block occurs.
"""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from hypothesis import find, given, settings
from torch import Tensor

from .networks import BLOCKS, TRAPS, Network, kinds, networks, random_network
from .outputs import tensors

SEEDS = range(150)


def outputs(network: Network, inputs: tuple | None = None) -> list[Tensor]:
    with torch.no_grad():
        return tensors(network.model(*(network.inputs if inputs is None else inputs)))


def test_the_same_seed_gives_the_same_network() -> None:
    for seed in SEEDS[:40]:
        torch.manual_seed(seed + 1)  # what the caller's generator does must not matter
        one, two = random_network(seed), random_network(seed)
        assert one.recipe == two.recipe
        for a, b in zip(outputs(one), outputs(two), strict=True):
            assert torch.equal(a, b)


def test_building_a_network_leaves_the_callers_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    random_network(3)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_runs_and_leaves_its_inputs_alone(seed: int, plain: bool) -> None:
    network = random_network(seed, plain=plain)
    before = copy.deepcopy(network.inputs)
    outs = outputs(network)
    assert outs
    assert all(out.isfinite().all() for out in outs)
    assert all(torch.equal(a, b) for a, b in zip(tensors(before), tensors(network.inputs), strict=True))
    assert not any(module.training for module in network.model.modules())


def test_a_copy_in_float64_computes_the_same() -> None:
    for seed in SEEDS:
        network = random_network(seed)
        model = copy.deepcopy(network.model).double()
        inputs = _doubled(network.inputs)
        assert isinstance(inputs, tuple)
        for a, b in zip(outputs(network), tensors(model(*inputs)), strict=True):
            assert b.dtype == torch.float64
            torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3)


def _doubled(x: object) -> object:
    if isinstance(x, Tensor):
        return x.double() if x.is_floating_point() else x
    if isinstance(x, dict):
        return {key: _doubled(value) for key, value in x.items()}
    return tuple(_doubled(part) for part in x) if isinstance(x, tuple) else x


def test_no_bias_is_zero() -> None:
    for seed in SEEDS:
        for name, parameter in random_network(seed).model.named_parameters():
            if "bias" in name.rsplit(".", 1)[-1]:
                assert (parameter != 0).all(), name


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_runs(name: str) -> None:
    network = TRAPS[name]()
    outs = outputs(network)
    assert outs
    assert all(out.isfinite().all() for out in outs)
    assert network.recipe == (name,)


@settings(max_examples=30, deadline=None)
@given(networks())
def test_networks_drawn_by_hypothesis_run(network: Network) -> None:
    assert all(out.isfinite().all() for out in outputs(network))


def test_a_failure_shrinks_to_few_blocks() -> None:
    small = find(
        networks(), lambda network: "linear" in network.kinds, settings=settings(max_examples=500, deadline=None)
    )
    assert len(small.kinds) <= 8, small.recipe


@pytest.mark.sweep
def test_every_kind_occurs_in_2000_networks() -> None:
    found = Counter(kind for seed in range(2000) for kind in random_network(seed, plain=False).kinds)
    found.update(kind for seed in range(300) for kind in random_network(seed, deep=True).kinds)
    rare = {name: found[name] for name in kinds() if found[name] < 5}
    assert not rare
    assert set(BLOCKS) <= set(found)
