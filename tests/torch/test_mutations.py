"""Would we notice? Each test breaks the engine in one place, and expects the proof to fail.

An index shifted, a bias not narrowed, a branch of a concatenation forgotten, statistics left behind: the commonest ways in
which pruners are silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.fuzz.networks import TRAPS, random_network
from tests.fuzz.oracle import judge

import secateur as sc
from secateur.core.space import Space
from secateur.errors import SecateurError
from secateur.torch.narrowing import slices as narrow
from secateur.torch.rules import joining
from secateur.torch.rules.registry import RULES

NETWORKS = [
    "conv_bn_relu_conv",
    "conv_chain",
    "residual",
    "c2f_split",
    "squeeze_excite",
    "gated",
    "lstm_linear",
    "fused_qkv",
]


def verdicts() -> list[str | None]:
    """What the oracle says of some traps and random networks: None where all is well."""
    found = []
    for build in [*(TRAPS[n] for n in NETWORKS if n in TRAPS), *(partial(random_network, s) for s in range(30))]:
        try:
            verdict = judge(build, 1)
            found.append(verdict.wrong or verdict.refused)
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def caught() -> int:
    return sum(verdict is not None for verdict in verdicts())


def test_nothing_is_caught_in_the_engine_as_it_is() -> None:
    assert caught() == 0


def _mutated_narrowing(mutate: Callable[[str, torch.Tensor, Any, dict[str, Any]], torch.Tensor | None]) -> Any:
    works = narrow.slices_of

    def slices_of(tensors: Any, plan: Any) -> dict[str, torch.Tensor]:
        made = works(tensors, plan)
        for name in made:
            other = mutate(name, tensors[name], plan.layouts[name], plan.arrays)
            if other is not None:
                made[name] = narrow.renewed(tensors[name], other)
        return made

    return slices_of


def _install(monkeypatch: pytest.MonkeyPatch, slices_of: Any) -> None:
    for module in ("torch.verifying.comparing", "torch.apply", "torch.narrowing.subnet", "torch.narrowing.slices"):
        monkeypatch.setattr(f"secateur.{module}.slices_of", slices_of)


def test_a_kept_index_shifted_by_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def shift(name: str, tensor: torch.Tensor, layout: Any, arrays: dict[str, Any]) -> torch.Tensor | None:
        if not name.endswith("weight") or tensor.dim() < 2:
            return None
        moved = {w: a + 1 if a.ndim == 1 and a.max() + 1 < tensor.shape[0] else a for w, a in arrays.items()}
        try:
            return narrow.narrow_tensor(tensor.detach(), layout, moved)
        except (IndexError, SecateurError):
            return None

    _install(monkeypatch, _mutated_narrowing(shift))
    assert caught() >= 10


def test_a_bias_that_keeps_its_first_numbers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(name: str, tensor: torch.Tensor, layout: Any, arrays: dict[str, Any]) -> torch.Tensor | None:
        if not name.endswith("bias"):
            return None
        return tensor.detach()[: len(narrow.narrow_tensor(tensor.detach(), layout, arrays))].clone()

    _install(monkeypatch, _mutated_narrowing(first))
    assert caught() >= 10


def test_batch_norm_statistics_left_behind_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(name: str, tensor: torch.Tensor, layout: Any, arrays: dict[str, Any]) -> torch.Tensor | None:
        if not name.endswith(("running_mean", "running_var")):
            return None
        return tensor.detach()[: len(narrow.narrow_tensor(tensor.detach(), layout, arrays))].clone()

    _install(monkeypatch, _mutated_narrowing(first))
    assert caught() >= 2


def test_a_branch_of_a_concatenation_that_is_forgotten_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(trace: Any, out: Any, tensors: Any, dim: int = 0) -> None:
        joining.cat(trace, out, tensors, dim)
        dim %= out.dim()
        spaces = list(trace.spaces(out))
        spaces[dim] = Space(out.shape[dim])  # as if nothing were known of what was joined
        trace.put(out, spaces, trace.zero(out))

    monkeypatch.setitem(RULES, torch.ops.aten.cat, forgetful)
    monkeypatch.setattr("secateur.torch.rules.registry._FOUND", {})
    # the self-check sees that the sizes do not fit, and freezes: nothing wrong gets out, but far less is free
    network = TRAPS["c2f_split"]()
    graph = sc.trace(network.model, network.inputs)
    unchecked = sc.trace(network.model, network.inputs, check=False)
    reasons = [w.frozen for w in graph.widths if "does not run when narrowed" in str(w.frozen)]
    assert all("in a narrower one not what its widths say" in str(reason) for reason in reasons), reasons
    assert reasons
    assert len(unchecked.free) > len(graph.free)


def test_a_swap_of_two_branches_of_a_concatenation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(trace: Any, out: Any, tensors: Any, dim: int = 0) -> None:
        order = list(tensors)
        if len(order) > 1 and order[0].shape == order[1].shape:
            order[0], order[1] = order[1], order[0]
        joining.cat(trace, out, order, dim)

    monkeypatch.setitem(RULES, torch.ops.aten.cat, swapped)
    monkeypatch.setattr("secateur.torch.rules.registry._FOUND", {})
    found = [judge(partial(random_network, seed), seed) for seed in range(60)]
    assert sum(v.wrong is not None or v.refused is not None for v in found) >= 1
