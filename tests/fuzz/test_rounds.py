"""Random networks through rounds of prune and compensate: a right answer or a typed refusal, and never a changed model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import secateur as sc
from secateur.torch.running.outputs import output_tensors

from .networks import random_network
from .oracle import by_convention

BROKE_ONCE = (
    7,
    12,
    68,
    79,
    103,
    131,
    164,
)  # rows that are widths, grouped transposes, one value a channel, tied decoders


def noisy(value: Any, generator: torch.Generator) -> Any:
    if isinstance(value, dict):
        return {key: noisy(item, generator) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(noisy(item, generator) for item in value)
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return value


def size_of_output(output: Any, _: Any) -> torch.Tensor:
    return torch.stack([t.float().square().mean() for t in output_tensors(output) if t.is_floating_point()]).sum()


@pytest.mark.parametrize("seed", [*BROKE_ONCE, *range(400, 425)])
def test_random_networks_are_compensated_or_refused(seed: int) -> None:
    network = random_network(seed)
    model, example = network.model.eval(), by_convention(network.inputs)
    generator = torch.Generator().manual_seed(seed)
    loader = [noisy(example, generator) for _ in range(3)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = {"data_loader": loader, "collect_func": lambda batch: batch, "loss_func": size_of_output, "steps": 2}
    mode = "progressive" if seed % 2 else "magnitude"
    try:
        _, result = sc.prune(model, mode, {"params": "60%"}, example, {**config, "compensate": "least_squares"})
    except sc.SecateurError:
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        return
    assert all(t.isfinite().all() for t in model.state_dict().values() if t.is_floating_point())
    assert result.params <= 0.6 * result.before["params"]
