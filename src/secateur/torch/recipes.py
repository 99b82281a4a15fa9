"""What `prune` is asked for, read before anything is traced.

    recipes_of("magnitude", {"criterion": "l2"})              ->  [Magnitude(criterion="l2")]
    one_each([{"macs": "80%"}, {"macs": "70%"}], recipes)     ->  the constraints of each of two

Invariant: modes, options, criteria, targets, costs and bounds are such as there are; no network was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from secateur.core.budget import check_bounds
from secateur.errors import ConfigError, placed
from secateur.modes import MODES, Mode
from secateur.modes.given import ModeOption, modes_in_turn
from secateur.torch.evaluating.targets import TARGETS
from secateur.torch.frontend import TorchFrontend
from secateur.torch.latency import WORD, most_ms

Constraints = Mapping[str, Any] | None


def recipes_of(given: ModeOption, config: Mapping[str, Any] | None) -> list[Mode]:
    """The modes in their order, with their options. Raises ConfigError for what no mode can be."""
    named = modes_in_turn(given)
    if len(named) > 1 and config is not None:
        raise ConfigError(
            "config beside several modes could be meant for any: put options beside each, as in (name, {…})"
        )
    return [_recipe(mode, beside, config) for mode, beside in named]


def one_each(constraints: Constraints | Sequence[Constraints], recipes: Sequence[Mode]) -> Sequence[Constraints]:
    """The constraints of each mode. Raises ConfigError for others than so many, and for what nothing can be bounded by."""
    count = len(recipes)
    several = list(constraints) if isinstance(constraints, list | tuple) else [constraints]
    listed = cast(list[Constraints], several)
    if count > 1 and len(listed) == 1:
        raise ConfigError(
            f"mode names {count} modes: constraints is then a list with an entry for each, such as "
            '[{"macs": "80%"}, {"macs": "70%"}], where shares are of what the mode before left'
        )
    if len(listed) != count:
        raise ConfigError(f"constraints lists {len(listed)} entries, mode names {count}: one entry for each mode")
    for number, (recipe, wanted) in enumerate(zip(recipes, listed, strict=True)):
        if count == 1:
            check_constraints(recipe, wanted)
            continue
        with placed(f"constraints[{number}]"):
            check_constraints(recipe, wanted)
    return listed


def check_constraints(recipe: Mode, constraints: object) -> None:
    """Raise ConfigError for constraints that no network could be held to by this mode."""
    if constraints is not None and not isinstance(constraints, Mapping):
        raise ConfigError(f'constraints are written {{"macs": "60%"}}, not {constraints!r:.60}')
    recipe, rest = recipe.with_constraints(constraints)
    bounds = {metric: bound for metric, bound in (rest or {}).items() if bound is not None}
    if not bounds and recipe.needs_budget:
        raise ConfigError('constraints are needed, for example {"macs": "60%"} or {"params": 3e6}')
    if WORD in bounds:
        most_ms(bounds.pop(WORD), whole_ms=1.0)
    check_bounds(bounds)


def check_recipe(recipe: Mode) -> None:
    """Raise InputError for a criterion or a target that there is not."""
    criterion = getattr(recipe, "criterion", None)
    if criterion is not None:
        TorchFrontend.check_criterion(criterion)
    with placed("option 'target'"):
        _ = TARGETS[recipe.target]


def _recipe(mode: str | Mode, beside: Mapping[str, Any] | None, config: Mapping[str, Any] | None) -> Mode:
    options = _together(beside, config)
    if isinstance(mode, str):
        recipe = MODES[mode].read(options)
    elif options is not None:
        raise ConfigError("config has no effect beside a mode object: put its options into the object")
    else:
        recipe = mode
    check_recipe(recipe)
    return recipe


def _together(beside: Mapping[str, Any] | None, config: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The options beside a mode and those in config as one."""
    if beside is None or config is None:
        return config if beside is None else beside
    if not isinstance(config, Mapping):
        raise ConfigError(f"config is a dict of options, not {type(config).__name__}")
    twice = sorted(set(beside) & set(config))
    if twice:
        raise ConfigError(f"{twice[0]!r} is given beside the mode and in config: once will do")
    return {**beside, **config}
