"""A network that comes in PyTorch's own wrappers: what is inside is narrowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import secateur as sc
from secateur.errors import InputError
from secateur.testing import random_plan

X = torch.randn(2, 3, 6, 6)

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="no gloo")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()


@pytest.fixture
def wrapped(tmp_path: Path) -> Iterator[nn.Module]:
    """A network in DistributedDataParallel, in a group of one process."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        yield nn.parallel.DistributedDataParallel(network())
    finally:
        dist.destroy_process_group()


def test_the_network_in_distributed_data_parallel_is_narrowed(wrapped: Any) -> None:
    graph = sc.trace(wrapped, X)
    assert [w.name for w in graph.free] == [w.name for w in sc.trace(network(), X).free] != []
    plan = random_plan(graph, 1)
    assert sc.verify(wrapped, plan, graph).passed
    small: Any = sc.apply(wrapped, plan)
    assert small[0].out_channels == plan.sizes[graph.free[0].name] < 16
    again = nn.parallel.DistributedDataParallel(small)
    again(X).sum().backward()
    assert all(p.grad is not None for p in again.parameters())


def test_the_wrapper_and_what_is_inside_stay_as_they_were(wrapped: Any) -> None:
    before = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    small, result = sc.prune(wrapped, "magnitude", {"params": "50%"}, X)
    assert result.verification.passed
    assert not isinstance(small, nn.parallel.DistributedDataParallel)
    assert sum(p.numel() for p in small.parameters()) * 2 <= sum(p.numel() for p in wrapped.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in wrapped.state_dict().items())


def test_in_place_a_wrapper_is_refused(wrapped: Any) -> None:
    graph = sc.trace(wrapped, X)
    with pytest.raises(InputError, match="wrap the result again"):
        sc.apply(wrapped, random_plan(graph, 1), in_place=True)


def test_data_parallel_is_narrowed_as_it_is() -> None:
    model = nn.DataParallel(network())
    graph = sc.trace(model, X)
    assert sc.apply(model, random_plan(graph, 1))(X).shape == model(X).shape


def test_masks_are_prepared_on_the_network_inside(wrapped: Any) -> None:
    sparsifier = sc.pruners.Sparsifier(sc.pruners.SaliencyRule())
    with pytest.raises(InputError, match=r"model\.module"):
        sparsifier.prepare(wrapped, dummy_input=X)
    sparsifier.prepare(wrapped.module, dummy_input=X)
