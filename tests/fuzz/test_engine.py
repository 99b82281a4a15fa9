"""The engine against random networks: no wrong answer, and few refusals, all of them typed.

Some hundred networks a push; `python -m tests.fuzz.sweep 20000` for the long run.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from . import sweep as sweeping
from .making import STACKS
from .networks import BLOCKS, TRAPS, network_of, random_network
from .oracle import judge
from .sweep import Kind, sweep

NUM_CHUNKS, CHUNK = 10, 40
WRONG_ONCE = {  # seed -> whether it is of plain code, and what was wrong
    700967: (True, "a width of tokens and channels at once, with another one inside"),
    780324: (False, "floor(log2(11)), tried at 8 and at 10"),
    1000490: (False, "a number in the code behind an einsum that goes another way with one head"),
    1003339: (False, "a size taken by numel where only numbers run"),
    1007538: (False, "a rounded share of the channels, tried in proportion"),
    1016462: (False, "a number behind a scale by the head width, where whole heads meet sizes of one"),
    1008580: (False, "a picture of one pixel before a batch norm that trains on one sample"),
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


@pytest.mark.parametrize("chunk", range(2))
def test_blocks_go_whole_or_stay_with_a_reason(chunk: int) -> None:
    torch.set_num_threads(1)
    for seed in range(3 * chunk, 3 * chunk + 3):
        verdict = judge(partial(random_network, seed, deep=True), seed, depth=True)
        assert verdict.wrong is None, f"seed {seed}: {verdict.wrong}"


@pytest.mark.parametrize("name", [name for name, kind in BLOCKS.items() if kind.family == STACKS])
def test_every_way_through_a_list_of_blocks_is_judged(name: str) -> None:
    verdicts = [judge(partial(network_of, name, seed), seed, depth=True) for seed in range(2)]
    assert [verdict.wrong for verdict in verdicts] == [None] * 2
    assert any(verdict.free for verdict in verdicts)


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
    first = sweep(12, 5, jobs=1, kind=Kind(plain=True), to=to, tell=said.append)
    whole = to.read_text()
    to.write_text(whole[: whole.index("\n", 900) + 30])  # a few lines, and one that was cut off
    left = to.read_text().count("\n")
    asked = []
    real = sweeping._judged
    monkeypatch.setattr(sweeping, "_judged", lambda seeds, *rest: (asked.extend(seeds), real(seeds, *rest))[1])
    again = sweep(12, 5, jobs=1, kind=Kind(plain=True), to=to, tell=said.append)
    assert len(asked) == 12 - left > 0
    assert (again.networks, again.free, again.wrong) == (first.networks, first.free, first.wrong)
    assert to.read_text().count("\n") == 12


@pytest.mark.sweep
def test_twenty_thousand_random_networks_are_never_wrong() -> None:
    outcome = sweep(20_000, jobs=2)
    assert not outcome.wrong, "\n".join(outcome.wrong[:10])
