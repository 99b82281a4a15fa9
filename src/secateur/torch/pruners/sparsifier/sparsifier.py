"""`Sparsifier`: mask rows by a rule of your own, train under the masks, then narrow.

    sparsifier = Sparsifier(SaliencyRule(), {"sparsity_level": 0.5})
    sparsifier.prepare(model, [{"tensor_fqn": "seq.0.weight"}], dummy_input=x)
    sparsifier.step()          rows masked, and with them all that carries their units: biases, norms, inputs of the next layer
    …                          training goes on; further steps mask more
    model = sparsifier.prune()

Invariant: the model that `prune` returns computes what the masked one did (over exact widths), and has no parametrisation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from secateur.core.plan import Plan
from secateur.errors import ConfigError, InputError
from secateur.torch.apply import apply
from secateur.torch.narrowing.masks import (
    Mask,
    add_mask,
    check_name,
    hide_buffer,
    masks_of,
    place_of,
    remove_masks,
    show_buffers,
    tensor_of,
)
from secateur.torch.narrowing.slices import kept_mask, narrow_tensor
from secateur.torch.pruners.sparsifier.constants import add, constants
from secateur.torch.pruners.sparsifier.entries import Config, Entry, names_output, read_entries
from secateur.torch.pruners.sparsifier.mask_rules import RowScores, check_ranked, mask_lowest
from secateur.torch.pruners.sparsifier.units import Leftover, leftovers, plan_of_masks
from secateur.torch.running.distributed import unwrapped
from secateur.torch.running.restoring import all_or_nothing
from secateur.torch.running.walking import modules_of, named_parameters, parameters_of
from secateur.torch.trace import trace

MaskRule = Callable[..., None]  # as `Sparsifier.update_mask`


class Sparsifier:
    """Rows of named tensors are masked by a rule; what is masked everywhere is removed in the end.

    ``rule`` is a function with the arguments of `update_mask`, or one that ranks (`RowScores`); a subclass has its own
    `update_mask` in its place. ``defaults`` are keys for every entry of a configuration. State: the model with its masks,
    between `prepare` and `prune`.
    """

    enable_mask_update = True  # False: `step` does nothing

    def __init__(
        self,
        rule: MaskRule | RowScores | Mapping[str, object] | None = None,
        defaults: Mapping[str, object] | None = None,
    ) -> None:
        if isinstance(rule, Mapping):
            if defaults is not None:
                raise ConfigError("defaults are given twice")
            rule, defaults = None, rule
        overridden = type(self).update_mask is not Sparsifier.update_mask
        if (rule is None) is not overridden:
            raise ConfigError(
                "a rule is needed: pass a function or SaliencyRule(), or override update_mask in a subclass"
                if rule is None
                else f"{type(self).__name__} has an update_mask of its own, and a rule was passed: one of them"
            )
        if rule is not None and (isinstance(rule, type) or not (callable(rule) or isinstance(rule, RowScores))):
            raise ConfigError(f"a rule is a function or an object such as SaliencyRule(), not {rule!r}")
        self._rule, self._defaults = rule, dict(defaults or {})
        self._model: nn.Module | None = None

    def update_mask(self, module: nn.Module, tensor_name: str, **config: object) -> None:
        """Set entries of ``module.parametrizations[tensor_name][0].mask`` (``[rows]``, boolean) to False.

        ``tensor_name`` is the parameter's own name in the module.

        ``config`` is the tensor's entry with the defaults: ``tensor_fqn``, ``sparsity_level``, ``prune_bias``, free keys.
        """
        assert callable(self._rule)
        self._rule(module, tensor_name, **config)

    def prepare(self, model: nn.Module, config: Config | None = None, *, dummy_input: object) -> None:
        """Trace a ``model`` on ``dummy_input`` and attach masks that mask nothing yet.

        An entry of ``config`` has ``tensor_fqn`` (a parameter's name), and may have ``sparsity_level`` (0 to 1),
        ``prune_bias`` (True: a masked row has no bias) and keys of your own for the rule. None means every Linear,
        convolution and LSTM weight whose rows may go. Rows of the model's output go only where a tensor of them is named.

        Raises ConfigError naming an entry that cannot be used; the model is then unchanged.
        """
        if unwrapped(model) is not model:
            raise InputError(
                "a DistributedDataParallel would not synchronise what masks make of its parameters: prepare(model.module, …), "
                "and wrap that again to train"
            )
        if self._model is not None:
            raise InputError("this sparsifier has a model already: prune() it first, or make another sparsifier")
        if masks_of(model):
            raise InputError("the model has masks already: remove them first (secateur.pruners.remove_masks)")
        graph = trace(model, dummy_input)
        if names_output(graph, config):
            graph = trace(model, dummy_input, interface=False)
        entries = read_entries(model, graph, config, self._defaults)
        if not entries:
            raise ConfigError("there is nothing to mask: the model has no weight whose rows may go")
        if isinstance(self._rule, RowScores):
            for entry in entries:
                check_ranked(entry.config, self._rule)
        for name in sorted({use.tensor for width in graph.free for use in width.uses} & graph.parameters):
            check_name(name)
        self._model, self._graph, self._entries = model, graph, entries
        self._carriers: dict[str, Mask] = {}
        self._bias_masks: list[tuple[Entry, Mask]] = []
        try:
            for entry in entries:
                self._attach(model, entry)
        except BaseException:
            remove_masks(model, leave_zeros=False)
            self._model = None
            raise

    def step(self) -> None:
        """Let the rule mask rows; what then can go is masked wherever it is."""
        model = self._prepared()
        if not self.enable_mask_update:
            return
        if isinstance(self._rule, RowScores):
            mask_lowest(self._rule, self._entries, self._graph)
        else:
            for entry in self._entries:
                self.update_mask(entry.module, entry.tensor_name, **entry.config)
        self._spread(model, self.plan)

    @property
    def plan(self) -> Plan:
        """What `prune` would do now."""
        self._prepared()
        return plan_of_masks(self._entries, self._graph)

    @property
    def leftovers(self) -> tuple[Leftover, ...]:
        """Masked rows that would stay, as zeros, and why."""
        return tuple(leftovers(self._entries, self.plan))

    def prune(self, *, verify: bool = True) -> nn.Module:
        """Narrow the model in place and take the masks off; `plans_of` has the plan. ``verify`` proves the result.

        Warns of masked rows that stay. Where something fails the model keeps its masks.
        """
        model = self._prepared()
        with self._masked_again_on_error(model):
            add(model, constants(model, self._entries, self._graph, self.plan))
            plan = self.plan
            self._spread(model, plan)
            zeros = masks_of(model)
            remove_masks(model, leave_zeros=False)
            apply(model, plan, in_place=True, verify=verify)
        _leave_zeros(model, plan, zeros)
        self._model = None
        for leftover in leftovers(self._entries, plan):
            warnings.warn(str(leftover), stacklevel=2)
        return model

    def _prepared(self) -> nn.Module:
        if self._model is None:
            raise InputError("no model is prepared: call prepare(model, config, dummy_input=…) first")
        return self._model

    def _attach(self, model: nn.Module, entry: Entry) -> None:
        """Row masks on a tensor, under all of its names, and on its bias."""
        weight = entry.weight
        rows = torch.ones(len(weight), dtype=torch.bool)
        names = [name for name, p in named_parameters(model) if p is weight]
        for name in sorted(names, key=lambda name: name != entry.fqn):
            entry.masks.append(add_mask(*place_of(model, name), rows, axis=0))
        if entry.bias is not None and entry.prune_bias:
            self._bias_masks.append((entry, add_mask(*place_of(model, entry.bias), rows, axis=0)))

    def _spread(self, model: nn.Module, plan: Plan) -> None:
        """Let the row masks hold under all names and for biases, and mask all that the plan removes."""
        for entry in self._entries:
            for mask in entry.masks[1:]:
                mask.mask = entry.mask
        for entry, mask in self._bias_masks:
            mask.mask = entry.mask
        show_buffers(model)
        for name, layout in plan.layouts.items():
            module, key = place_of(model, name)
            if name not in self._carriers and not plan.narrows(name):
                continue
            tensor = tensor_of(model, name)
            if tensor is None or not tensor.is_floating_point():
                continue
            mask = kept_mask(tensor, layout, plan.arrays)
            if not isinstance(tensor, nn.Parameter):
                hide_buffer(module, key, mask)
            elif name in self._carriers:
                self._carriers[name].mask = mask
            else:
                self._carriers[name] = add_mask(module, key, mask)

    @contextmanager
    def _masked_again_on_error(self, model: nn.Module) -> Iterator[None]:
        classes = [(module, type(module)) for module in modules_of(model)]
        weights = {
            id(p): (p, p.detach().clone()) for p in parameters_of(model) if p.dim() == 1
        }  # constants go into biases
        try:
            with all_or_nothing(model):
                yield
        except BaseException:
            for module, kind in classes:
                module.__class__ = kind
            for parameter, values in weights.values():
                parameter.data.copy_(values)
            for entry in self._entries:
                entry.folded = False
            self._spread(model, self.plan)
            raise


@torch.no_grad()
def _leave_zeros(model: nn.Module, plan: Plan, masks: Mapping[str, torch.Tensor]) -> None:
    """Zeros in what stayed of the masked entries."""
    for name, mask in masks.items():
        kept = narrow_tensor(mask, plan.layouts[name], plan.arrays)
        if not bool(kept.all()):
            model.get_parameter(name).masked_fill_(~kept, 0)
