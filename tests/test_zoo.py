"""Any architecture can be traced, halved, verified, saved, restored and trained: a part of the zoo, and all of it."""

import pytest

import secateur as sc
from tests.zoo.catalogue import catalogue, subset
from tests.zoo.judge import Verdict
from tests.zoo.workers import judge_all


def _verdict(name: str) -> Verdict:
    ((verdict, _seconds),) = judge_all([name], num_jobs=1)
    return verdict


@pytest.mark.parametrize("name", subset())
def test_architecture_is_halved_and_right(name: str) -> None:
    verdict = _verdict(name)
    assert verdict.outcome == "passed", verdict.why


@pytest.mark.sweep
@pytest.mark.parametrize("name", [e.name for e in catalogue() if e.name not in subset()])
def test_no_architecture_of_the_zoo_fails(name: str) -> None:
    verdict = _verdict(name)
    assert verdict.outcome != "failed", verdict.why
    assert verdict.why or verdict.outcome == "passed", "a refusal gives its reason"


def test_a_width_that_a_trial_kept_whole_is_held_against_its_own_size() -> None:
    entry = next(entry for entry in catalogue() if entry.name == "hf/qwen3_next")  # of some widths there are two
    graph = sc.trace(entry.build(), entry.inputs())
    heads = {width.name.rpartition(".")[2]: width.frozen for width in graph.widths if ".linear_attn." in width.name}
    assert heads == {"num_k_heads": None, "out_channels[5]": None, "head_k_dim": None, "head_v_dim": None}


def test_the_subset_is_part_of_the_catalogue() -> None:
    assert set(subset()) <= {entry.name for entry in catalogue()}
