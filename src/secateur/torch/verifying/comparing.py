"""Masked against narrowed, in one scene: how far apart, and how far apart they may be.

    masked      inexact widths narrowed, exact ones whole with the removed units' slices zero, dropped blocks passed over
    narrowed    everything narrowed                           ──► each output, and each gradient on its kept slices, the same
    masked, its weights off by one in the last place          ──► what rounding alone can do to this network: the bound

Invariant: a difference within what the dtype's rounding gives well-behaved networks passes at once; a larger one must be
explained by the network's own conditioning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import torch
from torch import nn

from secateur.core.depth import Passes
from secateur.core.graph import Graph
from secateur.core.layout import Along, Axis, Indices, Layout, Product, Sum, Whole, size_of, touches
from secateur.core.plan import Plan
from secateur.core.verification import Comparison
from secateur.torch.narrowing.slices import kept_mask, narrow_tensor, remade, slices_of
from secateur.torch.narrowing.tolerances import COARSE, GRADIENTS, ROUNDING, SAFETY
from secateur.torch.running.constants import narrowable_tensors
from secateur.torch.running.explaining import brief
from secateur.torch.running.outside import Outside
from secateur.torch.verifying.running import SECOND, Numbers, Scene, Seen, Side, run

_AS_THEY_ARE = (torch.float32, torch.float64, torch.complex64, torch.complex128)

_DRAWS = (2, 8)  # perturbed runs: two where the difference is more than rounding, more before anything is called wrong

_GROSS = 100.0  # times what rounding does: where other numbers would agree, these are looked into nevertheless

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Wrong(Exception):
    """Narrowed and masked disagree; the text says how, in words that go into a sentence.

    ``certain``: other numbers could not excuse it.
    """

    def __init__(self, how: str, *, certain: bool = False) -> None:
        super().__init__(how)
        self.certain = certain


class Inconclusive(Exception):
    """Nothing can be said: the text says why."""


@dataclass(frozen=True)
class Setup:
    """What is compared: ``base`` is the part of a plan that is narrowed on both sides, ``exact`` the part that is masked."""

    model: nn.Module
    outside: Outside
    graph: Graph
    plan: Plan
    base: Plan

    @classmethod
    def of(cls, model: nn.Module, graph: Graph, plan: Plan) -> Setup:
        """Inexact widths on both sides, exact ones masked on one."""
        return cls(model, Outside(model), graph, plan, plan).for_plan(plan)

    def for_plan(self, plan: Plan) -> Setup:
        """The same for another plan of the graph."""
        base = self.graph.plan({name: kept for name, kept in plan.arrays.items() if not self.graph[name].exact})
        return replace(self, plan=plan, base=base)

    @property
    def widths(self) -> list[str]:
        """The widths that differ between the two sides."""
        return list(self.plan.kept)

    def only(self, widths: Sequence[str]) -> Setup:
        """The same for some of the widths. Raises PlanError where these cannot go without the others."""
        return self.for_plan(self.graph.plan({name: self.plan.arrays[name] for name in widths}))

    def told(self, names: str) -> str:
        """What is done to these widths, in words."""
        return f"narrowing {names} changes"

    @cached_property
    def exact(self) -> Mapping[str, Indices]:
        """The kept sets that are masked on one side and narrowed on the other."""
        return {name: kept for name, kept in self.plan.arrays.items() if name not in self.base.kept}

    def whole(self) -> Side:
        """The model as it is."""
        return Side(self.model, self.outside, {}, self.graph.plan({}))

    def narrowed(self) -> Side:
        """Everything narrowed."""
        live = narrowable_tensors(self.model)
        slices = slices_of({name: live.get(name) for name in self.plan.narrowed}, self.plan)
        return Side(self.model, self.outside, slices, self.plan)

    def masked(self) -> Side:
        """The removed units of exact widths zero, inexact widths narrowed."""
        made: dict[str, torch.Tensor] = {}
        tied: dict[int, torch.Tensor] = {}
        for name, tensor in narrowable_tensors(self.model).items():
            layout = self.base.layouts.get(name, ())
            if not self.plan.narrows(name):
                continue
            if id(tensor) not in tied:
                data = tensor.detach()
                if data.is_floating_point() or data.is_complex():
                    data = torch.where(kept_mask(data, layout, self.exact), data, 0)
                tied[id(tensor)] = remade(tensor, narrow_tensor(data, layout, self.base.arrays))
            made[name] = tied[id(tensor)]
        return Side(self.model, self.outside, made, self.base, self.passed_over)

    @cached_property
    def passed_over(self) -> Mapping[str, Passes]:
        """The blocks that the plan drops, and what of its arguments each then gives on."""
        drops = self.plan.drops
        named = ((stack.module(key), passes) for stack in self.graph.stacks for key, passes in stack.passes.items())
        return {name: passes for name, passes in named if name in drops}

    def kept_of(self, tensor: torch.Tensor, layout: Layout) -> torch.Tensor:
        """What the narrowed network has of a tensor of the masked one, which is made of these widths."""
        left = tuple(_left(axis, self.base.sizes) for axis in layout)
        if len(left) == tensor.dim():
            left = tuple(_as_large(axis, size) for axis, size in zip(left, tensor.shape, strict=True))
        if tuple(size_of(axis, {}) for axis in left) != tuple(tensor.shape):
            return tensor
        if not any(touches(axis, self._arrays_left) for axis in left):
            return tensor
        return narrow_tensor(tensor, left, self._arrays_left)

    @cached_property
    def _arrays_left(self) -> Mapping[str, Indices]:
        """The kept sets of exact widths, counted in the masked network, where outer units may be gone already."""
        found: dict[str, Indices] = {}
        for name, kept in self.exact.items():
            outer = self.base.arrays.get(self.graph[name].outer or "")
            found[name] = kept[outer] if kept.ndim == 2 and outer is not None else kept
        return found


def _left(axis: Axis, sizes: Mapping[str, int]) -> Axis:
    """An axis as it is once its widths have these sizes."""
    match axis:
        case Along():
            return replace(axis, size=sizes.get(axis.width, axis.size))
        case Product():
            return Product(tuple(_left(factor, sizes) for factor in axis.factors))
        case Sum():
            return Sum(tuple(_left(part, sizes) for part in axis.parts))
        case _:
            return axis


def _as_large(axis: Axis, size: int) -> Axis:
    """An axis where the samples, of which there may be more or fewer than in the trace, make up this size."""
    match axis:
        case Whole():
            return Whole(size)
        case Product():
            samples = [place for place, factor in enumerate(axis.factors) if isinstance(factor, Whole)]
            rest = math.prod(size_of(f, {}) for f in axis.factors if not isinstance(f, Whole))
            if len(samples) == 1 and size % rest == 0:
                factors = [Whole(size // rest) if place in samples else f for place, f in enumerate(axis.factors)]
                return Product(tuple(factors))
    return axis


def compare(setup: Setup, scene: Scene, numbers: Numbers, *, last: bool = True) -> Comparison:
    """Run both sides of a setup, and hold them against each other.

    Raises Wrong where they disagree, Inconclusive where that cannot be told; what the masked side raises comes through.
    Unless these numbers are the ``last``, a difference above rounding is not looked into: other numbers will tell. One far
    above it is: code may do other things in these numbers.
    """
    masked, narrowed = _pair(setup, scene, numbers)
    try:
        return _compared(setup, scene, numbers, masked, narrowed, last=last)
    except Wrong as wrong:
        if not (scene.training and setup.passed_over and (masked.by_lot or narrowed.by_lot)):
            raise
        raise Inconclusive("its code goes by random numbers, and by others without the blocks that go") from wrong


def _compared(setup: Setup, scene: Scene, numbers: Numbers, masked: Seen, narrowed: Seen, *, last: bool) -> Comparison:
    found = _differences(masked, narrowed)
    _check_informative(masked)
    rounding = _rounding(masked.eps)
    bounds = {name: rounding if name in masked.outputs else GRADIENTS * rounding for name in found}
    seeds = iter(range(1, sum(_DRAWS) + 1))
    gross = any(found[name] > min(_GROSS * rounding, COARSE) for name in masked.outputs)
    for draws in _DRAWS if last or gross else ():
        if all(found[name] <= bounds[name] for name in found):
            break
        for seed in islice(seeds, draws):
            off = replace(numbers, eps=masked.eps, seed=seed)
            noise = _differences(masked, _one(setup.masked(), scene, off, setup))
            bounds = {name: max(bounds[name], SAFETY * noise.get(name, 0.0)) for name in bounds}
    _judge(found, bounds, masked, narrowed, certain=gross)
    return _comparison(scene, masked, found, bounds)


def depends_on_weights(setup: Setup, scene: Scene) -> bool:
    """Whether other weights give other outputs: where they do not, two networks that agree prove nothing."""
    here = _one(setup.masked(), scene, Numbers(), setup)
    try:
        others = (_one(setup.masked(), scene, Numbers(eps=0.5, seed=seed), setup) for seed in (1, 2, 3))
        return any(gap > 0 for other in others for gap in _differences(here, other).values())
    except Wrong:
        return True


def _pair(setup: Setup, scene: Scene, numbers: Numbers) -> tuple[Seen, Seen]:
    masked = _one(setup.masked(), scene, numbers, setup)
    try:
        narrowed = run(setup.narrowed(), scene, numbers)
    except Exception as error:
        if scene.training and is_too_little(error):
            raise Inconclusive(
                "the example is too small for a norm to train on it once the network is narrowed"
            ) from error
        raise Wrong(f"the narrowed network does not run ({brief(error)})") from error
    if masked.failed:
        if not run(setup.whole(), scene, numbers).failed:
            raise _second_fails("narrowed" if narrowed.failed else "masked", masked.failed)
        narrowed = narrowed.of_first()  # that the network is good for one call is none of the narrowing's doing
    return _alike(masked, narrowed)


def _alike(one: Seen, other: Seen) -> tuple[Seen, Seen]:
    """Without the second call where only one of the two has something for it: the block that kept it is gone in the other."""
    return (one, other) if one.keeps is other.keeps else (one.of_first(), other.of_first())


def _one(side: Side, scene: Scene, numbers: Numbers, setup: Setup) -> Seen:
    """A run of the masked network; its outputs and gradients at the size they have once it is narrowed."""
    outputs, layouts = (setup.graph.outputs, *setup.graph.outputs_also)[scene.place], setup.plan.layouts

    def shrink(place: int, tensor: torch.Tensor) -> torch.Tensor:
        known = place < len(outputs) and len(outputs[place]) == tensor.dim()
        return setup.kept_of(tensor, outputs[place]) if known else tensor

    seen = run(side, scene, numbers, shrink)
    gradients = {n: g if g is None else setup.kept_of(g, layouts.get(n, ())) for n, g in seen.gradients.items()}
    renamed = {name: setup.plan.renamed(name) for name in gradients}
    return replace(seen, gradients={new: gradients[n] for n, new in renamed.items() if new is not None})


def _differences(one: Seen, other: Seen) -> dict[str, float]:
    """How far two runs are apart in each output and gradient, relative to its largest number. Raises Wrong for other shapes."""
    one, other = _alike(one, other)
    if list(one.outputs) != list(other.outputs):
        odd = [name for name in (*one.outputs, *other.outputs) if name not in one.outputs or name not in other.outputs]
        if odd[0].startswith(SECOND):
            raise _second_fails("narrowed" if odd[0] in one.outputs else "masked", one.failed or other.failed)
        raise Wrong(f"they return other things, {odd[0]} in one of the two only")
    found = {name: _gap(name, a, other.outputs[name], 0.0) for name, a in one.outputs.items()}
    largest = max((float(g.abs().max()) for g in one.gradients.values() if g is not None and g.numel()), default=0.0)
    for name, a in one.gradients.items():
        b = other.gradients.get(name)
        if (a is None) is not (b is None):
            raise Wrong(f"only the {'narrowed' if a is None else 'masked'} network has a gradient for {name}")
        if a is not None and b is not None:
            found[_GRADIENT + name] = _gap(_GRADIENT + name, a, b, 0.01 * largest)
    return found


def _second_fails(which: str, why: str) -> Wrong:
    told = f" ({why})" if why else ""
    return Wrong(f"a second call in a row, which finds what the first left, does not run in the {which} network{told}")


_GRADIENT = "the gradient of "


def _gap(what: str, a: torch.Tensor, b: torch.Tensor, least: float) -> float:
    if a.shape != b.shape:
        raise Wrong(f"{what} has shape {tuple(b.shape)} where {tuple(a.shape)} is due")
    if not a.numel():
        return 0.0
    a, b = _plain(a), _plain(b)
    gap, size = float((a - b).abs().max()), float(a.abs().max())
    if not math.isfinite(gap + size):
        gap, size = _gap_of_finite(a, b)
    return gap / max(size, least, 1e-30)


def _gap_of_finite(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """The greatest difference, where equal infinities and two NaN are no difference; the largest finite number."""
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs()).nan_to_num(nan=math.inf)
    finite = a[a.isfinite()]
    return float(gap.max()), float(finite.abs().max()) if finite.numel() else 1.0


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Any tensor as dense numbers of single precision at least, of double where they come in whole numbers."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype in _AS_THEY_ARE:
        return tensor
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _rounding(eps: float) -> float:
    """What passes without a look at the network's conditioning."""
    return next(bound for least, bound in ROUNDING if eps <= least)


