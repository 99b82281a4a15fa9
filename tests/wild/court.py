"""The single checks of the oracle, each of which raises `Wrong` or `Refused`.

    trace ── names ── plans (tensors, costs, lives, own precision) ── proof ── prune ── original

Invariant: a check makes its own copies; only `Court.model`, which was traced, goes through all of them.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import secateur as sc

from .belongings import Belongings
from .entry import Entry, set_mode
from .life import Life, live
from .reference import Wrong, arrays, bitwise, mask, rename, renaming, select, tensors_of, ties, widths_of, zero
from .values import cast_model, difference, quiet

TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}
_UNTYPED = "an error that is none of Secateur's"


def _inside(model: nn.Module) -> nn.Module:
    """What is narrowed of a model whose gradients are synchronised: the library answers with that, unwrapped."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def sentence(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


class Refused(Exception):
    def __init__(self, error: sc.SecateurError, outcome: str) -> None:
        super().__init__(sentence(error))
        self.outcome: str = outcome


def _late(step: str, error: sc.SecateurError) -> Exception:
    """A plan that the graph offered is refused: allowed with a reason, not with "report this"."""
    return Wrong(f"{step}: {sentence(error)}") if "report this" in str(error) else Refused(error, "late")


@contextlib.contextmanager
def _promised(step: str, mine: Belongings, outcome: str) -> Iterator[None]:
    """A verb of the library: typed errors only, and nothing of the user's touched either way."""
    try:
        yield
    except sc.SecateurError as error:
        if changes := mine.changes():
            mine.settle()
            raise Wrong(f"{step} was refused and left a mark: {'; '.join(changes)}") from error
        raise (_late(step, error) if outcome == "late" else Refused(error, outcome)) from error
    except Exception as error:
        raise Wrong(f"{step}: {_UNTYPED}: {sentence(error)}") from error
    if changes := mine.changes():
        mine.settle()
        raise Wrong(f"{step} left a mark: {'; '.join(changes)}")


