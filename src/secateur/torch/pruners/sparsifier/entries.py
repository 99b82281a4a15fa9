"""What a configuration asks for, tensor by tensor.

    {"tensor_fqn": "seq.0.weight", "sparsity_level": 0.5, "my_key": 3}   ->   Entry(module, "weight", mask of its rows, …)

Invariant: every entry is a floating-point parameter that the graph knows, and no parameter has two entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.core.graph import Graph
from secateur.core.layout import Axis
from secateur.errors import ConfigError, nearest
from secateur.torch.narrowing.masks import Mask
from secateur.torch.running.walking import modules_of, named_parameters

Config = Sequence[Mapping[str, object]]  # as the user writes it, an entry a tensor

OUTPUT = "the model's output"  # why a trace freezes it


@dataclass(kw_only=True)
class Entry:
    """One configured tensor. A row is an index of its first dimension, ``axis``.

    ``config`` is what the rule gets; ``level`` is its ``sparsity_level``, if it has one; ``bias`` names the tensor that adds a
    constant to each row, if there is one. State: ``masks`` are the row masks, once attached, that of the tensor under its own
    name first; ``folded`` says that constants of masked rows went into what follows, ``constant`` else why not.
    """

    fqn: str
    module: nn.Module
    tensor_name: str
    axis: Axis
    bias: str | None
    config: Mapping[str, object]
    level: float | None
    prune_bias: bool
    frozen: str | None
    masks: list[Mask] = field(default_factory=list)
    folded: bool = False
    constant: str = "what follows reads them"

    @property
    def leaves_nothing(self) -> bool:
        """Whether a masked row gives zero, or a constant that is taken care of."""
        return self.prune_bias or self.bias is None or self.folded

    @property
    def mask(self) -> torch.Tensor:
        """True for the rows that are kept."""
        return self.masks[0].mask

    @property
    def weight(self) -> torch.Tensor:
        """The weight as it is under the masks."""
        return getattr(self.module, self.tensor_name)


def read_entries(model: nn.Module, graph: Graph, config: Config | None, defaults: Mapping[str, object]) -> list[Entry]:
    """The entries of a configuration; without one, every Linear, convolution and LSTM weight whose rows are free.

    Raises ConfigError naming the entry for anything that is not as `Sparsifier.prepare` says.
    """
    if config is None:
        config = [{"tensor_fqn": fqn} for fqn in _weights_by_type(model)]
        entries = [_read(model, graph, item, defaults) for item in config]
        return [entry for entry in entries if entry.frozen is None]
    if isinstance(config, Mapping | str) or not all(isinstance(c, Mapping) for c in config):
        raise ConfigError('config is a list of dicts such as [{"tensor_fqn": "conv1.weight", "sparsity_level": 0.5}]')
    entries = [_read(model, graph, item, defaults) for item in config]
    named: dict[int, str] = {}
    for entry in entries:
        other = named.get(id(entry.weight))
        if other is not None:
            same = "is there twice" if other == entry.fqn else f"and {other} are one parameter: name one of them"
            raise ConfigError(f"config: {entry.fqn} {same}")
        named[id(entry.weight)] = entry.fqn
    return entries


def names_output(graph: Graph, config: Config | None) -> bool:
    """Whether a configuration names a tensor whose rows are the model's output."""
    return any(isinstance(c, Mapping) and _frozen(graph, str(c.get("tensor_fqn"))) == OUTPUT for c in config or ())


def bias_of(model: nn.Module, graph: Graph, fqn: str) -> str | None:
    """The bias that goes with the rows of a weight, if there is one."""
    module = model.get_submodule(fqn.rpartition(".")[0])
    bias = fqn.removesuffix(fqn.rpartition(".")[2]) + fqn.rpartition(".")[2].replace("weight", "bias")
    if bias == fqn or isinstance(module, _ConvTransposeNd) or graph.layouts.get(bias) != graph.layouts[fqn][:1]:
        return None
    return bias


def _read(model: nn.Module, graph: Graph, item: Mapping[str, object], defaults: Mapping[str, object]) -> Entry:
    config = {"prune_bias": True, **defaults, **item}
    fqn, level, prune_bias = config.get("tensor_fqn"), config.get("sparsity_level"), config["prune_bias"]
    parameters = dict(named_parameters(model))
    if not isinstance(fqn, str):
        raise ConfigError('config: every entry names its tensor, {"tensor_fqn": "conv1.weight"}')
    if fqn not in parameters or fqn not in graph.layouts:
        raise ConfigError(f"config: no parameter is called {fqn!r}.{nearest(fqn, parameters)}")
    if not parameters[fqn].is_floating_point() or parameters[fqn].dim() == 0:
        raise ConfigError(f"config: {fqn} has no rows of numbers to mask")
    if isinstance(level, bool) or not isinstance(level, int | float | None) or not 0 <= (level or 0) <= 1:
        raise ConfigError(f"config: {fqn}: sparsity_level is a share from 0 to 1, not {level!r}")
    if not isinstance(prune_bias, bool):
        raise ConfigError(f"config: {fqn}: prune_bias is True or False, not {prune_bias!r}")
    prefix, _, name = fqn.rpartition(".")
    module = model.get_submodule(prefix)
    return Entry(
        fqn=fqn,
        module=module,
        tensor_name=name,
        axis=graph.layouts[fqn][0],
        bias=bias_of(model, graph, fqn),
        config=config,
        level=level,
        prune_bias=prune_bias,
        frozen=_frozen(graph, fqn),
    )


def _frozen(graph: Graph, fqn: str) -> str | None:
    """Why no row of this tensor can go, or None."""
    here = [w for w in graph.widths if any(use.tensor == fqn and use.axis == 0 for use in w.uses)]
    if any(width.frozen is None for width in here):
        return None
    return next((w.frozen for w in here), "no width of the network runs along its rows")


def _weights_by_type(model: nn.Module) -> Iterator[str]:
    parameters = {id(p): name for name, p in reversed(list(named_parameters(model, once=True)))}
    for module in modules_of(model):
        if isinstance(module, nn.Linear | nn.LSTM | _ConvNd) and not isinstance(module, _ConvTransposeNd):
            for name, parameter in module._parameters.items():
                if name.startswith("weight") and parameter is not None and id(parameter) in parameters:
                    yield parameters.pop(id(parameter))