def _check_informative(masked: Seen) -> None:
    """Raise Inconclusive where the outputs are nothing, or no numbers."""
    if not masked.outputs:
        raise Inconclusive("there is no tensor, array or floating number in what the model returns")
    if not any(bool(_plain(tensor).isfinite().any()) for tensor in masked.outputs.values() if tensor.numel()):
        raise Inconclusive("everything the model returns is empty, infinite or not a number")


def _judge(
    found: Mapping[str, float], bounds: Mapping[str, float], masked: Seen, narrowed: Seen, *, certain: bool
) -> None:
    """Raise Wrong for the worst that its bound does not excuse, Inconclusive where no output has a bound worth the name."""
    wrong = [n for n in found if found[n] > bounds[n] and (bounds[n] <= COARSE or math.isinf(found[n]))]
    if wrong:
        worst = max(wrong, key=lambda name: found[name] / bounds[name])
        reason = "; they draw random numbers, but not as many" if masked.random != narrowed.random else ""
        raise Wrong(
            f"{worst} differs by {found[worst]:.1e} of its largest number (bound {bounds[worst]:.0e}){reason}",
            certain=certain and worst in masked.outputs,
        )
    if all(bounds[name] > COARSE for name in masked.outputs):
        raise Inconclusive(
            f"one in the last place of its weights changes what it returns by {max(bounds.values()) / SAFETY:.0e}"
        )


def _comparison(scene: Scene, masked: Seen, found: Mapping[str, float], bounds: Mapping[str, float]) -> Comparison:
    close = [name for name in found if bounds[name] <= COARSE]
    worst = max(close, key=lambda name: found[name] / bounds[name])
    dtype = next((d for d in _DTYPES if torch.finfo(d).eps >= masked.eps), torch.float64)
    return Comparison(
        inputs=scene.inputs,
        mode=scene.mode,
        dtype=str(dtype).removeprefix("torch."),
        outputs=tuple(name for name in close if name in masked.outputs),
        gradients=sum(name not in masked.outputs for name in close),
        difference=found[worst],
        bound=bounds[worst],
        second=masked.failed,
        expected=masked.expects,
    )


def is_too_little(error: Exception) -> bool:
    """Whether a norm of torch.nn refuses to train on a single value a channel: a larger batch would do."""
    return isinstance(error, ValueError) and "Expected more than 1" in str(error)
