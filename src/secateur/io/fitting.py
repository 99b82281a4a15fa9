"""Whether plans describe a model: the original they start from, or the narrowed one they end with.

    fresh model ──plan 1──► shapes ──plan 2──► shapes = what is stored

Plans are followed on names, shapes and attribute values alone; no tensor is touched.

Invariant: if `check_fits` returns, every tensor and attribute that the plans name is there, with the value they expect.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import SimpleNamespace

from torch import nn

from secateur.core.compose import name_after
from secateur.core.layout import Layout, has_widths
from secateur.core.plan import Edit, Plan
from secateur.core.text import visible
from secateur.errors import ArtifactError, PlanError
from secateur.torch.narrowing.fingerprint import fingerprint
from secateur.torch.narrowing.installing import drop_blocks, set_attribute
from secateur.torch.running.constants import narrowable_tensors
from secateur.torch.running.restoring import abstract_like
from secateur.torch.running.twin import twin
from secateur.torch.running.walking import named_modules, named_parameters, transient_names

Shapes = dict[str, tuple[int, ...]]


def check_fits(model: nn.Module, plans: Sequence[Plan], transient: Collection[str] = ()) -> Shapes:
    """The shape of every tensor of a fresh model after these plans. It may lack ``transient`` buffers, by the names that they
    have in the end: what is no part of a state dict may be made at the first run.

    Raises ArtifactError unless the first plan was made for this architecture and each further one for what is then
    left; PlanError where an attribute does not hold the value that a plan expects.
    """
    shapes = _shapes(model)
    trial = _Trial(model)
    parameters = {name for name, _ in named_parameters(model)}
    for number, plan in enumerate(plans, start=1):
        stored = {name for name in plan.layouts if name_after(name, plans[number - 1 :]) in transient}
        _check_tensors(plan, shapes, parameters, stored | transient_names(model))
        if fingerprint(model, shapes, trial.standins) != plan.fingerprint:
            raise ArtifactError(
                f"plan {number} was made for another architecture than this {type(model).__name__}: "
                "its modules, their settings or its other tensors differ. Build the model as it was before pruning"
            )
        trial.rewrite(plan.edits)
        shapes |= {n: plan.shape(n) for n, layout in plan.layouts.items() if n in shapes and has_widths(layout)}
        if plan.drops:
            model = trial.drop(plan)
            shapes = {new: s for n, s in shapes.items() if (new := plan.renamed(n)) is not None}
            parameters = {new for n in parameters if (new := plan.renamed(n)) is not None}
    return shapes


def check_saveable(model: nn.Module, plans: Sequence[Plan]) -> None:
    """Raise ArtifactError or PlanError unless a model is what its plans make of the original, in every respect."""
    shapes = _shapes(model)
    trial = _Trial(model)
    for plan in reversed(plans):
        if plan.drops:
            _check_shallower(plan, shapes)
            return  # what the dropped blocks were made of is gone, and the fingerprint from before with it
        _check_narrowed(plan, shapes)
        shapes |= {name: _whole(layout) for name, layout in plan.layouts.items() if has_widths(layout)}
        back = [Edit(module=e.module, path=e.path, old=e.new, new=e.old) for e in reversed(plan.edits)]
        trial.rewrite(back)
        if fingerprint(model, shapes, trial.standins) != plan.fingerprint:
            raise ArtifactError(
                "a module or tensor was added, removed or replaced after the model was narrowed: it could not be "
                "restored onto its original architecture. Save it before such changes; a model that makes some of its parts "
                "when it first runs is run once before it is pruned"
            )


class _Trial:
    """Rewrites attributes of stand-ins, so that what would fail fails before the model is touched.

    Stateful because one plan's values are what the next plan starts from.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = dict(named_modules(model, once=False))
        self.standins: dict[str, SimpleNamespace] = {}

    def drop(self, plan: Plan) -> nn.Module:
        """The model without a plan's blocks: another one from now on, whose tensors have no data."""
        self.model = twin(self.model, lambda _, tensor: abstract_like(tensor))
        drop_blocks(dict(named_modules(self.model, once=False)), plan.instead)
        self.modules = dict(named_modules(self.model, once=False))
        self.standins = {new: s for name, s in self.standins.items() if (new := plan.renamed(name)) is not None}
        return self.model

    def rewrite(self, edits: Iterable[Edit]) -> None:
        for edit in edits:
            if edit.module not in self.modules:
                raise PlanError(f"the plan rewrites {visible(edit.path)} of {visible(edit.module)}, which is not there")
            if edit.module not in self.standins:
                self.standins[edit.module] = SimpleNamespace(**self.modules[edit.module].__dict__)
            standin, name = self.standins[edit.module], re.split(r"[.\[]", edit.path)[0]
            if not hasattr(standin, name) and hasattr(
                type(self.modules[edit.module]), name
            ):  # said by its class for all
                setattr(standin, name, getattr(type(self.modules[edit.module]), name))
            try:
                set_attribute(self.standins[edit.module], edit.path, edit.old, edit.new)
            except PlanError as problem:
                raise PlanError(f"{visible(edit.module) or 'the model'}: {visible(problem)}") from None
            except Exception as problem:  # whatever kind of object stands in the way
                raise PlanError(
                    f"{visible(edit.module)}.{visible(edit.path)} cannot be rewritten: {visible(problem)}"
                ) from problem


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in narrowable_tensors(model).items()}


def _whole(layout: Layout) -> tuple[int, ...]:
    return tuple(axis.size for axis in layout)


def _check_shallower(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ArtifactError unless the tensors of a model are those that a plan leaves, under their new names."""
    left = {new: name for name in plan.layouts if (new := plan.renamed(name)) is not None}
    if odd := sorted(left.keys() ^ shapes.keys()):
        raise ArtifactError(
            f"{visible(odd[0])} was added to or removed from the model after it was narrowed: it could not be restored onto "
            "its original architecture. Save it before such changes"
        )
    _check_narrowed(plan, {old: shapes[new] for new, old in left.items()})


def _check_narrowed(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, layout in plan.layouts.items():
        if plan.renamed(name) is not None and has_widths(layout) and shapes.get(name) != plan.shape(name):
            raise ArtifactError(
                f"{visible(name)} is {shapes.get(name, 'gone')} in the model and {plan.shape(name)} in its plan: the "
                "model was changed after it was narrowed. Save it before such changes, or pass the plan it really has"
            )


def _check_tensors(
    plan: Plan, shapes: Mapping[str, tuple[int, ...]], parameters: Collection[str], transient: Collection[str]
) -> None:
    for name, layout in plan.layouts.items():
        if name not in shapes and name not in transient:
            raise ArtifactError(
                f"this model has no tensor {visible(name)}: the plan was made for another architecture, or for a model that "
                "makes it when it first runs. Run such a one once before it is restored onto"
            )
        if name not in shapes or not has_widths(layout) or (name not in parameters and 0 in shapes[name]):
            continue  # parameters are in the fingerprint; a buffer's shape may follow the last input, or wait for the first one
        if not _agrees(layout, shapes[name], everywhere=name in parameters):
            raise ArtifactError(
                f"{visible(name)} is {shapes[name]} in this model and {_whole(layout)} in the plan: another architecture, "
                "or one that is narrowed already. Build the model as it was before pruning"
            )


def _agrees(layout: Layout, shape: tuple[int, ...], *, everywhere: bool) -> bool:
    """Whether a shape is that of a layout; of a buffer, only along axes that are made of widths."""
    if len(layout) != len(shape):
        return False
    return all(a.size == n for a, n in zip(layout, shape, strict=True) if everywhere or has_widths((a,)))
