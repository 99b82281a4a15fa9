"""Narrowing a large network in place, tensor by tensor: the same result, and put back bit for bit after a fault."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.fuzz.networks import TRAPS, random_network

import secateur as sc
from secateur.errors import ApplyError
from secateur.testing import random_plan
from secateur.torch import apply as applying
from secateur.torch.narrowing import in_place, installing


@pytest.fixture(autouse=True)
def always_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "fits_beside", lambda model, plan: False)


@pytest.mark.parametrize("name", ["conv_chain", "grouped_conv8", "tied_embedding", "lstm_linear", "fused_qkv"])
def test_streamed_is_what_side_by_side_gives(name: str) -> None:
    network = TRAPS[name]()
    plan = random_plan(sc.trace(network.model, network.inputs), 3)
    expected = sc.apply(network.model, plan).state_dict()
    found = sc.apply(network.model, plan, in_place=True).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("hold", [True, False])
def test_a_fault_puts_every_tensor_back(seed: int, hold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(seed)
    inputs = (*network.inputs, {}) if isinstance(network.inputs[-1], dict) else network.inputs
    model = network.model
    plan = random_plan(sc.trace(model, inputs), seed)
    before = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    held = list(model.parameters()) if hold else []  # someone else's references, an optimizer's for example

    def fail(*args: object) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(installing, "_drop_caches", fail)
    with pytest.raises(ApplyError, match="injected"):
        sc.apply(model, plan, in_place=True, verify=False)
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert [p.requires_grad for p in model.parameters()] == flags
    if hold:
        assert all(a is b for a, b in zip(held, model.parameters(), strict=True))


def test_only_what_is_too_large_beside_the_network_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = TRAPS["conv_chain"]()
    plan = random_plan(sc.trace(network.model, network.inputs), 0)
    assert in_place.fits_beside(network.model, plan)
    kept = sum(p.numel() * 4 for n, p in sc.apply(network.model, plan).named_parameters() if plan.narrows(n))
    monkeypatch.setattr(in_place, "LARGE_BYTES", kept)
    assert in_place.fits_beside(network.model, plan)
    monkeypatch.setattr(in_place, "LARGE_BYTES", kept - 1)
    assert not in_place.fits_beside(network.model, plan)
