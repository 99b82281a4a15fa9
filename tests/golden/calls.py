"""Every call of the library's public API that the proof makes. When a name changes, this is the file to edit.

    cases write options as they were called when the digests were recorded  ──►  _spelled  ──►  as they are called now

`RENAMED` has one table for each callee, old name to new. A name that moved to another module, or an attribute that is
called otherwise, is changed in the function below that uses it. Nothing else in this package imports `secateur`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import secateur as sc

# -- words that changed ------------------------------------------------------------------------------------------------

RENAMED: Mapping[str, Mapping[str, str]] = {
    "plan": {"keep": "exclude"},  # options of `plan`: allocation, sizes, multiple_of, keep, only, floor, ceiling, rules
    "rules": {},  # keys inside rules: multiple_of, ratios, floor, ceiling, channel_divisor
    "mode": {
        "keep": "exclude",
        "max_iter_data_loader": "num_batches",
    },  # keys of a mode's config: data_loader, num_batches, score_func, keep, max_iter_data_loader, …
    "criterion": {},  # fields of criteria: reduction, normalizer, bias, on, of, target, per, power, activation, seed, …
    "trace": {},  # interface, check
    "subnet": {},  # data_loader, num_batches
    "finetune": {},  # epochs, lr, optimizer, score_func, teacher, config
    "finetune config": {},  # scheduler, warmup, patience, clip_norm, weight_decay, seed
    "distillation": {},  # temperature, weight, features, feature_weight
    "analyze": {},  # ratios, excludes, data_loader, num_batches, path
    "iterate": {},  # removal_ratio, mode, threshold, excludes, multiple_of, objective
    "one step": {},  # criterion, excludes, multiple_of
    "search": {},  # num_subnet, removal_ratio, path, seed
    "sparsifier": {},  # tensor_fqn, sparsity_level, prune_bias
}
MODES: Mapping[str, str] = {}  # names of modes that changed
CRITERIA: Mapping[str, str] = {}  # names of criteria that changed
ALLOCATIONS: Mapping[str, str] = {}  # names of allocations that changed
METRICS: Mapping[str, str] = {}  # names of costs that changed


def _spelled(callee: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are called now, with what is inside them."""
    words = RENAMED[callee]
    return {words.get(key, key): _inside(key, value) for key, value in options.items()}


def _inside(key: str, value: Any) -> Any:
    match key:
        case "criterion":
            return CRITERIA.get(value, value) if isinstance(value, str) else value
        case "allocation":
            return ALLOCATIONS.get(value, value)
        case "rules":
            return {kind: {name: _rule(rule) for name, rule in found.items()} for kind, found in value.items()}
    return _rule_by_type(value) if key.startswith("nn.") else value


def _rule_by_type(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _rule(rule) for name, rule in found.items()}