@dataclass(slots=True)
class Court:
    """One entry before the judge: the model as traced, its graph, its photograph, the life of the whole."""

    entry: Entry
    seed: int
    graph: Any = None
    mine: Any = None
    model: Any = None
    dtype: torch.dtype = torch.float64
    whole: Life = field(default_factory=Life)
    counts: dict[int, int] = field(default_factory=dict)

    def trace(self) -> None:
        """The one trace that all plans are made from. Nothing has run before: caches outside the model are cold."""
        self.model = _inside(given := self.entry.build())
        call = self.entry.call(self.entry.example)
        self.mine = Belongings(self.model, call, (__package__ or "tests.wild", *self.entry.packages))
        with _promised("trace", self.mine, "refused"):
            self.graph = sc.trace(given, self.entry.dummy_input(call))

    def _built(self) -> nn.Module:
        return _inside(self.entry.build())

    def anatomy(self) -> dict[str, Any]:
        """Free and frozen widths, and the share of the parameters that a free one reaches."""
        if self.graph is None:
            return {}
        free = {width.name for width in self.graph.free}
        total = reached = 0
        for name, parameter in self.model.named_parameters():
            layout = self.graph.layouts.get(name, ())
            total += parameter.numel()
            reached += parameter.numel() * any(w in free for axis in layout for w in widths_of(axis))
        reasons = tuple(dict.fromkeys(w.frozen for w in self.graph.widths if w.frozen))
        frozen = len(self.graph.widths) - len(free)
        return {"free": len(free), "frozen": frozen, "reachable": reached / max(total, 1), "reasons": reasons}

    def live_whole(self) -> None:
        """The life of the model as it was; in its own precision where the code cannot be run in double."""
        for dtype in (torch.float64, self._own_dtype()):
            self.dtype = dtype
            self.whole = self._life(lambda model: model)
            if not isinstance(self.whole.steps["example"], Exception):
                return
        raise AssertionError(f"the model itself does not run: {sentence(self.whole.failed['example'])}")

    def _has_numbers(self) -> bool:
        step = self.whole.steps["example"]
        return not isinstance(step, Exception) and any(isinstance(leaf, (Tensor, int, str)) for _, leaf in step)

    def _own_dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    def _life(self, prepare: Callable[[nn.Module], nn.Module]) -> Life:
        return live(self.entry, cast_model(prepare(self._built()), self.dtype), self.dtype)

    def check_original(self) -> None:
        """The very model that was traced works as one that never was."""
        plain = live(self.entry, self._built(), self._own_dtype())
        traced = live(self.entry, self.model, self._own_dtype())
        if failed := plain.difference(traced, 0.0):
            raise Wrong(f"after all this the first model is not what it was: {failed}")

    def check_names(self) -> None:
        """Units are exchangeable: under other names, the network is the same."""
        generator = np.random.default_rng(self.seed)
        orders = {width.name: generator.permutation(width.size) for width in self.graph.free}
        if not orders or self.entry.in_order or not (failed := self._renamed(orders)):
            return
        each = {name: self._renamed({name: order}) for name, order in orders.items()}
        culprits = {name: why for name, why in each.items() if why} or {"a combination of widths": failed}
        several = "; ".join(f"{name} ({why})" for name, why in list(culprits.items())[:3])
        raise Wrong(f"said to be free, but which unit stands where matters: {several}")

    def _renamed(self, orders: dict[str, Any]) -> str | None:
        def prepare(model: nn.Module) -> nn.Module:
            rename(model, self.graph.layouts, orders)
            return model

        return self.whole.difference(self._life(prepare), TOLERANCE[self.dtype])

    def check_plan(self, draw: str) -> None:
        """One plan, side by side or in place, against slices and masks made by hand."""
        plan = self._draw(draw)
        if not plan.kept:
            return
        self._settle_own()
        small = self._applied(plan, draw)
        self._check_tensors(small, plan)
        self._check_costs(small, plan)
        self._check_lives(plan)
        self._check_own_precision(small)
        self._settle_own()
        if changes := self.mine.changes():
            self.mine.settle()
            raise Wrong(f"using the narrowed model changed the first one: {'; '.join(changes)}")

    def _settle_own(self) -> None:
        """What our use of the model changed, where using it does, is no mark of the library's."""
        if self.entry.leaves_marks:
            self.mine.settle()

    def _applied(self, plan: Any, draw: str) -> nn.Module:
        """The narrowed model, verified by the library; in place where the user could not copy the model either."""
        if self._is_copyable():
            with _promised(f"apply ({draw})", self.mine, "late"):
                return sc.apply(self.model, plan)
        model = self._built()
        with _promised(f"apply in place ({draw})", self.mine, "late"):
            return sc.apply(model, plan, in_place=True)

    def _is_copyable(self) -> bool:
        try:
            copy.deepcopy(self.model)
        except Exception:
            return False
        return True

    def _draw(self, draw: str) -> Any:
        generator = np.random.default_rng([self.seed, len(draw)])
        for _ in range(20):
            kept = {}
            for width in self.graph.free:
                count = self._count(width, draw, generator)
                rows = self.graph[width.outer].size if width.outer else 1
                drawn = [np.sort(generator.choice(width.size, count, replace=False)) for _ in range(rows)]
                kept[width.name] = np.stack(drawn) if width.outer else drawn[0]
            try:
                return self.graph.plan(kept)
            except sc.SecateurError as error:
                if type(error).__name__ != "Coincidence":
                    raise Refused(error, "late") from error
        return self.graph.plan({})

    def _count(self, width: Any, draw: str, generator: np.random.Generator) -> int:
        if draw == "half":
            return min(width.choices, key=lambda count: abs(count - width.size / 2))
        if draw == "least":
            return width.choices[0]
        counts = [c for c in width.choices if c > 1 or width.size < 3]
        drawn = int(generator.choice(counts))
        return self.counts.setdefault(width.size, drawn) if draw == "equal" else drawn

    def _check_tensors(self, small: nn.Module, plan: Any) -> None:
        """Bit for bit the slices of the first model, under the same names, tied as they were."""
        first, now = tensors_of(self.model), tensors_of(small)
        if list(first) != list(now):
            raise Wrong(f"other tensors: {sorted(first.keys() ^ now.keys())[:3]}")
        if ties(first) != ties(now):
            raise Wrong("tensors that were one are several now, or the reverse")
        for name, tensor in first.items():
            if (tensor.requires_grad, tensor.dtype) != (now[name].requires_grad, now[name].dtype):
                raise Wrong(f"{name} has another dtype or requires_grad")
            expected = self._slice(name, tensor.detach(), plan)
            if not bitwise(expected, now[name].detach()):
                raise Wrong(f"{name} is not the slice that the plan says")

    def _outer(self) -> dict[str, str | None]:
        return {width.name: width.outer for width in self.graph.widths}

    def _slice(self, name: str, tensor: Tensor, plan: Any) -> Tensor:
        if name not in plan.layouts:
            return tensor
        return select(tensor, mask(plan.layouts[name], plan.arrays, self._outer()), plan.shape(name))

    def _check_costs(self, small: nn.Module, plan: Any) -> None:
        held, said = sum(p.numel() for p in small.parameters()), self.graph.cost("params", plan.sizes)
        if held != said:
            raise Wrong(f"the narrowed model holds {held} parameters, the plan said {said}")
        if self._macs(self._built()) != self.graph.macs:
            return  # counted by other conventions
        if any(plan.sizes[name] == 1 for name in plan.kept):
            return  # sizes of one take other paths: einsum multiplies
        macs, foretold = self._macs(self._narrowed(plan)), self.graph.cost("macs", plan.sizes)
        varies = any("depend on the values" in note for note in self.graph.notes)
        if macs not in (foretold, -1) and not varies:
            raise Wrong(f"the narrowed model does {macs:.0f} multiply-accumulates, the plan said {foretold}")

    def _macs(self, model: nn.Module) -> float:
        counter = FlopCounterMode(display=False)
        try:
            with torch.no_grad(), quiet(), counter:
                set_mode(model, False)
                self.entry.call(self.entry.example).on(model)
        except Exception:
            return -1
        return counter.get_total_flops() / 2

    def _narrowed(self, plan: Any) -> nn.Module:
        return sc.apply(self._built(), plan, in_place=True, verify=False)

    def _check_lives(self, plan: Any) -> None:
        """The narrowed model lives as the masked one does. What is inexact is narrowed in both."""
        outer = self._outer()
        exact = {name: kept for name, kept in plan.arrays.items() if self.graph[name].exact}
        base = self.graph.plan({name: kept for name, kept in plan.arrays.items() if name not in exact})

        def masked(model: nn.Module) -> nn.Module:
            zero(model, self.graph.layouts, exact, outer)
            return sc.apply(model, base, in_place=True, verify=False) if base.kept else model

        reference, small = (
            self._life(masked),
            self._life(lambda model: sc.apply(model, plan, in_place=True, verify=False)),
        )
        if isinstance(reference.steps["example"], Exception):
            raise Wrong(f"with inexact widths alone narrowed: {sentence(reference.failed['example'])}")
        failed = reference.difference(small, TOLERANCE[self.dtype]) or self._learned(reference, small, plan, base)
        if failed:
            raise Wrong(f"narrowed to {_sizes(plan)}: {failed}")

    def _learned(self, reference: Life, small: Life, plan: Any, base: Any) -> str | None:
        """Gradients and buffers after the training step are the slices of the masked model's."""
        if "training" in reference.failed:
            return None
        for kind, before, now in (
            ("gradient", reference.gradients, small.gradients),
            ("buffer", reference.buffers, small.buffers),
        ):
            for name, tensor in before.items():
                found = now.get(name)
                if tensor is None or found is None:
                    if tensor is not found and (tensor is None or bool(tensor.any())):
                        return f"after training, {name} has {'a' if tensor is None else 'no'} {kind}"
                    continue
                if not tensor.is_floating_point() or bool(tensor.isnan().any()):
                    continue
                expected = self._within(name, tensor, plan, base)
                gap, _ = difference([("", expected)], [("", found)])
                if gap > 10 * TOLERANCE[self.dtype] and (expected - found).abs().max() > TOLERANCE[self.dtype]:
                    return f"after training, the {kind} of {name} differs by {gap:.1e}"
        return None

    def _within(self, name: str, tensor: Tensor, plan: Any, base: Any) -> Tensor:
        """Of a tensor in which only the inexact widths are narrowed, the slice that the whole plan keeps."""
        if name not in plan.layouts:
            return tensor
        alive = mask(plan.layouts[name], plan.arrays, self._outer())
        return select(tensor, self._slice(name, alive, base), plan.shape(name))

    def _check_own_precision(self, small: nn.Module) -> None:
        """As it is handed over, with random numbers: nothing may raise that did not before."""
        with torch.random.fork_rng(devices=[]), _other_random_numbers():
            now = live(self.entry, small, self._own_dtype(), loud=True).failed
            if new := {step: error for step, error in now.items() if step not in self._failing()}:
                step, error = next(iter(new.items()))
                raise Wrong(f"{step}: the narrowed model raises {sentence(error)}")

    def _failing(self) -> set[str]:
        return set(live(self.entry, self._built(), self._own_dtype(), loud=True).failed)

    def check_proof(self) -> None:
        """The library's proof is no rubber stamp: a wrong slice in one tensor must not pass."""
        for width in self.graph.free:
            tensors = list(dict.fromkeys(use.tensor for use in width.uses))
            if (
                width.exact
                and width.outer is None
                and width.size > 3
                and len(tensors) > 1
                and not self._is_outer(width)
            ):
                return self._check_proof_against(width, tensors[-1])

    def _is_outer(self, width: Any) -> bool:
        return any(other.outer == width.name for other in self.graph.widths)

    def _check_proof_against(self, width: Any, tensor: str) -> None:
        other = dataclasses.replace(width, name=f"{width.name} elsewhere")
        layouts = {**self.graph.layouts, tensor: renaming(self.graph.layouts[tensor], width.name, other.name)}
        graph = dataclasses.replace(self.graph, widths=(*self.graph.widths, other), layouts=layouts)
        count = min(width.choices, key=lambda count: abs(count - width.size / 2))
        try:
            plan = graph.plan({width.name: range(count), other.name: range(width.size - count, width.size)})
        except sc.SecateurError:
            return

        def masked(model: nn.Module) -> nn.Module:
            zero(model, layouts, arrays(plan), self._outer())
            return model

        wrong = self._life(lambda model: sc.apply(model, plan, in_place=True, verify=False))
        if not (gap := self._life(masked).difference(wrong, 1e-3, steps=("example",))):
            return
        try:
            said = sc.verify(self._built(), plan, graph)
        except sc.SecateurError:
            return
        if said.passed:
            raise Wrong(f"a wrong slice of {tensor} is called {said}, though {gap}")

    def check_prune(self) -> None:
        """The whole pipeline by its one call."""
        model, call = self._built(), self.entry.call(self.entry.example)
        budget = int(0.8 * self.graph.params)
        if not budget:
            return
        try:
            small, result = sc.prune(model, "magnitude", {"params": budget}, self.entry.dummy_input(call))
        except sc.Infeasible:
            return
        except sc.SecateurError as error:
            raise _late("prune", error) from error
        except Exception as error:
            raise Wrong(f"prune: {_UNTYPED}: {sentence(error)}") from error
        if result.verification.passed and not self._has_numbers():
            raise Wrong(f"nothing comes out that could be compared, and still: {result.verification}")
        held = sum(p.numel() for p in small.parameters())
        if held > budget or held != result.after["params"]:
            raise Wrong(f"prune to {budget} parameters gave {held} and said {result.after['params']}")
        self._check_own_precision(small)


@contextlib.contextmanager
def _other_random_numbers() -> Iterator[None]:
    """Python's and NumPy's generators as they were, whatever a model draws from them when we use it."""
    ours, theirs = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)


def _sizes(plan: Any) -> str:
    few = [f"{name}={plan.sizes[name]}" for name in plan.kept][:4]
    return ", ".join(few) + ("…" if len(plan.kept) > 4 else "")
