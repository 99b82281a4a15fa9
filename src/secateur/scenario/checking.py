"""What can be told of a scenario before anything is done: names, options and bounds of every stage.

    stages: [train, {do: prune, mode: progresive}]  ->  ConfigError: stage 2 (prune): no mode is called 'progresive'. …

Invariant: what is refused here needs no network and no data to be told, so no training is lost to a slip in a later stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from secateur.compat.nni import activation_options
from secateur.core.budget import Budget
from secateur.core.cached import with_sizes
from secateur.core.depth import Depth
from secateur.core.graph import Graph
from secateur.errors import ConfigError, placed
from secateur.modes import MODES, Mode
from secateur.scenario.data import inputs_of
from secateur.scenario.devices import device_of
from secateur.scenario.schema import Export, Finetune, Measure, Prune, Report, Scenario, Train
from secateur.scenario.training import LOSSES, OPTIMIZERS
from secateur.search.limits import FASTEST, restrict
from secateur.search.refusal import check_reachable
from secateur.torch.evaluating.metrics import METRICS
from secateur.torch.latency import WORD
from secateur.torch.recipes import check_constraints, check_recipe

_FROM_THE_SCENARIO = ("data_loader", "collect_func", "forward_loop", "loss_func", "score_func", "checkpoint")


def check_scenario(scenario: Scenario) -> None:
    """Raise ConfigError for the first stage that names what there is not, and for a loss or a device of that kind."""
    _ = LOSSES[scenario.loss]
    with placed("device"):
        device_of(scenario.device)
    measured = False
    for number, stage in enumerate(scenario.stages, start=1):
        with placed(f"stage {number} ({stage.do})"):
            _check(stage)
            if isinstance(stage, Report) and not measured:
                raise ConfigError("nothing is measured before it: add a stage {do: measure}")
        measured = measured or isinstance(stage, Measure)


def _check(stage: Train | Finetune | Prune | Measure | Export | Report) -> None:
    match stage:
        case Train() | Finetune():
            _ = OPTIMIZERS[stage.optimizer], stage.loss is None or LOSSES[stage.loss]
        case Measure():
            _ = [METRICS[name] for name in stage.metrics]
        case Prune():
            if stage.device is not None:
                device_of(stage.device)
            _ = METRICS[stage.score]
            mode = unbound_mode(stage)
            check_recipe(mode)
            check_constraints(mode, stage.constraints or None)
        case Export() | Report():
            return


def check_prunings(scenario: Scenario, graph_of: Callable[[Depth], Graph]) -> None:
    """Raise what the scenario's prunings would, as far as the whole network can tell; ``graph_of`` traces it.

    What the second one is asked for is about what the first one leaves: of it, only the limits are looked at.
    """
    first = True
    for number, stage in enumerate(scenario.stages, start=1):
        if isinstance(stage, Prune) and stage.compat is None:
            mode, constraints = unbound_mode(stage).with_constraints(stage.constraints or None)
            with placed(f"stage {number} ({stage.do})"):
                _check_pruning(mode, constraints or {}, graph_of(mode.looks_for_blocks), bounded=first)
            if mode.looks_for_blocks:  # then names may be gone
                return
        first = first and not isinstance(stage, Prune)


def _check_pruning(mode: Mode, constraints: Mapping[str, Any], graph: Graph, *, bounded: bool) -> None:
    limits = mode.model_copy(update={"multiple_of": 1} if mode.multiple_of == FASTEST else {}).limits()
    space = restrict(graph, limits)
    bounds = {metric: bound for metric, bound in constraints.items() if bound is not None and metric != WORD}
    if not bounded or not bounds:
        return
    graph = with_sizes(graph, bounds)
    budget = Budget.of(bounds, graph)
    if mode.steps == 1 or not limits.ratios:  # shares of what each round finds go further together
        check_reachable(with_sizes(space, bounds), budget)


def own_options(stage: Prune) -> Mapping[str, object]:
    """What the stage gives its mode. Raises ConfigError for options that are the scenario's own, or stand in two places."""
    own = [key for key in stage.options if key in _FROM_THE_SCENARIO]
    if own:
        raise ConfigError(f"{own[0]} comes from the scenario's data and loss: take it out of options")
    if stage.compat is not None and (stage.options or stage.mode != "activation"):
        raise ConfigError("compat stands in place of options, beside mode: activation")
    return stage.options if stage.compat is None else stage.compat


def unbound_mode(stage: Prune) -> Mode:
    """The mode as the stage has it, with something in place of the data. Raises ConfigError for options that it has not."""
    data: dict[str, object] = {"data_loader": (), "collect_func": inputs_of}
    if stage.compat is not None:
        return activation_options({**own_options(stage), **data})
    kind = MODES[stage.mode]
    if "score_func" in kind.model_fields:
        data["score_func"] = _no_score
    return kind.read({**own_options(stage), **data})


def _no_score(model: object) -> float:
    raise AssertionError("options are read before there is a network")
