"""``mode="minitron"``: smaller widths for a language model, ranked by activations on calibration text.

    score widths where they are read ──► sizes that were asked for, or the best under the budget ──► plan

Sizes are given as a configuration, ``{"export_config": {"hidden_size": 2048, "ffn_hidden_size": 5632}}``, or searched: all
uniform networks under the budget are weighed by what they keep of their scores, and ``score_func`` decides among the first.

Invariant: with ``uniform``, all blocks of a stack have the same widths, other units each, as a configuration can say it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, Self

from pydantic import Field, model_validator

from secateur.core.depth import LAYERS, Depth
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.profile import minimum
from secateur.errors import ConfigError, Infeasible, InputError
from secateur.modes.task import MODES, CriterionOption, Mode, Task
from secateur.search.allocate import allocate
from secateur.search.asked import sizes_asked
from secateur.search.blocks import fewest_missed
from secateur.search.chosen import best_of
from secateur.search.depths import depths_of, sayable_depths
from secateur.search.evidence import Evidence, Found
from secateur.search.grid import proposed
from secateur.search.journal import Journal
from secateur.search.limits import restrict
from secateur.search.measured import Measured
from secateur.search.ranked import Ranked, judged, plan_within, planned
from secateur.search.refusal import check_reachable, check_within
from secateur.search.roles import layers_asked
from secateur.search.sayable import ratios, sayable, ties_of_field
from secateur.search.ties import Tie, counts_of, ties_of, uniform

_TRIED = 8  # other counts, where a configuration cannot say what is asked for


@MODES.add("minitron")
@MODES.add("mcore_minitron")
@MODES.add("mcore_gpt_minitron")
class Minitron(Mode):
    """Options of the minitron mode, beside those of all modes: sizes in ``export_config``, or a budget to search under."""

    criterion: CriterionOption = "activation_norm"
    """What scores a unit; ActivationNorm says with batch and sequence how activations are summed up."""
    export_config: dict[str, Any] = Field(default_factory=dict)
    """Sizes by the names of Megatron or of a Hugging Face configuration; among the constraints, too."""
    uniform: bool = True
    """One size for all layers, so that a configuration can say it; False gives each its own."""
    score_func: Callable[..., Any] | None = None
    """score_func(model), higher is better, chooses among the candidates; without it the first is taken."""
    top_k: int = Field(default=10, ge=1)
    """How many candidates, those that keep most of their scores, are measured."""
    max_width_pruning: float = Field(default=0.4, gt=0, lt=1)
    """The largest share that any width may lose in a search, as long as the budget can be met so."""
    max_depth_pruning: float = Field(default=0.2, gt=0, lt=1)
    """The same of the layers, where ``depth`` lets them go."""
    seed: int = Field(default=0, ge=0)
    """What scoring begins with."""

    @model_validator(mode="after")
    def _sizes_at_once(self) -> Self:
        if self.export_config and self.steps > 1:
            raise ValueError("export_config is reached in one step: leave steps at 1")
        return self

    def with_constraints(self, constraints: Mapping[str, Any] | None) -> tuple[Mode, Mapping[str, Any] | None]:
        """Take the export configuration out of the constraints. Raises ConfigError where it stands in both places."""
        given = dict(constraints or {})
        export = given.pop("export_config", None)
        if export is None:
            return self, constraints
        if self.export_config:
            raise ConfigError("export_config is given among the constraints and in config: once is enough")
        if not isinstance(export, Mapping) or not export:
            raise ConfigError('export_config is written as {"hidden_size": 2048, "ffn_hidden_size": 5632}')
        return type(self)(**{**dict(self), "export_config": dict(export)}), given or None

    @property
    def needs_budget(self) -> bool:
        """Sizes make a budget unnecessary."""
        return not self.export_config

    @property
    def looks_for_blocks(self) -> Depth:
        """Also where a number of layers is asked for."""
        return self.depth or bool(layers_asked(self.export_config))

    def search(self, task: Task) -> Found:
        """Score once; take the sizes asked for, or the best that the budget allows."""
        search_space = restrict(task.graph, self.limits())
        search_space = uniform(search_space) if self.uniform else search_space
        check_reachable(search_space, task.budget)
        judge = task.frontend.judge(self.criterion, seed=self.seed)
        task.tell(0.1, f"scoring with {judge.described['name']}")
        ranked = judged(search_space, judge)
        check_reachable(ranked.search_space, task.budget)
        if self.export_config:
            return self._as_asked(task, ranked)
        return self._searched(task, ranked) if self.uniform else self._each_its_own(task, ranked)

    def _as_asked(self, task: Task, ranked: Ranked) -> Found:
        space, sizes = uniform(ranked.search_space), dict(self.export_config)
        drops: dict[str, tuple[int, ...]] = {}
        for layers in layers_asked(sizes):
            drops |= dict.fromkeys(fewest_missed(space, ranked.scores, layers, sizes.pop(layers)), ())
        chosen = sizes_asked(sizes, space, lambda name: ties_of_field(name, space, task.frontend.said))

        def left_by(counts: Mapping[str, int]) -> Plan:
            kept = ranked.kept(counts_of(counts, ties_of(space)))
            return task.graph.plan({**{name: kept[name] for name in kept if task.graph[name].kind != LAYERS}, **drops})

        plan = left_by(chosen)
        reason = task.frontend.said(plan)[1] if self.uniform else None
        if reason is not None:
            near = _nearest_said(chosen, ties_of(space), lambda counts: task.frontend.said(left_by(counts))[1] is None)
            raise InputError(
                f"export_config: the model's configuration cannot say these sizes ({reason}).{near} Ask for sizes that go "
                "together (heads × head width = hidden, where it has no field for the head width), or give uniform=False."
            )
        way_out = "Ask for smaller sizes, raise the bound, or leave one of the two out."
        check_within(task.graph, task.budget, plan.sizes, chosen_by="export_config", way_out=way_out)
        return Found(plan=self._recorded(task, ranked, plan), evidence=Evidence(method="minitron"))

    def _searched(self, task: Task, ranked: Ranked) -> Found:
        task.tell(0.4, "asking what a configuration can say")
        ties, unsaid = sayable(uniform(ranked.search_space), task.frontend.said)
        depths, whole = sayable_depths(depths_of(ranked.search_space, ranked.scores), task.graph, task.frontend.said)
        ties, unsaid = (*ties, *depths), {**unsaid, **whole}
        space = ranked.search_space.frozen(
            unsaid, "the model's configuration cannot say it; uniform=False gives each layer widths of its own"
        )
        check_reachable(space, task.budget)
        plans = self._proposed(task, ranked, space, ties)
        task.tell(0.6, f"{len(plans)} networks to choose from")
        if self.score_func is None:
            plan, evidence = next(iter(plans.values())), Evidence(method="minitron")
            return Found(plan=self._recorded(task, ranked, plan, unsaid), evidence=evidence)
        measure = task.frontend.evaluator(self.score_func, seed=self.seed)
        with Journal.open(None, {}) as journal:
            measured = Measured(journal, measure, task.frontend.ranks)
            _, plan, candidates = best_of(plans, measured, task.graph)
        evidence = Evidence(method="minitron", candidates=candidates, num_measured=measured.num_made)
        return Found(plan=self._recorded(task, ranked, plan, unsaid), evidence=evidence)

    def _proposed(self, task: Task, ranked: Ranked, space: Graph, ties: Sequence[Tie]) -> dict[str, Plan]:
        """The best networks by prediction that a configuration can say: within ``max_width_pruning`` if there are such."""
        top, found = (self.top_k if self.score_func else 1), dict[str, Plan]()
        most = {LAYERS: self.max_depth_pruning}
        for within in ([_near(tie, 1 - most.get(tie.kind, self.max_width_pruning)) for tie in ties], ties):
            admits = partial(_admitted, task.frontend.admits, within)
            for chosen in proposed(space, within, ranked.scores, task.budget, top=2 * top, admits=admits):
                plan = planned(ranked, lambda _, one=chosen, these=within: counts_of(one, these), task.graph)
                if task.frontend.said(plan)[1] is None:
                    found[f"#{len(found) + 1}"] = plan
                if len(found) == top:
                    return found
            if found:
                return found
        raise Infeasible(
            "no network that the model's configuration can say meets the constraints. uniform=False gives each layer widths "
            "of its own, which secateur.hf.save_pretrained keeps.",
            metric=task.budget.entries[0].metric,
            bound=task.budget.entries[0].most,
            reachable=int(task.budget.costs(space, minimum(space))[task.budget.entries[0].metric]),
        )

    def _each_its_own(self, task: Task, ranked: Ranked) -> Found:
        plan = plan_within(
            task.graph,
            ranked.search_space,
            lambda space: allocate(space, ranked.scores, task.budget, allocation="local"),
        )
        return Found(plan=self._recorded(task, ranked, plan), evidence=Evidence(method="minitron"))

    def _recorded(self, task: Task, ranked: Ranked, plan: Plan, unsaid: Mapping[str, str] | None = None) -> Plan:
        record = {
            "mode": "minitron",
            "criterion": ranked.made_by,
            "not_scored": list(ranked.not_scored),
            "left_whole": dict(unsaid or {}),
            "uniform": self.uniform,
            "export_config": dict(self.export_config),
            "budget": task.budget.to_json(),
            "costs": {metric: int(task.graph.cost(metric, plan.sizes)) for metric in task.graph.costs},
        }
        return replace(plan, provenance=record)


def _near(tie: Tie, least: float) -> Tie:
    """The tie with the choices that leave at least this share of it."""
    return replace(tie, choices=tuple(c for c in tie.choices if c >= least * tie.size) or tie.choices[-1:])


def _nearest_said(asked: Mapping[str, int], ties: Sequence[Tie], can: Callable[[Mapping[str, int]], bool]) -> str:
    """One count that is another, the nearest one, so that a configuration can say them all; found by trying a few."""
    open_to = [tie for tie in ties if tie.name in asked and asked[tie.name] != tie.size]
    for tie in open_to:
        others = sorted(set(tie.choices) - {asked[tie.name], tie.size}, key=lambda count: abs(count - asked[tie.name]))
        for count in others[:_TRIED]:
            if can({**asked, tie.name: count}):
                return f" It can with {count} instead of {asked[tie.name]} for {tie.name}."
    whole = next((tie for tie in open_to if can({**asked, tie.name: tie.size})), None)
    return "" if whole is None else f" It can with {whole.name} left as it is."


def _admitted(admits: Callable[[Mapping[str, Fraction]], bool], ties: Sequence[Tie], chosen: Mapping[str, int]) -> bool:
    return admits(ratios(chosen, ties))
