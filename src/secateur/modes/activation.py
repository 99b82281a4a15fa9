"""``mode="activation"``: keep the units that are active on data, so many of each layer.

    batches ──► APoZ or mean rank of every unit ──► remove: this share of these layers goes ──► plan

A share is of a layer's output units. Layers that share a width (a residual stream) share what is kept: all that reads it
speaks for its units, and the smallest share that any of the listed layers gives up holds.

Invariant: no layer loses more than its share; a budget, where one is given too, is met or refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from pydantic import Field, model_validator

from secateur.core.plan import Plan
from secateur.errors import ConfigError
from secateur.modes.task import MODES, CriterionOption, Mode, Task
from secateur.search.allocate import keep_best
from secateur.search.evidence import Evidence, Found
from secateur.search.layer_sparsity import Layer, Removal, counts_of, layers_of, read_removal
from secateur.search.limits import restrict
from secateur.search.ranked import Ranked, plan_within, scored
from secateur.search.refusal import check_within

_TENTH = {"nn.Conv2d": 0.1, "nn.Linear": 0.1}


@MODES.add("activation")
class Activation(Mode):
    """Options of the activation mode, beside those of all modes: the units that are least active go."""

    criterion: CriterionOption = "apoz"
    """What says how active a unit is."""
    remove: Mapping[str, float] | Removal = Field(default_factory=dict)
    """Layers, by name, type or pattern, and the share of their units that goes; the last match counts. Without it a tenth."""
    totals: Sequence[Mapping[str, Any]] = ()
    """Shares of several layers together: {"share": 0.2, "layers": ["nn.Linear"], "most": 0.9}, lowest units first."""

    @property
    def needs_budget(self) -> bool:
        """The shares of layers say how much goes."""
        return False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.steps != 1:
            raise ValueError("steps has no effect on shares of layers: leave it at 1")
        return self

    def search(self, task: Task) -> Found:
        """Score once, take the share of each layer."""
        layers = layers_of(task.graph, task.frontend.output_axis)
        removal = self._removal(layers)
        judge = task.frontend.judge(self.criterion)
        task.tell(0.2, f"scoring with {judge.described['name']}")
        ranked = scored(restrict(task.graph, self.limits()), judge)
        left = _left_whole(removal, layers, ranked)
        found = plan_within(
            ranked.search_space,
            ranked.search_space,
            lambda space: keep_best(space, ranked.scores, counts_of(removal, layers, space, ranked.scores)),
        )
        way_out = "Raise its shares or the bound, or leave the bound out."
        check_within(task.graph, task.budget, found.sizes, chosen_by="remove", way_out=way_out)
        plan = replace(found, provenance=_record(task, ranked, removal, found, left))
        return Found(plan=plan, evidence=Evidence(method="activation"))

    def _removal(self, layers: Mapping[str, Layer]) -> Removal:
        if isinstance(self.remove, Removal):
            return self.remove
        there = {word for layer in layers.values() for word in layer.types}
        usual = {} if self.totals else {kind: share for kind, share in _TENTH.items() if kind in there}
        return read_removal(self.remove or usual, self.totals, layers)


def _record(task: Task, ranked: Ranked, removal: Removal, plan: Plan, left: Mapping[str, str]) -> dict[str, Any]:
    return {
        "mode": "activation",
        "criterion": ranked.made_by,
        "remove": dict(removal.per_layer),
        "totals": [{"share": total.share, "layers": list(total.most)} for total in removal.totals],
        "left_whole": dict(left),
        "budget": task.budget.to_json(),
        "costs": {metric: int(task.graph.cost(metric, plan.sizes)) for metric in task.graph.costs},
    }


def _left_whole(removal: Removal, layers: Mapping[str, Layer], ranked: Ranked) -> dict[str, str]:
    """The listed layers of which nothing can go, with the reason. Raises ConfigError where one is named, or all are such."""
    reasons: dict[str, str] = {}
    for name in removal.layers:
        widths = [ranked.search_space[width] for width in layers[name].weights]
        if not any(width.frozen is None and width.name in ranked.scores for width in widths):
            reasons[name] = next((w.frozen for w in widths if w.frozen), layers[name].frozen)
    all_of_them = len(reasons) == len(removal.layers)
    blocked = next((name for name in reasons if name in removal.named or all_of_them), None)
    if blocked is not None:
        raise ConfigError(f"remove: {blocked!r} cannot be pruned: {reasons[blocked]}")
    return reasons
