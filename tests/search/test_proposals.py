"""Proposals and curves: every candidate fills the budget, seeds decide, scores teach."""

from __future__ import annotations

from statistics import mean

import numpy as np
import pytest

from secateur.core.budget import Budget
from secateur.core.graph import Graph
from secateur.errors import Infeasible
from secateur.search.limits import Limits, restrict
from secateur.search.proposals import ROUND, Proposer, child, climber, direction, fitted, random_ratios, round_of
from secateur.search.sensitivity import WORST, Sensitivity
from secateur.search.survey import Grid
from tests.handmade import chain, residual

NETWORKS = [chain(32, 64, 64, 128), residual([(16, 16)] * 3, 48)]


def proposer(graph: Graph, share: int = 40, seed: int = 0) -> Proposer:
    budget = Budget.of({"macs": f"{share}%"}, graph)
    return Proposer(graph=graph, budget=budget, removal_ratio=1 - share / 100, seed=seed)


def run(source: Proposer, number: int, judge: object = None) -> tuple[list[dict[str, int]], list[float]]:
    """Candidates in rounds, and what ``judge(counts)`` says of them."""
    found: list[dict[str, int]] = []
    scores: list[float] = []
    while len(found) < number:
        known = list(scores)
        for index in round_of(len(found)):
            counts = source.propose(index, found, known)
            assert counts is not None
            found.append(counts)
            scores.append(judge(counts) if callable(judge) else 0.0)
    return found[:number], scores[:number]


@pytest.mark.parametrize("graph", NETWORKS)
@pytest.mark.parametrize("share", [15, 50, 90])
def test_every_candidate_fills_the_budget(graph: Graph, share: int) -> None:
    source = proposer(graph, share)
    for counts in run(source, 24)[0]:
        assert 0.99 <= source.budget.fullness(source.budget.costs(graph, counts)) <= 1


def test_candidates_keep_to_the_choices() -> None:
    graph = restrict(chain(32, 64, 64, 128), Limits(multiple_of=8))
    for counts in run(proposer(graph), 12)[0]:
        assert all(counts[width.name] in width.choices for width in graph.free)


def test_no_candidate_comes_twice() -> None:
    found, _ = run(proposer(NETWORKS[0]), 40)
    assert len({tuple(counts.items()) for counts in found}) == 40


def test_the_first_candidate_is_uniform() -> None:
    counts = proposer(NETWORKS[0]).propose(0, [], [])
    assert counts is not None
    shares = [counts[width.name] / width.size for width in NETWORKS[0].free]
    assert max(shares) - min(shares) < 0.06


def test_the_scale_is_solved_for_and_proportions_are_kept() -> None:
    graph = chain(1000, 1000, 1000)
    budget = Budget.of({"macs": "50%"}, graph)
    half, whole = (fitted(graph, np.array([0.2, 0.4, 0.1]) * scale, budget) for scale in (0.5, 2.0))
    assert half == whole
    removed = [1 - half[width.name] / width.size for width in graph.free]
    assert removed[1] / removed[0] == pytest.approx(2, rel=0.03)
    assert removed[0] / removed[2] == pytest.approx(2, rel=0.03)


def test_a_seed_decides_and_numbers_do_not_matter() -> None:
    assert run(proposer(NETWORKS[0]), 20)[0] == run(proposer(NETWORKS[0]), 30)[0][:20]
    assert run(proposer(NETWORKS[0], seed=1), 20)[0] != run(proposer(NETWORKS[0]), 20)[0]


def test_later_candidates_are_better_than_as_many_random_ones() -> None:
    graph = chain(*[64] * 8)
    liked = {width.name: 56 if i % 2 else 20 for i, width in enumerate(graph.free)}

    def judge(counts: dict[str, int]) -> float:
        return -float(sum(abs(counts[name] - count) for name, count in liked.items()))

    learnt, blind = [], []
    for seed in range(3):
        learnt.append(max(run(proposer(graph, seed=seed), 96, judge)[1]))
        counts, _ = run(proposer(graph, seed=seed), 96)  # nothing to learn from: all scores alike
        blind.append(max(map(judge, counts)))
    assert mean(learnt) > mean(blind) + 10


