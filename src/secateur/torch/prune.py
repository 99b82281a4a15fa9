"""`prune`: the whole pipeline in one call, in place.

    trace ──► profile and constraints ──► the mode's search ──► apply ──► verify ──► (model, result)

Invariant: the model that comes back meets every constraint, or an error was raised and the model is as it was.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from secateur.core.budget import Budget
from secateur.core.cached import with_sizes
from secateur.core.graph import Graph
from secateur.core.options import asked_for
from secateur.core.plan import Plan
from secateur.core.show import constraint_table
from secateur.errors import DeadNetwork, Infeasible, VerificationError, placed
from secateur.modes import Mode
from secateur.modes.given import ModeOption
from secateur.modes.result import Latency, PruneResult, result_of
from secateur.modes.rounds import Outcome, outcome_of, within
from secateur.progress import Tell, progress, say
from secateur.search.limits import FASTEST, Limits, restrict
from secateur.torch.apply import DIFFERED, apply_fitted, verification_of
from secateur.torch.evaluating.known_times import KnownTimes, times_path
from secateur.torch.evaluating.stopwatch import Stopwatch
from secateur.torch.frontend import TorchFrontend
from secateur.torch.in_turn import pruned_in_turn
from secateur.torch.latency import WORD, Replayed, TimeBound, fastest_multiple, most_ms, warn_of_a_miss
from secateur.torch.narrowing.history import history_of
from secateur.torch.recipes import Constraints, one_each, recipes_of
from secateur.torch.running.distributed import unwrapped
from secateur.torch.running.example import Example
from secateur.torch.running.explaining import data_explained
from secateur.torch.running.interface import Interface
from secateur.torch.trace import trace
from secateur.torch.verify import refuse_without_data

_LARGE_CUT = 0.8  # of the MACs, and less, is left


def prune(
    model: nn.Module,
    mode: ModeOption = "magnitude",
    constraints: Constraints | Sequence[Constraints] = None,
    dummy_input: object = None,
    config: Mapping[str, Any] | None = None,
    *,
    interface: Interface = True,
) -> tuple[nn.Module, PruneResult]:
    """Narrow a model in place until it meets the constraints; the model and what was done.

    ``mode`` is a name, with its options in ``config``, or a mode object; ``[("magnitude", {…})]`` and ``{"magnitude": {…}}``
    are read as well. ``constraints`` are upper bounds, absolute or relative: ``{"macs": "60%", "params": 3e6}``; one that is
    None holds nothing. ``{"latency_ms": "60%"}`` or ``12.0`` bounds the time of one pass over ``dummy_input`` as it runs here:
    the result was measured to meet it, or a warning and `result.latency` say by how much it misses. ``dummy_input`` is a
    tensor, a tuple of arguments, a dict of keywords, or a tuple ending in one. ``interface`` says which outputs keep their
    dimensions, as for `trace`. Of a DistributedDataParallel a copy of the network inside is narrowed: wrap what comes back.

    Several modes, ``["gradnas", ("progressive", {…})]``, follow one another, each with its entry in a list of constraints;
    shares are of what the mode before left. The model is narrowed once, when all are through.

    Raises ConfigError for an option that is unknown or of the wrong type, Infeasible where no network of the search space
    meets the constraints, VerificationError where the result does not compute what it should. The model is then unchanged.
    """
    recipes = recipes_of(mode, config)
    wanted = one_each(constraints, recipes)
    # what is made in inference mode could never be trained
    with progress("prune") as tell, torch.inference_mode(False):
        if (network := unwrapped(model)) is not model:
            model = copy.deepcopy(network)  # the wrapper would go on to synchronise the parameters that it was given
        steps = [
            partial(_step, recipe, bounds, dummy_input, interface)
            for recipe, bounds in zip(recipes, wanted, strict=True)
        ]
        if len(steps) == 1:
            return model, steps[0](tell, model)
        graph = trace(model, dummy_input, interface=interface, depth=any(recipe.looks_for_blocks for recipe in recipes))
        parts = [partial(_part, step, tell, n, len(steps)) for n, step in enumerate(steps)]
        return model, pruned_in_turn(model, graph, parts, verify=all(recipe.verify for recipe in recipes))


def _part(
    step: Callable[[Tell, nn.Module], PruneResult], tell: Tell, n: int, count: int, model: nn.Module
) -> PruneResult:
    with placed(f"mode {n + 1} of {count}"):
        return step(within(tell, n / count, (n + 1) / count), model)


def _step(
    given: Mode, constraints: Constraints, dummy_input: object, interface: Interface, tell: Tell, model: nn.Module
) -> PruneResult:
    with asked_for() as asked:
        recipe, constraints = given.with_constraints(constraints)
        tell(0.0, "tracing")
        graph = trace(model, dummy_input, interface=interface, depth=recipe.looks_for_blocks)
        if recipe.verify:
            refuse_without_data(model, graph)
        result = _prune(model, graph, recipe, constraints, tell)
    if idle := given.idle(asked):
        warnings.warn(
            f"config: {', '.join(idle)} had no effect: nothing in this call asked for {'it' if len(idle) == 1 else 'them'}. "
            "Options of data need a data_loader, those of compensation a compensate=",
            stacklevel=3,
        )
    return result


def _prune(model: nn.Module, graph: Graph, recipe: Mode, constraints: Constraints, tell: Tell) -> PruneResult:
    bounds = {metric: bound for metric, bound in (constraints or {}).items() if bound is not None}
    latency, graph = bounds.pop(WORD, None), with_sizes(graph, bounds)
    budget = Budget.of(bounds, graph) if bounds else Budget(entries=())
    if recipe.multiple_of == FASTEST:
        _, known = _clocks(model, graph, recipe)
        multiple = fastest_multiple(graph, _no_steps(recipe), known, tell)
        recipe = recipe.model_copy(update={"multiple_of": multiple})
        if recipe.verbose:
            say(f"multiple_of: {recipe.multiple_of} was measured to be the fastest")
    if recipe.verbose:
        search_space = restrict(graph, recipe.limits())
        say(search_space, constraint_table(search_space, budget) if budget.entries else "")
    freezes = recipe.verify and recipe.on_mismatch == "freeze"
    wish = _Wish(recipe=recipe, bounds=bounds, budget=budget, times=_time_bounds(model, graph, recipe, latency, tell))
    while True:
        try:
            return _searched_and_applied(model, graph, wish, tell)
        except VerificationError as error:
            if not freezes or not error.widths:
                raise
            graph = graph.frozen(error.widths, DIFFERED)  # the budget is met without these, or is infeasible


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is asked for; ``times`` are ways to bound time, the better first, or None where it is not bounded."""

    recipe: Mode
    bounds: Mapping[str, Any]
    budget: Budget
    times: Iterable[tuple[Mode, TimeBound]] | None


