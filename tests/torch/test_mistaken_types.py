"""Arguments of another kind than is meant are told in a sentence: what was given, and what is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import InputError, SecateurError

X = torch.randn(8, 16)
DATA = [(X, torch.arange(8) % 4)]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))


def _pruned(constraints: Any, mode: Any = "magnitude", **options: Any) -> tuple[nn.Module, Any]:
    return sc.prune(net(), mode, constraints, X, options or None)


def _score(model: nn.Module) -> float:
    return float(model(X).sum())


def _masked(scores: Any) -> None:
    class Rule:
        sparsity_level = 0.5

        def scores(self, weight: torch.Tensor) -> torch.Tensor:
            return scores

    sparsifier = sc.pruners.Sparsifier(Rule())
    sparsifier.prepare(net(), [{"tensor_fqn": "0.weight"}], dummy_input=X)
    sparsifier.step()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: _pruned("50%"), 'constraints are written {"macs": "60%"}, not \'50%\''),
        (lambda: _pruned(["80%", "80%"], ["magnitude", "magnitude"]), "constraints[0]: constraints are written"),
        (lambda: _pruned([{"macs": "80%"}, {"mac": 1}], ["magnitude"] * 2), "constraints[1]: no cost is called 'mac'"),
        (lambda: _pruned({"params": "80%"}, target="cuda"), "no target is called 'cuda'"),
        (lambda: _pruned({"params": "80%"}, multiple_of="fastes"), "'fastest', which is measured; not 'fastes'"),
        (lambda: sc.plan(sc.trace(net(), X), "l1", {"latency_ms": "50%"}), "latency_ms is measured, which secateur.prune"),
        (lambda: sc.plan(sc.trace(net(), X), "l1", {"mac": "50%"}), "kv_cache_bytes@8x4096"),
        (lambda: sc.pruners.schedule("agp", 3, "30%"), 'written {"macs": "30%"}, not \'30%\''),  # type: ignore[arg-type]
        (lambda: sc.training.finetune(net(), DATA, epochs=1, score_func="accuracy"), "called as score_func(model)"),  # type: ignore[arg-type]
        (lambda: sc.measure(net(), DATA, {"mine": lambda output, batch: 1.0}, dummy_input=X), "'mine' is no metric"),  # type: ignore[dict-item]
        (lambda: sc.measure(net(), DATA, timings=3, dummy_input=X), "timings are Timings("),  # type: ignore[arg-type]
        (lambda: sc.prune(net(), "magnitude", {"params": "60%"}, X, 5), "config is a dict of options, not int"),  # type: ignore[arg-type]
        (lambda: sc.prune(net(), {"magnitude": {}}, {"params": "60%"}, X, 5), "config is a dict of options, not int"),  # type: ignore[arg-type]
        (lambda: _pruned(5), 'constraints are written {"macs": "60%"}, not 5'),
        (lambda: _pruned([5, 5], ["magnitude", "magnitude"]), "constraints[0]: constraints are written"),
        (lambda: sc.plan(sc.trace(net(), X), sizes=5), 'sizes are written {"conv1.out_channels": 32}, not 5'),  # type: ignore[arg-type]
        (lambda: sc.trace(net(), X).plan(5), 'what is kept is written {"conv1.out_channels": [0, 2, 5]}, not 5'),  # type: ignore[arg-type]
        (lambda: sc.Plan.from_json(3), "the plan is read from JSON text, not from int"),  # type: ignore[arg-type]
        (lambda: sc.Graph.from_json(None), "the graph is read from JSON text, not from NoneType"),  # type: ignore[arg-type]
        (lambda: _pruned({"params": "80%"}, multiple_of=True), "a whole number of at least 1 is needed, not True"),
        (lambda: sc.verify(net(), None, None), "verify: plan is a Plan, as secateur.plan or a graph's plan(…) gives it, not"),  # type: ignore[arg-type]
        (lambda: sc.apply(net(), {"0.out_features": [1]}), "plan(…) gives it, not the dict {'0.out_features': [1]}"),  # type: ignore[arg-type]
        (lambda: sc.apply(sc.trace(net(), X).plan({}), net()), "apply: model is a Module, not a Plan"),  # type: ignore[arg-type]
        (lambda: sc.subnet(net(), 3), "subnet: plan is a Plan, as secateur.plan or a graph's plan(…) gives it, not the int 3"),  # type: ignore[arg-type]
        (lambda: sc.save(net(), "unwritten", "plan"), "save: plan is a Plan"),  # type: ignore[arg-type]
        (lambda: sc.narrowed(None, None), "narrowed: tensors is a Mapping, not a NoneType"),  # type: ignore[arg-type]
        (lambda: sc.plans_of(3), "plans_of: model is a Module, not the int 3"),  # type: ignore[arg-type]
        (lambda: sc.save(net(), 5), "save: path is a folder to write to, not a int"),  # type: ignore[arg-type]
        (lambda: sc.restore(net(), 5), "restore: path is the folder that save wrote, not a int"),  # type: ignore[arg-type]
        (lambda: _pruned({"params": "80%"}, "gradnas", data_loader=DATA, seed=-1), "option 'seed': at least 0 is needed"),
        (lambda: sc.pruners.OneStepPruner(net(), X).search(None, {"params": "50%"}), "score_func is called as score_func(model)"),  # type: ignore[arg-type]
        (lambda: sc.pruners.IterativePruner(net(), X).analyze(None), "score_func is called as score_func(model)"),  # type: ignore[arg-type]
        (lambda: sc.pruners.IterativePruner(net(), X).analyze(_score, ratios="0.5"), "ratios are removal ratios between 0 and 1"),  # type: ignore[arg-type]
        (lambda: sc.pruners.IterativePruner(net(), X).resume(None), "resume: plan is a Plan"),  # type: ignore[arg-type]
        (lambda: sc.training.remap_optimizer(None, net()), "optimizer is a torch.optim.Optimizer, not None"),  # type: ignore[arg-type]
        (lambda: sc.trace(net(), X).table("macs", 3), "table: plan is a Plan"),  # type: ignore[arg-type]
        (lambda: sc.trace(net(), X, depth="x"), 'depth is True, False or "only", not \'x\''),  # type: ignore[arg-type]
        (lambda: sc.plan(net(), "l1", {"macs": "50%"}), "plan: graph is a Graph, as secateur.trace gives it, not a Sequential"),  # type: ignore[arg-type]
        (lambda: sc.trace(net(), X, check=3), "check is True or False, not 3"),  # type: ignore[arg-type]
        (lambda: sc.training.PruningCallback({1: {"parms": "80%"}}, X), "schedule[1]: no cost is called 'parms'."),
        (lambda: sc.training.PruningCallback({1: {"params": "80%"}}, X, mode="magnitud"), "Did you mean 'magnitude'?"),
        (lambda: sc.training.PruningCallback({1: {"params": "80%"}}, X, config={"criterian": "l1"}), "Did you mean 'criterion'?"),
        (lambda: _masked(None), "a number for each of the 64 rows, not a NoneType"),
        (lambda: _masked(torch.ones(3)), "a number for each of the 64 rows, not a tensor (3,)"),
        (lambda: _masked(torch.full((64,), float("nan"))), "a number for each of the 64 rows, not NaN"),
    ],
)  # fmt: skip
def test_what_is_of_another_kind_is_told_in_a_sentence(call: Callable[[], object], said: str) -> None:
    with pytest.raises(SecateurError) as refused:
        call()
    assert said in str(refused.value)


@pytest.mark.parametrize("seed", ["x", -1, 1.5, 2**70, True])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(InputError, match="seed is a whole number from 0"):
        sc.pruners.OneStepPruner(net(), X, seed=seed)


@pytest.mark.parametrize("path", [3, ""])
def test_a_checkpoint_is_a_place(path: Any) -> None:
    with pytest.raises(InputError, match="checkpoint is a file or a folder"):
        sc.pruners.IterativePruner(net(), X).analyze(_score, checkpoint=path)


@pytest.mark.filterwarnings("ignore:.*went with no data:UserWarning")
def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    one, many = np.int64(1), np.int32(8)
    rules = {"nn.Linear": {"*": {"multiple_of": many}}}
    for options in ({"multiple_of": many}, {"floor": many}, {"floor": {"*": many}}, {"rules": rules}, {"steps": one}):
        told, meant = (_pruned({"params": "60%"}, **given)[1].plan for given in (options, _plain(options)))
        assert told.kept == meant.kept
    assert sc.pruners.schedule("linear", np.int64(2), {"macs": "20%"})[0] == {"macs": "60%"}
    assert len(sc.training.finetune(net(), DATA, epochs=one).losses) == 1


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) if isinstance(value, dict) else int(value) for key, value in options.items()}


def test_the_mode_that_cannot_reach_its_bound_is_counted() -> None:
    with pytest.raises(sc.Infeasible, match=r"^mode 2 of 2: cannot reach params"):
        _pruned([{"params": "80%"}, {"params": 3}], ["magnitude", "magnitude"])