def _rule(rule: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if rule is None else _spelled("rules", rule)


def _budget(budget: Mapping[str, Any]) -> dict[str, Any]:
    return {METRICS.get(metric, metric): bound for metric, bound in budget.items()}


def where() -> str:
    """Where the library that is measured lies."""
    return str(sc.__file__)


# -- graphs and plans --------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What a graph says of a width."""

    name: str
    kind: str
    size: int
    choices: tuple[int, ...]
    exact: bool
    free: bool
    outer: str | None
    multiplier: int
    uses: tuple[tuple[str, int], ...]


Refused = sc.SecateurError
Infeasible = sc.Infeasible


def trace(model: nn.Module, example: Any, **options: Any) -> Any:
    return sc.trace(model, example, **_spelled("trace", options))


def rows(graph: Any) -> list[Row]:
    return [
        Row(
            w.name, w.kind, w.size, tuple(w.choices), w.exact, w.frozen is None, w.outer, w.multiplier,
            tuple((use.tensor, use.axis) for use in w.uses),
        )
        for w in graph.widths
    ]  # fmt: skip


def attributes(graph: Any) -> dict[str, int]:
    return {f"{a.module}.{a.path}": value for a, value in graph.attributes.items()}


def metrics(graph: Any) -> list[str]:
    return list(graph.costs)


def cost(graph: Any, metric: str, counts: Mapping[str, Any] | None = None) -> Any:
    return graph.cost(metric, counts)


def num_notes(graph: Any) -> int:
    return len(graph.notes)


def parameters(graph: Any) -> list[str]:
    return sorted(graph.parameters)


def module_types(graph: Any) -> dict[str, tuple[str, ...]]:
    return dict(graph.module_types)


def reread_graph(graph: Any) -> Any:
    """The graph through its JSON text."""
    return type(graph).from_json(graph.to_json())


def plan(graph: Any, criterion: Any, budget: Mapping[str, Any] | None, **options: Any) -> Any:
    named = CRITERIA.get(criterion, criterion) if isinstance(criterion, str) else criterion
    told = _spelled("plan", options)
    limits = {key: told.pop(key) for key in list(told) if key in sc.Limits.model_fields}
    return sc.plan(graph, named, None if budget is None else _budget(budget), limits=limits, **told)


def plan_of(graph: Any, kept: Mapping[str, Any]) -> Any:
    """The plan with these kept sets."""
    return graph.plan(kept)


def nearest_reachable(refusal: Any) -> Any:
    """The least that a refused budget could have been."""
    return refusal.reachable


def kept(plan: Any) -> dict[str, Any]:
    return dict(plan.kept)


def sizes(plan: Any) -> dict[str, int]:
    return dict(plan.sizes)


def edits(plan: Any) -> dict[str, tuple[int, int]]:
    return {f"{e.module}.{e.path}": (e.old, e.new) for e in plan.edits}


def tensors(plan: Any) -> list[str]:
    """The tensors whose layout a plan knows."""
    return list(plan.layouts)


def indices(plan: Any, tensor: str) -> tuple[Any, ...]:
    return plan.indices(tensor)


def shape(plan: Any, tensor: str) -> tuple[int, ...]:
    return plan.shape(tensor)


def reread_plan(plan: Any) -> Any:
    """The plan through its JSON text."""
    return sc.Plan.from_json(plan.to_json())


# -- scores ------------------------------------------------------------------------------------------------------------

_CRITERIA: Mapping[str, str] = {
    "l1": "L1", "l2": "L2", "bn_scale": "BatchNormScale", "lamp": "LAMP", "fpgm": "FPGM", "random": "Random",
    "apoz": "APoZ", "mean_rank": "MeanRank", "second_moment": "SecondMoment", "taylor": "Taylor",
    "gate_gradient": "GateGradient", "fisher": "Fisher",
}  # fmt: skip


def criterion(name: str, **options: Any) -> Any:
    """A criterion as an object."""
    return getattr(sc.criteria, _CRITERIA[name])(**_spelled("criterion", options))


def scores(judge: Any, graph: Any, model: nn.Module) -> dict[str, Any]:
    return dict(judge(graph, model))


# -- narrowing ---------------------------------------------------------------------------------------------------------


class Pruned(NamedTuple):
    """What `prune` says it did."""

    plan: Any
    before: dict[str, int]
    after: dict[str, int]
    frozen: list[str]
    passed: bool
    compared: list[str]
    not_compared: list[str]
    refitted: list[str]
    left: list[str]


def apply(model: nn.Module, plan: Any, *, in_place: bool = False) -> nn.Module:
    return sc.apply(model, plan, in_place=in_place, verify=False)


def prune(
    model: nn.Module, mode: str, budget: Mapping[str, Any] | None, example: Any, config: Mapping[str, Any]
) -> tuple[nn.Module, Pruned]:
    bounds = None if budget is None else _budget(budget)
    told = _spelled("mode", config)
    if mode == "activation":
        model, result = sc.prune(model, sc.compat.nni.activation(model, told), bounds, example)
    else:
        model, result = sc.compat.modelopt.prune(model, MODES.get(mode, mode), bounds, example, told)
    proof = result.verification
    return model, Pruned(
        plan=result.plan,
        before=dict(result.before),
        after=dict(result.after),
        frozen=list(result.frozen),
        passed=proof.passed,
        compared=list(proof.compared),
        not_compared=list(proof.not_compared),
        refitted=list(result.refitted),
        left=list(result.left_as_they_are),
    )


def plans_of(model: nn.Module) -> tuple[Any, ...]:
    return sc.plans_of(model)


def subnet(model: nn.Module, plan: Any, **options: Any) -> AbstractContextManager[nn.Module]:
    return sc.subnet(model, plan, **_spelled("subnet", options))


def save(model: nn.Module, folder: Path) -> None:
    sc.save(model, folder)


def restore(model: nn.Module, folder: Path) -> nn.Module:
    return sc.restore(model, folder)


def mask_plan(model: nn.Module, plan: Any) -> None:
    from secateur.torch.narrowing.masks import mask_plan

    mask_plan(model, plan)


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    from secateur.torch.narrowing.masks import masks_of

    return masks_of(model)


def remove_masks(model: nn.Module, *, leave_zeros: bool) -> None:
    from secateur.torch.narrowing.masks import remove_masks

    remove_masks(model, leave_zeros=leave_zeros)


def measure_batch_norm(model: nn.Module, loader: Any, num_batches: int) -> None:
    from secateur.torch.running.batch_norm import reestimate_batch_norm

    reestimate_batch_norm(model, loader, num_batches=num_batches)


# -- training ----------------------------------------------------------------------------------------------------------


def finetune(model: nn.Module, loader: Any, *, config: Mapping[str, Any] | None = None, **options: Any) -> list[Any]:
    """Losses, scores, and which epoch was the best."""
    config = {**(config or {}), **{key: options.pop(key) for key in ("lr", "optimizer") if key in options}}
    options["config"] = _spelled("finetune config", config)
    result = sc.training.finetune(model, loader, **_spelled("finetune", options))
    return [list(result.losses), list(result.scores), result.score_before, result.best_epoch]


def distillation(teacher: nn.Module, **options: Any) -> Any:
    from secateur.torch.training.distillation import Distillation

    return Distillation(teacher=teacher, **_spelled("distillation", options))


def remap_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    return sc.training.remap_optimizer(optimizer, model)


# -- pruners with a state ----------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A candidate of the one-step search."""

    index: int
    score: float | None
    share: float
    macs: int
    sizes: dict[str, int]


def iterative(model: nn.Module, example: Any, criterion: str = "l1") -> Any:
    return sc.pruners.IterativePruner(model, example, criterion=CRITERIA.get(criterion, criterion))


def analyze(pruner: Any, judge: Callable[..., Any], args: tuple[Any, ...], **options: Any) -> dict[str, Any]:
    """The score of the whole network, and of each width at each count."""
    loader, num_batches = options.pop("data_loader", None), options.pop("num_batches", 50)
    data = None if loader is None else sc.pruners.Data(loader=loader, num_batches=num_batches)
    _limit(pruner, options)
    told = {"checkpoint": options.pop("path", None), **options}
    found = pruner.analyze(partial(judge, batches=args[0]), data_loader=data, **told)
    return {"(whole)": found.whole, **{name: dict(scores) for name, scores in found.scores.items()}}


def iterate(pruner: Any, *, removal_ratio: float | None = None, mode: str = "sparse", **options: Any) -> nn.Module:
    """A round of an iterative pruner."""
    _limit(pruner, options)
    constraints = None if removal_ratio is None else sc.compat.uif.constraints_of(removal_ratio)
    return (pruner.mask if mode == "sparse" else pruner.narrow)(constraints, **options)[0]


def _limit(pruner: Any, options: dict[str, Any]) -> None:
    """Take what narrows the search space out of a call's options."""
    words = {"excludes": "exclude", "multiple_of": "multiple_of"}
    pruner.limits = sc.Limits(**{words[key]: options.pop(key) for key in list(options) if key in words})


def round_plan(pruner: Any) -> Any:
    return pruner.plan


def slim(pruner: Any) -> nn.Module:
    return pruner.narrow()[0]


def slim_state(pruner: Any) -> dict[str, Tensor]:
    return pruner.narrowed_state_dict()


def removal_schedule(name: str, steps: int, final: float) -> list[float]:
    return sc.compat.uif.schedule(name, steps, final)


class OneStep(NamedTuple):
    """A one-step pruner whose seed is told with the search."""

    model: nn.Module
    example: Any
    options: dict[str, Any]
    made: list[Any]


def one_step(model: nn.Module, example: Any, **options: Any) -> Any:
    return OneStep(model, example, options, [])


def search(
    pruner: Any, calibrate: Callable[..., Any] | None, calib_args: tuple[Any, ...], judge: Callable[..., Any],
    eval_args: tuple[Any, ...], *, num_subnet: int, removal_ratio: float, **options: Any,
) -> list[Found]:  # fmt: skip
    """What a one-step search found, best first."""
    told = dict(pruner.options)
    limits = {
        word: told.pop(key)
        for key, word in {"excludes": "exclude", "multiple_of": "multiple_of"}.items()
        if key in told
    }
    made = sc.pruners.OneStepPruner(pruner.model, pruner.example, limits=limits, seed=options.pop("seed", 0), **told)
    pruner.made.append(made)
    data: Any = calib_args[0] if calib_args else None
    if calibrate is not None:
        data = sc.pruners.Data.of_forward_loop(pruner.model, lambda m: calibrate(m, *calib_args), num_batches=10**9)
    found = made.search(
        partial(judge, batches=eval_args[0]),
        sc.compat.uif.constraints_of(removal_ratio),
        num_candidates=num_subnet,
        data_loader=data,
        checkpoint=options.pop("path", None),
        **options,
    )
    return [Found(one.index, one.score, one.share, one.macs, dict(one.sizes)) for one in found]


def candidate(pruner: Any, index: int | None) -> tuple[Any, nn.Module]:
    """The plan and the network of a candidate."""
    return pruner.made[-1].plan_of(index), pruner.made[-1].prune(index)[0]


def rule(name: str, **options: Any) -> Any:
    """A rule of the sparsifier: saliency, fpgm, lstm."""
    from secateur.torch.pruners import sparsifier

    kind = {"saliency": "SaliencyRule", "fpgm": "FPGMRule", "lstm": "LSTMSaliencyRule"}[name]
    return getattr(sparsifier, kind)(**_spelled("sparsifier", options))


def sparsified(
    rule: Any, model: nn.Module, config: Sequence[Mapping[str, Any]] | None, example: Any, **defaults: Any
) -> Any:
    """A sparsifier that has prepared a model."""
    made = sc.pruners.Sparsifier(rule, _spelled("sparsifier", defaults))
    entries = None if config is None else [_spelled("sparsifier", entry) for entry in config]
    made.prepare(model, entries, dummy_input=example)
    return made


def mask_rows(sparsifier: Any) -> None:
    sparsifier.step()


def masked_plan(sparsifier: Any) -> Any:
    return sparsifier.plan


def narrow_masked(sparsifier: Any) -> nn.Module:
    return sparsifier.prune()
