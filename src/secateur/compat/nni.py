"""The words of NNI's users, and of Kenning's: ``config_list``, and the options around it.

    mode = activation(model, {"config_list": [{"sparsity_per_layer": 0.5, "op_types": ["Conv2d"]}], "data_loader": loader})
    model, result = secateur.prune(model, mode, dummy_input=x)

    [{"sparsity_per_layer": 0.5, "op_types": ["Conv2d"]},      half of the channels of every convolution,
     {"exclude": True, "op_names": ["stem"]},                  not of this one,
     {"total_sparsity": 0.2, "op_types": ["Linear"]}]          a fifth of these layers' weights, wherever they matter least

An entry means the layers that all of its selectors match (all kinds of names count as one); ``exclude`` takes layers out of
the entries before it. NNI 3's keys are read as well: `nni3` says how.

Invariant: what is read is meant: an unknown key, a name that matches nothing and a contradiction are errors that name them.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field
from torch import nn

from secateur.compat.nni3 import grouped, in_nni_2
from secateur.core.options import Options
from secateur.errors import ConfigError, nearest
from secateur.modes import Activation
from secateur.search.layer_sparsity import MOST, Removal, Total, read_share
from secateur.torch.criteria import APoZ, MeanRank
from secateur.torch.tracing.names import type_names

KEYS = (
    "sparsity_per_layer",
    "sparsity",
    "total_sparsity",
    "max_sparsity_per_layer",
    "op_types",
    "op_names",
    "op_partial_names",
    "op_names_re",
    "exclude_op_types",
    "exclude_op_names",
    "exclude_op_names_re",
    "exclude",
)


SELECTORS = ("op_types", "op_names", "op_partial_names", "op_names_re")
NAMES = SELECTORS[1:]
LEFT_OUT = ("exclude_op_types", "exclude_op_names", "exclude_op_names_re")


class ActivationOptions(Options):
    """Their options; those of all our modes may stand beside them."""

    pruner_type: Literal["apoz", "mean_rank"] = "apoz"
    """"apoz", the share of positions where a unit is not zero, or "mean_rank", its mean."""
    mode: Literal["normal", "dependency_aware"] = "normal"
    """Without effect: what is coupled cannot be narrowed apart."""
    training_steps: int | None = Field(default=None, ge=1)
    """The number of batches looked at."""
    activation: Literal["relu", "relu6", "gelu", "silu"] | None = None
    """What is applied to what a layer gives; None takes activations as they are in the network."""
    config_list: Any = None
    """Their list, or its JSON text; without one a tenth of every Conv2d and Linear goes."""
    exclude_last_layer: bool = True
    """Leave the last Linear whole."""


def activation(model: nn.Module, options: Mapping[str, object]) -> Activation:
    """Our activation mode for this model, as their options say.

    Raises ConfigError for a key, a name or a type that is not known, and for what cannot be meant.
    """
    theirs, ours = _two_kinds(options)
    return Activation.read({**ours, "remove": read_config_list(model, theirs)})


def activation_options(options: Mapping[str, object]) -> Activation:
    """The same without the config_list, which is about a model. Raises ConfigError for all else that `activation` does."""
    _, ours = _two_kinds(options)
    return Activation.read(ours)


def _two_kinds(options: Mapping[str, object]) -> tuple[ActivationOptions, dict[str, object]]:
    theirs = ActivationOptions.read({key: options[key] for key in options if key in ActivationOptions.model_fields})
    ours = {key: value for key, value in options.items() if key not in ActivationOptions.model_fields}
    if "data_loader" not in ours and "forward_loop" not in ours:
        raise ConfigError("config: the activation mode looks at data: give a data_loader or a forward_loop")
    if theirs.training_steps is not None:
        if "num_batches" in ours:
            raise ConfigError("config: training_steps and num_batches are the same thing: one of them")
        ours["num_batches"] = theirs.training_steps
    kind = APoZ if theirs.pruner_type == "apoz" else MeanRank
    return theirs, {**ours, "criterion": kind(activation=theirs.activation)}


def read_config_list(model: nn.Module, options: ActivationOptions) -> Removal:
    """What the list says of the layers of this model. Raises ConfigError as the module says."""
    modules = dict(model.named_modules())
    layers = {name: type_names(module) for name, module in modules.items() if _has_weights(module)}
    found = _Reading()
    for number, entry in enumerate(grouped(_entries(options.config_list or _default(layers)))):
        where = f"config_list[{number}]"
        entry = in_nni_2(entry, where)
        _check_entry(entry, where)
        chosen = _chosen(entry, layers, list(modules), where)
        if entry.get("exclude"):
            _exclude(found, chosen)
        else:
            _say(found, entry, number, chosen)
    last = [name for name, module in modules.items() if isinstance(module, nn.Linear)][-1:]
    return found.without(last[0]) if last and options.exclude_last_layer else found.removal


@dataclass
class _Reading:
    """What was said so far, and by which entry."""

    per_layer: dict[str, tuple[float, int]] = field(default_factory=dict)
    totals: dict[int, Total] = field(default_factory=dict)
    excluded: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)

    @property
    def removal(self) -> Removal:
        """The same in our words."""
        shares = {name: sparsity for name, (sparsity, _) in self.per_layer.items()}
        return Removal(
            per_layer={**shares, **dict.fromkeys(sorted(self.excluded), 0.0)},
            totals=tuple(total for total in self.totals.values() if total.most),
            named=frozenset(self.named - self.excluded),
        )

    def without(self, last: str) -> Removal:
        """The same with the last Linear left whole."""
        if last in self.named - self.excluded:
            raise ConfigError(
                f"config_list names {last!r}, which exclude_last_layer=True leaves whole: take it out of the list, "
                "or pass exclude_last_layer=False"
            )
        _exclude(self, [last])
        return self.removal


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))


def _default(layers: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    there = {word for words in layers.values() for word in words}
    return [{"sparsity_per_layer": 0.1, "op_types": [name for name in ("Conv2d", "Linear") if name in there]}]


def _entries(entries: object) -> Sequence[Any]:
    if isinstance(entries, str):
        try:
            entries = json.loads(entries)
        except ValueError as error:
            raise ConfigError(f"config_list is no JSON: {error}") from None
    if not isinstance(entries, Sequence) or not entries:
        raise ConfigError(
            'config_list is a list of dicts such as [{"sparsity_per_layer": 0.5, "op_types": ["Conv2d"]}]'
        )
    return entries


def _check_entry(entry: object, where: str) -> None:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} is a dict, not {type(entry).__name__}")
    for key in entry:
        if key not in KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}.{nearest(key, KEYS)} Known are {', '.join(KEYS)}.")
    says = [key for key in ("sparsity_per_layer", "sparsity", "total_sparsity", "exclude") if key in entry]
    if len(says) > 1:
        raise ConfigError(f"{where}: {' and '.join(says)} contradict each other: one of them")
    if not says or entry.get("exclude") is False:
        raise ConfigError(f"{where} says no sparsity: give sparsity_per_layer, total_sparsity or exclude: True")
    if "max_sparsity_per_layer" in entry and says != ["total_sparsity"]:
        raise ConfigError(f"{where}: max_sparsity_per_layer has no effect without total_sparsity")
    if "exclude" in entry and entry["exclude"] is not True:
        raise ConfigError(f"{where}: exclude is True, not {entry['exclude']!r}")
    if not any(key in entry for key in SELECTORS):
        raise ConfigError(f"{where} names no layers: give {', '.join(SELECTORS[:-1])} or {SELECTORS[-1]}")
    for key in says:
        if key != "exclude":
            read_share(entry[key], f"{where}: {key}")


def _chosen(
    entry: Mapping[str, Any], layers: Mapping[str, Sequence[str]], modules: Sequence[str], where: str
) -> list[str]:
    """The layers that an entry means, in order."""
    for key in (*SELECTORS, *LEFT_OUT):
        words = entry.get(key, [])
        if (
            not isinstance(words, list | tuple)
            or not all(isinstance(w, str) for w in words)
            or (key in entry and not words)
        ):
            raise ConfigError(f"{where}: {key} is a list of names, not {words!r}")
    chosen = list(layers)
    if "op_types" in entry:
        types = set(_of_types(entry["op_types"], layers, where))
        chosen = [name for name in chosen if name in types]
    if any(key in entry for key in NAMES):
        names = set(_of_names(entry, layers, modules, where))
        chosen = [name for name in chosen if name in names]
    chosen = [name for name in chosen if name not in set(_left_out(entry, layers, modules, where))]
    if not chosen:
        raise ConfigError(f"{where}: no layer matches all of {', '.join(key for key in SELECTORS if key in entry)}")
    return chosen


def _of_types(types: Sequence[str], layers: Mapping[str, Sequence[str]], where: str) -> Iterator[str]:
    """The layers of these types. A type of torch's own that this model lacks is a note, as long as another one is there."""
    known = {word for words in layers.values() for word in words}
    lacking = [wanted for wanted in types if wanted != "default" and wanted not in known]
    for wanted in lacking:
        if len(lacking) == len(types) or not hasattr(nn, wanted):
            raise ConfigError(f"{where}: op_types: no layer is a {wanted!r}.{nearest(wanted, known)}")
        warnings.warn(f"{where}: op_types: no layer of this model is a {wanted}", stacklevel=5)
    for wanted in types:
        yield from (name for name, words in layers.items() if wanted == "default" or wanted in words)


