"""The words of NVIDIA ModelOpt's users: modes as lists, search spaces by module type beside the options.

    prune(model, [("fastnas", {"nn.Conv2d": {"*": {"channel_divisor": 8}}})], {"flops": "60%"}, x, config)
      = secateur.prune(model, "fastnas", {"flops": "60%"}, x, {"rules": {"nn.Conv2d": {"*": {"multiple_of": 8}}}, …})

Invariant: what is read is meant: two things said of one option are an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from secateur.errors import ConfigError
from secateur.modes.given import ModeOption, modes_in_turn, one_mode
from secateur.modes.result import PruneResult
from secateur.torch.prune import prune as ours
from secateur.torch.recipes import Constraints

_RULE_KEYS = {
    "channel_divisor": "multiple_of",
    "feature_divisor": "multiple_of",
    "channels_ratio": "ratios",
    "features_ratio": "ratios",
}


def prune(
    model: nn.Module,
    mode: ModeOption,
    constraints: Constraints | Sequence[Constraints] = None,
    dummy_input: object = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, PruneResult]:
    """`secateur.prune`, called as ``modelopt.torch.prune.prune`` is."""
    named = modes_in_turn(mode)
    if len(named) > 1 and config is None:
        listed = [read((name, options or {})) for name, options in named]
        return ours(model, listed, constraints, dummy_input)
    name, options = read(mode, config)
    return ours(model, name, constraints, dummy_input, options)


def read(mode: ModeOption, config: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """The mode's name and its options in our words; those in the list go together with ``config``.

    Raises ConfigError where one contradicts the other, or there is more than one mode.
    """
    name, listed = one_mode(mode)
    if not isinstance(name, str):
        raise ConfigError(f"a mode is a name here, not {name!r}: give a mode object to secateur.prune")
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f"config is a dict of options, not {type(config).__name__}")
    return name, _in_our_words(_merged(listed or {}, config or {}, "option"))


def _merged(listed: Mapping[str, object], config: Mapping[str, object], place: str) -> dict[str, Any]:
    found = {**config, **listed}
    for key in [key for key in listed if key in config]:
        ours, theirs = listed[key], config[key]
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found[key] = _merged(ours, theirs, f"{place} {key!r}:")
        elif ours is not theirs and not (isinstance(ours, str | int | float | bool) and ours == theirs):
            raise ConfigError(f"{place} {key!r}: the list of modes says otherwise than config; keep one of them")
    return found


def _in_our_words(config: Mapping[str, object]) -> dict[str, Any]:
    """Module types beside the options become rules, and ``max_iter_data_loader`` the number of batches."""
    found = {key: value for key, value in config.items() if "." not in str(key)}
    types = {key: value for key, value in config.items() if "." in str(key)}
    rules = found.get("rules", {})
    if types or rules:
        if not isinstance(rules, Mapping):
            raise ConfigError(f"rules are a dict by module type, not {type(rules).__name__}")
        found["rules"] = {kind: _by_name(by_name) for kind, by_name in {**rules, **types}.items()}
    if "max_iter_data_loader" in found:
        if "num_batches" in found:
            raise ConfigError("config: num_batches and max_iter_data_loader say the same thing; keep one of them")
        found["num_batches"] = found.pop("max_iter_data_loader")
    return found


def _by_name(by_name: object) -> Any:
    if not isinstance(by_name, Mapping):
        return by_name
    return {pattern: _rule(rule, f"rules: {pattern}") for pattern, rule in by_name.items()}


def _rule(rule: object, where: str) -> Any:
    if not isinstance(rule, Mapping):
        return rule
    found: dict[str, Any] = {}
    for key, value in rule.items():
        ours = _RULE_KEYS.get(str(key), str(key))
        if ours in found:
            raise ConfigError(f"{where}: {key!r} says again what {ours!r} means; keep one of them")
        found[ours] = value
    return found
