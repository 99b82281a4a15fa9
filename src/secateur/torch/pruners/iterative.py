"""Iterative pruning: measure once how much each width matters, then prune to any ratio, in rounds with training between.

    pruner = IterativePruner(model, dummy_input)
    pruner.analyze(eval_fn, (loader,))                  every width alone at a few counts; once, resumable
    for ratio in schedule("agp", 5, 0.6):
        train(pruner.prune(ratio))                      masks; the same parameters, the same optimizer
    small = pruner.slim()                               narrowed

Ratios are of the original network's MACs, however many rounds there were.

Invariant: units once masked stay masked, so the kept sets of later rounds lie within those of earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from secateur.core.budget import Budget
from secateur.core.graph import Graph, Width
from secateur.core.plan import Plan
from secateur.errors import ArtifactError, InputError, PlanError
from secateur.progress import progress
from secateur.search.curves import Sensitivity, measured_counts
from secateur.search.journal import Journal
from secateur.search.limits import Limits, restrict
from secateur.search.ranked import Ranked, budget_of, frozen_unless, gives_back, judged, planned, within
from secateur.search.threshold import Objective, choose
from secateur.torch.apply import apply
from secateur.torch.criteria.protocol import Criterion, make
from secateur.torch.evaluating.score import EvalFn, check_args, judging, score_of
from secateur.torch.narrowing.masks import mask_plan, remove_masks
from secateur.torch.narrowing.subnet import subnet
from secateur.torch.running.data import Collect, first_of
from secateur.torch.running.digests import described, digest_of_weights
from secateur.torch.trace import trace

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class IterativePruner:
    """Prune ``model`` in rounds. ``dummy_input`` is an example input; ``criterion`` says which units of a width go first.

    It has state because the masks of one round bind the next: ``plan`` is what was decided last (None before), and
    ``sensitivity`` what `analyze` measured.
    """

    def __init__(self, model: nn.Module, dummy_input: Any, *, criterion: str | Criterion = "l1") -> None:
        self.model = model
        self.graph = trace(model, dummy_input)
        self.plan: Plan | None = None
        self.sensitivity: Sensitivity | None = None
        self._criterion = make(criterion)

    def analyze(
        self,
        eval_fn: EvalFn,
        args: Sequence[Any] = (),
        *,
        path: str | Path | None = None,
        ratios: Sequence[float] = RATIOS,
        exclude: Collection[str] = (),
        data_loader: Iterable[Any] | None = None,
        num_batches: int = 50,
        collect_func: Collect = first_of,
    ) -> Sensitivity:
        """Measure ``eval_fn(model, *args)``, higher is better, with each width alone narrowed by each of ``ratios``.

        With a ``data_loader`` batch-norm statistics are measured again for each network, over ``num_batches``. With a
        ``path`` (a file or a folder) every result is kept there: nothing finished is measured twice, in no later run.
        ``exclude`` are names or patterns of what is left alone. The model is not changed.

        Raises InputError for arguments that cannot be used, ArtifactError where the file is of another analysis.
        """
        _check_ratios(ratios)
        check_args(args, "args")
        calibration: dict[str, Any] = {} if data_loader is None else {"data_loader": data_loader}
        calibration |= {"num_batches": num_batches, "collect_func": collect_func}
        header = {
            "method": "iterative",
            "model": self.graph.fingerprint,
            "criterion": [self._criterion.name, described(self._criterion)],
            "data": [described(eval_fn), described(tuple(args)), described(data_loader), num_batches],
        }
        with self._bare(), Journal.open(path, header) as journal, progress("analyze") as tell:
            space = judged(restrict(self.graph, Limits(exclude=exclude)), self._criterion, self.model)
            measure = _Measure(self.model, space, journal, eval_fn, tuple(args), calibration)
            self.sensitivity = measure.all(ratios, tell)
        return self.sensitivity

    def prune(
        self,
        removal_ratio: float | None = None,
        *,
        mode: str = "sparse",
        threshold: float | None = None,
        exclude: Collection[str] = (),
        multiple_of: int = 1,
        objective: Objective = "largest",
    ) -> nn.Module:
        """Remove ``removal_ratio`` of the original network's MACs, or whatever loses at most ``threshold`` of the score.

        ``mode="sparse"`` masks the model in place and returns it, to be trained further; ``"slim"`` returns a narrowed
        copy and leaves the model as it is. ``multiple_of`` rounds what stays of each width. To meet a ratio the ``"largest"``
        loss of any width is made small, or with ``objective="sum"`` the sum of all losses.

        Raises InputError for arguments that cannot be used, Infeasible where no network is small enough.
        """
        if mode not in ("sparse", "slim"):
            raise InputError(f"mode is 'sparse' (masks) or 'slim' (narrowed), not {mode!r}")
        if objective not in get_args(Objective):
            raise InputError(f"objective is one of {', '.join(get_args(Objective))}, not {objective!r}")
        with self._bare():
            target = _target(removal_ratio, threshold, self.graph)
            plan = self._decided(target, Limits(exclude=exclude, multiple_of=multiple_of), objective)
            if mode == "slim":
                return apply(self.model, plan)
            self.plan = plan
        return self.model

    def slim(self) -> nn.Module:
        """What `prune` masked so far, narrowed: a new model. Raises InputError where nothing was pruned."""
        with self._bare():
            return apply(self.model, self._pruned())

    def slim_state_dict(self) -> dict[str, torch.Tensor]:
        """The state dict of `slim` (copies), for checkpoints while training goes on under masks.

        Nothing is verified here. Raises InputError where nothing was pruned.
        """
        with self._bare(), subnet(self.model, self._pruned()) as narrowed:
            state = narrowed.state_dict()
            for name, tensor in state.items():
                state[name] = tensor.clone() if isinstance(tensor, torch.Tensor) else tensor
            return state

    def resume(self, plan: Plan) -> nn.Module:
        """Put the masks of an earlier run's ``plan`` on, to load its weights and go on; the masked model.

        Raises PlanError where the plan is another model's, InputError where it would give units back.
        """
        if plan.fingerprint != self.graph.fingerprint:
            raise PlanError("the plan was made for another architecture: resume with the one that was pruned")
        restored = self.graph.plan(plan.kept, plan.provenance)
        if self.plan is not None and gives_back(restored, self.plan):
            raise InputError("the plan keeps units that are pruned here already: resume on a fresh model")
        with self._bare():
            self.plan = restored
        return self.model

    def _pruned(self) -> Plan:
        if self.plan is None:
            raise InputError("nothing is pruned yet: call prune(removal_ratio=…) first")
        return self.plan

    @contextmanager
    def _bare(self) -> Iterator[None]:
        """The model without masks, zeros where they were, for the length of a block; then with those of the plan."""
        if self.plan is not None:
            remove_masks(self.model, leave_zeros=True)
        try:
            yield
        finally:
            if self.plan is not None:
                mask_plan(self.model, self.plan)

    def _decided(self, target: Budget | float, limits: Limits, objective: Objective) -> Plan:
        if self.sensitivity is None:
            raise InputError("call analyze(eval_fn, …) first: it measures what each width is worth")
        sensitivity = self.sensitivity
        ranked = judged(restrict(self.graph, limits), self._criterion, self.model)
        ranked = replace(ranked, space=frozen_unless(ranked.space, set(sensitivity.scores), "not analysed"))
        if self.plan is not None:
            ranked = within(ranked, self.plan)
        if isinstance(target, Budget):
            plan = planned(ranked, lambda space: choose(space, sensitivity.curves(space.free), target, objective))
        else:
            plan = planned(ranked, lambda space: sensitivity.counts(space.free, target))
        whole, left = self.graph.macs, int(self.graph.cost("macs", plan.sizes))
        record = {
            "method": "iterative",
            "budget": target.to_json() if isinstance(target, Budget) else None,
            "removed": 1 - left / whole if whole else 0.0,
            "threshold": sensitivity.threshold(self.graph.free, plan.sizes),
        }
        return replace(plan, graph=self.graph, provenance=record)


class _Measure:
    """One analysis: what it measures with, and where it keeps what it found."""

    def __init__(
        self,
        model: nn.Module,
        ranked: Ranked,
        journal: Journal,
        eval_fn: EvalFn,
        args: tuple[Any, ...],
        calibration: dict[str, Any],
    ) -> None:
        self.model, self.ranked, self.space, self.journal = model, ranked, ranked.space, journal
        self.eval_fn, self.args, self.calibration = eval_fn, args, calibration

    def all(self, ratios: Sequence[float], tell: Callable[[float, str], None]) -> Sensitivity:
        points = [(w, count) for w in self.space.free for count in measured_counts(w, ratios)]
        keys = ["whole", *(_key(width, count) for width, count in points)]
        self._check_weights([key for key in keys if key not in self.journal])
        baseline = self._score("whole", None)
        if baseline is None:
            raise InputError("eval_fn gives no finite number for the model as it is")
        found: dict[str, dict[int, float | None]] = {w.name: {} for w in self.space.free}
        for number, (width, count) in enumerate(points):
            tell(number / len(points), f"{width.name}: {count} of {width.size}")
            plan = self._plan(width, count)
            found[width.name][plan.sizes[width.name]] = self._score(_key(width, count), plan)
        return Sensitivity(baseline=baseline, scores={name: scores for name, scores in found.items() if scores})

    def _plan(self, width: Width, count: int) -> Plan:
        """The plan with one width narrowed; the next count upwards where the code cannot take this one."""
        larger = replace(width, choices=tuple(choice for choice in width.choices if choice >= count))
        alone = frozen_unless(self.space, {width.name}, "measured alone")
        alone = alone.with_widths(larger if w.name == width.name else w for w in alone.widths)
        return planned(replace(self.ranked, space=alone), lambda s: {width.name: s[width.name].choices[0]})

    def _score(self, key: str, plan: Plan | None) -> float | None:
        known = self.journal.get(key)
        if known is None:
            network = plan if plan is not None else self.space.plan({})
            with judging(seed=0), subnet(self.model, network, **self.calibration) as narrowed:
                known = {"score": score_of(self.eval_fn, narrowed, self.args).value}
            self.journal.record(key, known)
        return known["score"]

    def _check_weights(self, missing: list[str]) -> None:
        """A finished analysis serves later rounds, too; but one that is half done goes on with the weights it began with."""
        if not missing:
            return
        digest = {"sha256": digest_of_weights(self.model)}
        begun = self.journal.get("weights")
        if begun is None:
            self.journal.record("weights", digest)
        elif dict(begun) != digest:
            raise ArtifactError(
                f"the analysis lacks {len(missing)} evaluations, {missing[0]} first, and was begun with other weights. "
                "Load those weights to finish it, or choose another path"
            )


def _target(removal_ratio: float | None, threshold: float | None, graph: Graph) -> Budget | float:
    if (removal_ratio is None) == (threshold is None):
        raise InputError("prune takes a removal_ratio (of MACs) or a threshold (of relative loss), one of them")
    if threshold is None:
        assert removal_ratio is not None
        return budget_of(removal_ratio, graph)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not threshold >= 0:
        raise InputError(f"threshold is a relative loss of score, at least 0, not {threshold!r}")
    return float(threshold)


def _check_ratios(ratios: Sequence[float]) -> None:
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise InputError(f"ratios are removal ratios between 0 and 1, at least one, not {ratios!r}")


def _key(width: Width, count: int) -> str:
    return f"{width.name}={count}"