def test_abandoned_candidates_have_no_children() -> None:
    graph, source = NETWORKS[0], proposer(NETWORKS[0])
    earlier = [source.propose(i, [], []) for i in range(2 * ROUND)]
    index = 2 * ROUND + 1
    some = source.propose(index, earlier, [None] * 15 + [1.0])  # type: ignore[arg-type]
    alone = source.propose(index, earlier, [None] * 16)  # type: ignore[arg-type]
    assert some != alone
    distance = [sum(abs(some[w.name] - e[w.name]) for w in graph.free) for e in earlier]  # type: ignore[index]
    assert int(np.argmin(distance)) == 15


def test_the_direction_is_where_scores_rise() -> None:
    ratios = np.random.default_rng(0).uniform(0, 1, (40, 3))
    found = direction(ratios, ratios @ np.array([2.0, 0.0, -1.0]))
    assert found == pytest.approx(np.array([2.0, 0.0, -1.0]) / 5**0.5, abs=0.1)
    assert not direction(ratios, np.zeros(40)).any()


def test_random_ratios_and_children_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    for ratio in (0.1, 0.5, 0.9):
        drawn = np.concatenate([random_ratios(rng, 6, ratio) for _ in range(50)])
        assert drawn.min() >= 0.05
        assert drawn.max() <= 0.9
    parents = rng.uniform(0, 1, (4, 6))
    children = np.array([child(rng, parents) for _ in range(50)])
    climbers = np.array([climber(rng, parents, np.full(6, 6**-0.5)) for _ in range(50)])
    for found in (children, climbers):
        assert found.min() > 0
        assert found.max() < 1


def test_what_cannot_be_reached_is_refused() -> None:
    graph = restrict(NETWORKS[0], Limits(floor=0.5))
    with pytest.raises(Infeasible, match="cannot reach"):
        proposer(graph, 10).propose(0, [], [])


def sensitivity(**scores: dict[int, float | None]) -> Sensitivity:
    return Sensitivity(whole=0.8, scores={f"conv{name[1:]}.out": found for name, found in scores.items()})


def test_losses_are_read_off_lines_and_never_fall() -> None:
    width = chain(8).free[0]
    losses = sensitivity(w0={6: 0.72, 4: 0.76, 2: 0.4}).losses(width)
    assert losses[[8, 7, 6, 4, 3, 2]].tolist() == pytest.approx([0, 0.05, 0.1, 0.1, 0.3, 0.5])
    assert (np.diff(losses) <= 0).all()
    assert losses[1] >= 1


def test_a_better_score_is_no_damage_and_none_is_the_worst() -> None:
    width = chain(8).free[0]
    losses = sensitivity(w0={6: 0.9, 2: None}).losses(width)
    assert losses[6] == 0
    assert losses[2] == WORST


def test_a_threshold_gives_each_width_the_smallest_count_within_it() -> None:
    graph = chain(8, 8)
    found = sensitivity(w0={4: 0.72, 2: 0.4}, w1={4: 0.4})
    assert found.counts(graph.free, 0.1) == {"conv0.out": 4, "conv1.out": 8}
    assert found.counts(graph.free, 0.0) == {"conv0.out": 8, "conv1.out": 8}
    assert found.threshold(graph.free, {"conv0.out": 4, "conv1.out": 8}) == pytest.approx(0.1)


def test_the_counts_to_measure_are_choices_and_each_comes_once() -> None:
    assert Grid.nearest_to(chain(8), (0.1, 0.2, 0.5, 0.52, 0.99)).points == {"conv0.out": (1, 4, 6, 7)}
    assert Grid.nearest_to(restrict(chain(64), Limits(multiple_of=32)), (0.1, 0.9)).points == {"conv0.out": (32,)}