def _no_steps(recipe: Mode) -> Limits:
    return recipe.model_copy(update={"multiple_of": 1}).limits()


def _time_bounds(
    model: nn.Module, graph: Graph, recipe: Mode, latency: object, tell: Tell
) -> Iterable[tuple[Mode, TimeBound]] | None:
    """In the steps that are fast here, where nobody said in which; and in single units."""
    if latency is None:
        return None
    stopwatch, known = _clocks(model, graph, recipe)
    most = most_ms(latency, stopwatch.whole_ms)

    def bounds() -> Iterator[tuple[Mode, TimeBound]]:
        if "multiple_of" not in recipe.model_fields_set:
            multiple = fastest_multiple(graph, recipe.limits(), known, tell)
            if multiple > 1:
                stepped = recipe.model_copy(update={"multiple_of": multiple})
                yield stepped, TimeBound.of(most, graph, stepped.limits(), stopwatch, tell, known)
        yield recipe, TimeBound.of(most, graph, recipe.limits(), stopwatch, tell, known)

    return Replayed(bounds())


def _clocks(model: nn.Module, graph: Graph, recipe: Mode) -> tuple[Stopwatch, KnownTimes]:
    """One that measures, and one that looks up what was measured before."""
    example = Example.of(model, graph.example.as_dummy_input())
    stopwatch = Stopwatch(model, example, recipe.target)
    return stopwatch, KnownTimes(stopwatch, times_path(graph.fingerprint, example, recipe.target))