def _of_names(
    entry: Mapping[str, Any], layers: Mapping[str, Sequence[str]], modules: Sequence[str], where: str
) -> Iterator[str]:
    for wanted in entry.get("op_names", ()):
        if wanted in layers:
            yield wanted
        elif wanted in modules:
            raise ConfigError(
                f"{where}: op_names: {wanted!r} has no output units of its own: name a layer with weights"
            )
        else:
            raise ConfigError(f"{where}: op_names: no layer is called {wanted!r}.{nearest(wanted, layers)}")
    for part in entry.get("op_partial_names", ()):
        matching = [name for name in layers if part in name]
        if not matching:
            raise ConfigError(f"{where}: op_partial_names: {part!r} is part of no layer's name.{nearest(part, layers)}")
        yield from matching

    for pattern in entry.get("op_names_re", ()):
        matching = [name for name in layers if _compiled(pattern, where).search(name)]
        if not matching:
            raise ConfigError(f"{where}: op_names_re: {pattern!r} matches no layer's name")
        yield from matching


def _compiled(pattern: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as problem:
        raise ConfigError(f"{where}: {pattern!r} is no regular expression: {problem}") from None


def _left_out(
    entry: Mapping[str, Any], layers: Mapping[str, Sequence[str]], modules: Sequence[str], where: str
) -> Iterator[str]:
    """The layers that NNI 3's ``exclude_op_…`` take out of the entry that they stand in."""
    yield from _of_types(entry.get("exclude_op_types", ()), layers, where)
    named = {key.removeprefix("exclude_"): entry[key] for key in LEFT_OUT[1:] if key in entry}
    yield from _of_names(named, layers, modules, where)


def _exclude(found: _Reading, chosen: Sequence[str]) -> None:
    for name in chosen:
        found.excluded.add(name)
        found.per_layer.pop(name, None)
    for number, total in found.totals.items():
        found.totals[number] = Total(
            share=total.share, most={n: s for n, s in total.most.items() if n not in found.excluded}
        )


def _say(found: _Reading, entry: Mapping[str, Any], number: int, chosen: Sequence[str]) -> None:
    where = f"config_list[{number}]"
    together = "total_sparsity" in entry
    sparsity = float(entry.get("total_sparsity", entry.get("sparsity_per_layer", entry.get("sparsity", 0.0))))
    for name in chosen:
        earlier = found.per_layer.get(name)
        other = earlier[1] if earlier else next((n for n, total in found.totals.items() if name in total.most), None)
        if other is not None and (together or earlier is None or earlier[0] != sparsity):
            raise ConfigError(
                f"{where} and config_list[{other}] say different things for {name!r}; to make an exception of it, "
                f'put {{"exclude": True, "op_names": [{name!r}]}} between them'
            )
    found.excluded -= set(chosen)
    found.named |= set(entry.get("op_names", ()))
    if together:
        found.totals[number] = Total(share=sparsity, most=_maxima(entry, chosen, sparsity, where))
    else:
        found.per_layer.update(dict.fromkeys(chosen, (sparsity, number)))


def _maxima(entry: Mapping[str, object], chosen: Sequence[str], sparsity: float, where: str) -> dict[str, float]:
    given = entry.get("max_sparsity_per_layer", MOST)
    what = f"{where}: max_sparsity_per_layer"
    if isinstance(given, Mapping):
        strange = [name for name in given if name not in chosen]
        if strange:
            raise ConfigError(f"{what}: {strange[0]!r} is no layer of this entry.{nearest(strange[0], chosen)}")
        most = {name: read_share(given[name], f"{what}: {name}") if name in given else MOST for name in chosen}
    else:
        most = dict.fromkeys(chosen, read_share(given, what))
    if max(most.values()) < sparsity:
        raise ConfigError(f"{what} is below total_sparsity = {sparsity}, which cannot be reached so")
    return most
