"""Every mode of `prune`, and `plan` with its options, on the two trained networks.

modes/scores/…     what every criterion says, bit for bit
modes/plan/…       allocations, budgets, limits
modes/prune/…      modes: plan, result, weights
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain, product
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from . import calls, digests, networks, records
from .cases import Cases
from .digests import Record

Options = Mapping[str, Any]

WEIGHTS_ALONE: Mapping[str, Options] = {
    "l1": {},
    "l1 sum, with bias": {"reduction": "sum", "normalizer": "max", "bias": True},
    "l2": {},
    "l2 max, gaussian": {"reduction": "max", "normalizer": "gaussian"},
    "l2 prod, standardization": {"reduction": "prod", "normalizer": "standardization"},
    "l1 first, lamp": {"reduction": "first", "normalizer": "lamp"},
    "lamp": {},
    "fpgm": {},
    "random": {"seed": 3},
}
FROM_DATA: Mapping[str, Options] = {
    "apoz": {},
    "apoz relu6": {"activation": "relu6"},
    "mean_rank": {},
    "mean_rank gelu": {"activation": "gelu", "normalizer": "sum"},
    "second_moment": {},
    "taylor": {},
    "taylor of elements": {"of": "element", "power": 2},
    "taylor of the output": {"target": "output"},
    "taylor on weights": {"on": "weight", "bias": True, "normalizer": "mean"},
    "gate_gradient": {},
    "gate_gradient by batch": {"per": "batch"},
    "gate_gradient of the output": {"target": "output"},
    "fisher by batch": {"per": "batch"},
    "fisher": {"num_batches": 1},
}
PLANS: Mapping[str, tuple[str, Options, Options]] = {
    "global": ("l2", {"macs": "50%"}, {"allocation": "global"}),
    "local": ("l2", {"macs": "50%"}, {"allocation": "local"}),
    "uniform": ("l2", {"params": "40%"}, {"allocation": "uniform"}),
    "per cost": ("l2", {"macs": "30%"}, {"allocation": "per_cost"}),
    "two budgets": ("lamp", {"macs": "60%", "params": "45%"}, {}),
    "bytes": ("l1", {"weight_bytes": "35%"}, {"allocation": "local"}),
    "multiples": ("l1", {"macs": "55%"}, {"multiple_of": 4}),
    "floor and ceiling": ("l1", {"macs": "60%"}, {"floor": 0.4, "ceiling": 0.9}),
}
RESIDUAL_PLANS: Mapping[str, tuple[str, Options, Options]] = {
    "kept": ("l1", {"macs": "60%"}, {"keep": ["stem", "hidden"], "floor": {"*": 0.2, "a": 6}}),
    "only": ("fpgm", {"macs": "80%"}, {"only": ["a", "enter"]}),
    "sizes": ("l1", {"macs": "60%"}, {"sizes": {"a.out_channels": 9}}),
    "sizes alone": ("l1", {}, {"sizes": {"a.out_channels": 9, "hidden.out_features": 20}}),
    "rules": (
        "l1",
        {"macs": "50%"},
        {"rules": {"nn.Conv2d": {"*": {"ratios": [0.25, 0.5, 1.0]}, "down": None}, "nn.Linear": {"*": {"floor": 0.5}}}},
    ),
}


def cases() -> Cases:
    """All of them."""
    found: Cases = {"modes/trained": _trained, "modes/coincidences": _coincidences}
    for kind in networks.TRAINED:
        found[f"modes/traced/{kind}"] = partial(_traced, kind)
        for name, options in chain(WEIGHTS_ALONE.items(), FROM_DATA.items()):
            found[f"modes/scores/{kind}/{name}"] = partial(_scores, kind, name, options)
        for name, asked in chain(PLANS.items(), RESIDUAL_PLANS.items() if kind == "residual" else ()):
            found[f"modes/plan/{kind}/{name}"] = partial(_plan, kind, *asked)
        for name, (mode, budget, config) in _modes(kind).items():
            found[f"modes/prune/{kind}/{name}"] = partial(_prune, kind, mode, budget, config)
        found[f"modes/asked/{kind}/fastnas"] = partial(_asked, kind, "fastnas", {"max_evaluations": 10})
        found[f"modes/asked/{kind}/gradnas"] = partial(_asked, kind, "gradnas", {})
        found[f"modes/asked/{kind}/progressive"] = partial(_asked, kind, "progressive", {"steps": 2})
    found["modes/scores/residual/bn_scale"] = partial(_scores, "residual", "bn_scale", {})
    found["modes/prune/residual/fastnas resumed"] = partial(_resumed, "fastnas", {"max_evaluations": 6})
    found["modes/prune/residual/progressive resumed"] = partial(_resumed, "progressive", {"steps": 2})
    found["modes/prune/residual/gradnas resumed"] = partial(_resumed, "gradnas", {})
    return found


def _modes(kind: str) -> dict[str, tuple[str, Options | None, Callable[[], Options]]]:
    """Name, budget and config of each run of `prune`; the config is made when the case runs."""
    half, small = {"macs": "50%"}, {"params": "35%"}
    found: dict[str, tuple[str, Options | None, Callable[[], Options]]] = {}

    def add(name: str, mode: str, budget: Options | None, /, *, data: bool = True, **config: Any) -> None:
        found[name] = (mode, budget, lambda: {**_data(), **config} if data else config)

    for criterion in ("l1", "lamp", "fpgm", "taylor", "gate_gradient", "apoz", "mean_rank", "second_moment"):
        with_data = criterion in FROM_DATA
        add(f"magnitude {criterion}", "magnitude", half, data=with_data, criterion=criterion, verify=False)
    add("magnitude, some kept", "magnitude", {"macs": "70%"}, data=False, keep=networks.EXCLUDED[kind])
    add("magnitude, batches as dicts", "magnitude", half, data=False, **_as_dicts(), criterion="gate_gradient")
    add("magnitude verified", "magnitude", half, data=False, multiple_of=2, allocation="local")
    add("magnitude in rounds", "magnitude", small, data=False, steps=3, criterion="l2", allocation="uniform")
    add("magnitude, least squares", "magnitude", half, compensate="least_squares", ridge=1e-2)
    add("magnitude, bias", "magnitude", half, compensate="bias", calibration_samples=200)
    add("magnitude, least squares in rounds", "magnitude", small, compensate="least_squares", steps=2, floor=0.2)
    add("magnitude, forward loop", "magnitude", half, data=False, forward_loop=_loop, compensate="least_squares")
    add("progressive", "progressive", half, steps=2)
    add("progressive in three", "progressive", small, steps=3, scoring_samples=100, multiple_of=2)
    add("progressive without compensation", "progressive", half, steps=2, compensate="none", allocation="global")
    add("progressive by taylor", "progressive", half, steps=2, criterion="taylor", compensate="bias")
    add("fastnas", "fastnas", half, score_func=networks.negative_loss, max_evaluations=12)
    add("fastnas, sum", "fastnas", small, score_func=networks.negative_loss, most_points=2, objective="sum", seed=1)
    add("fastnas, nothing reused", "fastnas", half, score_func=networks.negative_loss, max_evaluations=5, reuse=False)
    add("fastnas, least squares", "fastnas", half, score_func=_noisy, max_evaluations=5, compensate="least_squares")
    add("gradnas", "gradnas", half, max_iter_data_loader=2)
    add("gradnas, largest", "gradnas", small, objective="largest", criterion="fisher", num_batches=1)
    add("gradnas, own loss", "gradnas", half, loss_func=_squared_loss, **{"nn.Linear": {"*": {"floor": 0.5}}})
    for pruner_type in ("apoz", "mean_rank"):
        add(f"activation {pruner_type}", "activation", None, pruner_type=pruner_type, config_list=_SHARES[kind])
    add("activation, relu", "activation", None, activation="relu", training_steps=2, mode="dependency_aware")
    add("activation, total", "activation", None, config_list=_TOTAL, compensate="least_squares")
    return found


_SHARES = {
    "residual": [
        {"sparsity_per_layer": 0.3, "op_types": ["Conv2d", "Linear"]},
        {"exclude": True, "op_names": ["down"]},
    ],
    "tokens": [{"sparsity": 0.3, "op_types": ["Linear"]}],
}
_TOTAL = [{"total_sparsity": 0.4, "op_types": ["Linear"], "max_sparsity_per_layer": 0.7}]


def _data() -> dict[str, Any]:
    return {"data_loader": networks.digits()[0]}


def _as_dicts() -> dict[str, Any]:
    """Data of which the library must be told what the model takes and what is the loss."""
    return {
        "data_loader": [{"pixels": x, "digit": y} for x, y in networks.digits()[0][:4]],
        "collect_func": lambda batch: batch["pixels"],
        "loss_func": lambda output, batch: F.cross_entropy(output, batch["digit"]),
        "compensate": "least_squares",
    }


def _loop(model: nn.Module) -> None:
    for x, _ in networks.digits()[0][:3]:
        model(x)


def _squared_loss(output: torch.Tensor, batch: Any) -> torch.Tensor:
    return F.mse_loss(output.softmax(-1), F.one_hot(batch[1], 10).float())


def _noisy(model: nn.Module) -> float:
    """A score that draws random numbers: the library seeds them."""
    return networks.negative_loss(model) + 1e-3 * float(torch.rand(()))


def _trained() -> Record:
    return {kind: digests.of_model(networks.trained(kind))["state"] for kind in networks.TRAINED}


def _traced(kind: str) -> Record:
    """The graph, also through its JSON text, and with the outputs free."""
    model = networks.trained(kind)
    graph = calls.trace(model, networks.example())
    free = calls.trace(model, networks.example(), interface=False, check=False)
    plans: Iterable[Any] = [plan for plan in records.random_plans(graph) if plan is not None]
    again = calls.reread_graph(graph)
    return {
        **records.of_graph(graph),
        "layouts": records.of_layouts(graph, [*plans]),
        "through JSON": digests.section({"equal": again == graph, "all": digests.of_whole(records.of_graph(again))}),
        "interface=False": records.of_graph(free)["widths"],
    }


def _coincidences() -> Record:
    """Which pairs of counts the graph refuses, and how plans go around them."""
    graph = calls.trace(networks.fresh_network("branching"), networks.example())
    refused = [counts for counts in product(range(1, 13), range(1, 21)) if _is_refused(graph, *counts)]
    shares = [f"{share}%" for share in range(20, 100, 2)]
    sizes = {
        f"{share}, {how}": calls.sizes(calls.plan(graph, "l1", {"params": share}, allocation=how))
        for share, how in product(shares, ("uniform", "global"))
    }
    return {"counts": digests.section({"refused": refused}), "sizes": digests.section(sizes)}


def _is_refused(graph: Any, first: int, second: int) -> bool:
    try:
        calls.plan_of(graph, {"first.out_features": range(first), "second.out_features": range(second)})
    except calls.Refused:
        return True
    return False


def _scores(kind: str, name: str, options: Options) -> Record:
    model = networks.trained(kind)
    data = _data() if name in FROM_DATA else {}
    judge = calls.criterion(name.split(" ")[0], **data, **options)
    found = calls.scores(judge, calls.trace(model, networks.example()), model)
    return {"scores": digests.section(found), "model afterwards": {"all": digests.of_whole(digests.of_model(model))}}


def _plan(kind: str, criterion: str, budget: Options, options: Options) -> Record:
    graph = calls.trace(networks.trained(kind), networks.example())
    plan = calls.plan(graph, criterion, budget or None, **options)
    return {**records.of_plan(plan), "through JSON": digests.section({"equal": calls.reread_plan(plan) == plan})}


def _prune(kind: str, mode: str, budget: Options | None, config: Callable[[], Options]) -> Record:
    model, result = calls.prune(networks.trained(kind), mode, budget, networks.example(), config())
    return records.of_pruned(model, result)


class _Asked:
    """The user's functions, noting all that they answered."""

    def __init__(self) -> None:
        self.answers: list[float] = []

    def loss(self, output: torch.Tensor, batch: Any) -> torch.Tensor:
        found = F.cross_entropy(output, batch[1])
        self.answers.append(float(found))
        return found

    def score(self, model: nn.Module) -> float:
        self.answers.append(networks.negative_loss(model))
        return self.answers[-1]

    def config(self, mode: str) -> dict[str, Any]:
        return _data() | ({"score_func": self.score} if mode == "fastnas" else {"loss_func": self.loss})


def _asked(kind: str, mode: str, options: Options) -> Record:
    """Scores or losses of every network on the way, in their order: a plan alone would hide small changes of them."""
    asked = _Asked()
    config = {**asked.config(mode), **options}
    calls.prune(networks.trained(kind), mode, {"macs": "45%"}, networks.example(), config)
    return {"answers": digests.section(dict(enumerate(asked.answers)))}


def _resumed(mode: str, options: Options) -> Record:
    """Twice with one journal, to other budgets, counting what is asked of the user's functions."""
    asked = _Asked()
    found: Record = {}
    with tempfile.TemporaryDirectory() as folder:
        for share in ("60%", "40%"):
            config = {**asked.config(mode), **options, "checkpoint": folder}
            model, result = calls.prune(networks.trained("residual"), mode, {"macs": share}, networks.example(), config)
            found |= {f"{share} {name}": part for name, part in records.of_pruned(model, result).items()}
            found[f"{share} asked"] = {"times": str(len(asked.answers))}
    return found
