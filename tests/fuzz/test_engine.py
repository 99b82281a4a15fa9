"""The engine against random networks: no wrong answer, and few refusals, all of them typed.

A thousand networks a push; `python -m tests.fuzz.sweep 20000` for the long run.
"""

from __future__ import annotations

import pytest
import torch

from .networks import TRAPS, random_network
from .oracle import judge
from .sweep import sweep

NUM_CHUNKS, CHUNK = 20, 50


@pytest.mark.parametrize("chunk", range(NUM_CHUNKS))
def test_random_networks_are_narrowed_right_or_refused(chunk: int) -> None:
    torch.set_num_threads(1)
    wrong, refused = [], []
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        network = random_network(seed)
        verdict = judge(network, seed)
        if verdict.wrong:
            wrong.append(f"seed {seed} {network.recipe}: {verdict.wrong}")
        if verdict.refused:
            refused.append(f"seed {seed}: {verdict.refused}")
    assert not wrong, "\n".join(wrong)
    assert len(refused) <= CHUNK // 10, "\n".join(refused)


@pytest.mark.parametrize("name", TRAPS)
def test_traps_are_narrowed_right(name: str) -> None:
    for seed in range(3):
        verdict = judge(TRAPS[name](), seed)
        assert verdict.wrong is None
        assert verdict.refused is None


@pytest.mark.sweep
def test_twenty_thousand_random_networks_are_never_wrong() -> None:
    outcome = sweep(20_000, jobs=2)
    assert not outcome.wrong, "\n".join(outcome.wrong[:10])
