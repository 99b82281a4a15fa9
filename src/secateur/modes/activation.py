"""``mode="activation"``: NNI's activation pruners. Keep the units that are active on data, so many of each layer.

    batches ──► APoZ or mean rank of every unit ──► config_list: this share of these layers goes ──► plan

The sparsity is of a layer's output units. Layers that share a width (a residual stream) share what is kept: all that reads
it speaks for its units, and the smallest sparsity that any of the listed layers asks for holds. That is so in either
``mode``: what is coupled cannot be narrowed apart.

Invariant: no layer loses more than its share; a budget, where one is given too, is met or refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from secateur.compat.nni import Sparsities, read_config_list
from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.core.plan import Plan
from secateur.errors import Coincidence, ConfigError, Infeasible
from secateur.modes.task import MODES, Mode, Task
from secateur.search.allocate import keep_best
from secateur.search.layer_sparsity import Layer, counts_of, layers_of
from secateur.search.limits import restrict
from secateur.torch.criteria.protocol import make
from secateur.torch.running.data import Data


@MODES.add("activation")
class Activation(Mode):
    """Options of the activation mode.

    ``config_list`` is NNI's (`secateur.compat.nni`), or its JSON text; without one a tenth of every Conv2d and Linear
    goes. ``training_steps`` is the number of batches looked at. ``activation`` is applied to what a layer gives; None takes
    the activations as they are in the network. ``exclude_last_layer`` leaves the last Linear whole.
    """

    needs_budget: ClassVar[bool] = False

    pruner_type: Literal["apoz", "mean_rank"] = "apoz"
    mode: Literal["normal", "dependency_aware"] = "normal"
    training_steps: int | None = Field(default=None, ge=1)
    activation: Literal["relu", "relu6", "gelu", "silu"] | None = None
    config_list: Any = None
    exclude_last_layer: bool = True

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.data_loader is None and self.forward_loop is None:
            raise ValueError("the activation mode looks at data: give a data_loader or a forward_loop")
        if self.training_steps is not None and "num_batches" in self.model_fields_set:
            raise ValueError("training_steps and num_batches are the same thing: one of them")
        if self.steps != 1:
            raise ValueError("steps has no effect on shares of layers: leave it at 1")
        return self

    def data(self, model: nn.Module) -> Data | None:
        """The batches, ``training_steps`` of them."""
        asked = self if self.training_steps is None else self.model_copy(update={"num_batches": self.training_steps})
        return Mode.data(asked, model)

    def search(self, task: Task) -> Plan:
        """Score once, take the share of each layer."""
        layers = layers_of(task.graph, task.model)
        types = {layer.name: layer.types for layer in layers.values()}
        said = read_config_list(self.config_list or _default(types), types, list(task.graph.module_types))
        if self.exclude_last_layer:
            said = _without_last(said, task.model)
        space = restrict(task.graph, self.limits())
        task.tell(0.2, f"scoring with {self.pruner_type}")
        criterion = make(self.pruner_type, task.data)
        if self.activation is not None:
            criterion = replace(criterion, activation=self.activation)  # type: ignore[type-var]
        scores = criterion(space, task.model)
        left = _left_whole(said, layers, space, scores)
        found = _plan(space, scores, counts_of(said, layers, space, scores))
        _check_budget(task, found)
        return replace(found, provenance=self._record(task, said, found, left))

    def _record(self, task: Task, said: Sparsities, found: Plan, left: Mapping[str, str]) -> dict[str, Any]:
        return {
            "mode": "activation",
            "criterion": {"name": self.pruner_type, "activation": self.activation},
            "sparsity_per_layer": dict(said.per_layer),
            "total_sparsity": [{"sparsity": total.sparsity, "layers": list(total.most)} for total in said.totals],
            "excluded": sorted(said.excluded),
            "left_whole": dict(left),
            "budget": None if task.budget is None else task.budget.to_json(),
            "costs": {metric: int(task.graph.cost(metric, found.sizes)) for metric in task.graph.costs},
        }


def _default(types: Mapping[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    there = {word for words in types.values() for word in words}
    return [{"sparsity_per_layer": 0.1, "op_types": [name for name in ("Conv2d", "Linear") if name in there]}]


def _without_last(said: Sparsities, model: nn.Module) -> Sparsities:
    """The list with the last Linear left whole."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        return said
    last = linear[-1]
    if last in said.named:
        raise ConfigError(
            f"config_list names {last!r}, which exclude_last_layer=True leaves whole: take it out of the list, "
            "or pass exclude_last_layer=False"
        )
    totals = (replace(t, most={name: most for name, most in t.most.items() if name != last}) for t in said.totals)
    return replace(
        said,
        per_layer={name: sparsity for name, sparsity in said.per_layer.items() if name != last},
        totals=tuple(total for total in totals if total.most),
        excluded=said.excluded | {last},
    )


def _left_whole(
    said: Sparsities, layers: Mapping[str, Layer], space: Graph, scores: Mapping[str, Values]
) -> dict[str, str]:
    """The listed layers of which nothing can go, with the reason. Raises ConfigError where one is named, or all are such."""
    meant = dict.fromkeys([*said.per_layer, *(name for total in said.totals for name in total.most)])
    reasons: dict[str, str] = {}
    for name in meant:
        widths = [space[width] for width in layers[name].weights]
        if not any(width.frozen is None and width.name in scores for width in widths):
            reasons[name] = next((w.frozen for w in widths if w.frozen), layers[name].frozen)
    blocked = next((name for name in reasons if name in said.named or len(reasons) == len(meant)), None)
    if blocked is not None:
        raise ConfigError(f"config_list: {blocked!r} cannot be pruned: {reasons[blocked]}")
    return reasons


def _plan(space: Graph, scores: Mapping[str, Values], counts: dict[str, int]) -> Plan:
    while True:
        try:
            return space.plan(keep_best(space, scores, counts))
        except Coincidence as coincidence:
            width, least = space[coincidence.width], coincidence.count + 1
            counts[width.name] = min((c for c in width.choices if c >= least), default=width.size)


def _check_budget(task: Task, found: Plan) -> None:
    if task.budget is None:
        return
    for metric, cost in task.budget.costs(task.graph, found.sizes).items():
        if cost > task.budget.bounds[metric]:
            raise Infeasible(
                f"config_list leaves {metric} = {int(cost):,}, more than the bound {int(task.budget.bounds[metric]):,}. "
                "Raise its sparsities or the bound, or leave the bound out.",
                metric=metric,
                bound=task.budget.bounds[metric],
                reachable=int(cost),
            )