def _searched(frontend: TorchFrontend, wish: _Wish, tell: Tell) -> tuple[Outcome, Latency | None]:
    if wish.times is None:
        return outcome_of(wish.recipe, frontend, wish.budget, tell), None
    found: list[tuple[Outcome, Latency]] = []
    refused: Infeasible | DeadNetwork | None = None
    for recipe, bound in wish.times:
        try:
            outcome, latency = bound.met(frontend.graph, wish.bounds, partial(_search, recipe, frontend, bound, tell))
        except (Infeasible, DeadNetwork) as error:
            refused = error  # in larger steps it may be; the last are the smallest
            continue
        found.append((outcome, replace(latency, multiple_of=recipe.multiple_of)))
        if latency.met and outcome.evidence.quality is None:
            break  # nothing would tell which of two that meet the bound is worth more
    if not found:
        assert refused is not None
        raise refused
    outcome, latency = min(found, key=_misses_and_costs)
    warn_of_a_miss(latency)
    return outcome, latency


def _misses_and_costs(found: tuple[Outcome, Latency]) -> tuple[float, float]:
    """By how much the bound is missed; of those that meet it, how little the network is worth."""
    outcome, latency = found
    score = outcome.evidence.quality.score if outcome.evidence.quality is not None else None
    return max(latency.after_ms, latency.most_ms), 0.0 if score is None else -score


def _search(
    recipe: Mode, frontend: TorchFrontend, bound: TimeBound, tell: Tell, graph: Graph, budget: Budget
) -> Outcome:
    return outcome_of(recipe, replace(frontend, graph=graph, with_costs=bound.model), budget, tell)


def _searched_and_applied(model: nn.Module, graph: Graph, wish: _Wish, tell: Tell) -> PruneResult:
    started, recipe = time.perf_counter(), wish.recipe
    frontend = TorchFrontend.of(model, graph, recipe)
    with data_explained(model, frontend.data):
        outcome, latency = _searched(frontend, wish, tell)
    searched = time.perf_counter()
    if recipe.verbose:
        say(outcome.evidence)
    tell(0.7, "narrowing and verifying" if recipe.verify else "narrowing")
    frontend.ranks.agree("the plan", outcome.plan)
    apply_fitted(model, outcome.plan, outcome.weights, verify=recipe.verify)
    if not frontend.has_data and getattr(recipe, "score_func", None) is None:
        _warn_of_blindness(graph, outcome.plan)
    result = _result(model, graph, outcome, searched - started, time.perf_counter() - searched)
    return replace(result, latency=latency)


def _warn_of_blindness(graph: Graph, plan: Plan) -> None:
    """A large cut made without looking at data usually costs most of the quality."""
    left = int(graph.cost("macs", plan.sizes)) / max(graph.macs, 1)
    if left < _LARGE_CUT:
        warnings.warn(
            f"{1 - left:.0%} of the MACs went with no data looked at, which usually costs much of the quality. Give a "
            'data_loader and mode="progressive", or compensate="least_squares", or fine-tune',
            stacklevel=6,
        )


def _result(model: nn.Module, graph: Graph, outcome: Outcome, searching: float, applying: float) -> PruneResult:
    verification = verification_of(model)
    assert verification is not None
    seconds = {"plan": searching, "apply": applying - verification.seconds, "verify": verification.seconds}
    return result_of(
        graph,
        outcome.plan,
        outcome.evidence,
        verification,
        compensation=outcome.compensation,
        history=history_of(model),
        seconds={**graph.seconds, **seconds},
    )
