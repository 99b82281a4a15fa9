"""The engine against random networks: no wrong answer, and few refusals, all of them typed.

Some hundred networks a push; `python -m tests.fuzz.sweep 20000` for the long run.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from . import sweep as sweeping
from .networks import TRAPS, random_network
from .oracle import judge
from .sweep import sweep

NUM_CHUNKS, CHUNK = 10, 40
WRONG_ONCE = {  # seed -> whether it is of plain code, and what was wrong
    700967: (True, "a width of tokens and channels at once, with another one inside"),
    780324: (False, "floor(log2(11)), tried at 8 and at 10"),
}


@pytest.mark.parametrize("chunk", range(NUM_CHUNKS))
def test_random_networks_are_narrowed_right_or_refused(chunk: int) -> None:
    torch.set_num_threads(1)
    wrong, refused = [], []
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        build = partial(random_network, seed)
        verdict = judge(build, seed)
        if verdict.wrong:
            wrong.append(f"seed {seed} {build().recipe}: {verdict.wrong}")
        if verdict.refused:
            refused.append(f"seed {seed}: {verdict.refused}")
    assert not wrong, "\n".join(wrong)
    assert len(refused) <= CHUNK // 10, "\n".join(refused)


@pytest.mark.parametrize("seed", WRONG_ONCE)
def test_what_was_wrong_once_is_right(seed: int) -> None:
    verdict = judge(partial(random_network, seed, plain=WRONG_ONCE[seed][0]), seed)
    assert verdict.wrong is None
    assert verdict.free


@pytest.mark.parametrize("name", TRAPS)
def test_traps_are_narrowed_right(name: str) -> None:
    for seed in range(3):
        verdict = judge(TRAPS[name], seed)
        assert verdict.wrong is None
        assert verdict.refused is None


def test_a_sweep_that_was_stopped_goes_on_and_judges_no_network_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, said = tmp_path / "verdicts.jsonl", []
    first = sweep(12, 5, jobs=1, plain=True, to=to, tell=said.append)
    whole = to.read_text()
    to.write_text(whole[: whole.index("\n", 900) + 30])  # a few lines, and one that was cut off
    left = to.read_text().count("\n")
    asked = []
    real = sweeping._judged
    monkeypatch.setattr(sweeping, "_judged", lambda seeds, *rest: (asked.extend(seeds), real(seeds, *rest))[1])
    again = sweep(12, 5, jobs=1, plain=True, to=to, tell=said.append)
    assert len(asked) == 12 - left > 0
    assert (again.networks, again.free, again.wrong) == (first.networks, first.free, first.wrong)
    assert to.read_text().count("\n") == 12


@pytest.mark.sweep
def test_twenty_thousand_random_networks_are_never_wrong() -> None:
    outcome = sweep(20_000, jobs=2)
    assert not outcome.wrong, "\n".join(outcome.wrong[:10])
