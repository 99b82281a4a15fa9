"""Narrowed against masked: the proof that the right slices went.

    masked      inexact widths narrowed, exact ones kept whole with the removed units' slices set to zero
    narrowed    everything narrowed                                         -> the same outputs, the same gradients, to rounding

Removing a unit of an exact width must equal zeroing it. A statistic over an inexact width sees fewer numbers, so these are
narrowed on both sides, and named in the result as not compared; with their units in another order the whole network must
give what it gave, since no statistic asks which is which. Both run on the example in double precision, on fresh inputs, and
in training mode with a backward pass; copies run, the model does not.

Invariant: the model is untouched; a disagreement raises and names the widths it comes from, it is never only reported.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import nn

from secateur.core.given import check_given
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.verification import Comparison, Verification
from secateur.errors import InputError, PlanError, VerificationError
from secateur.torch.narrowing.fingerprint import check_fingerprint
from secateur.torch.running.distributed import unwrapped
from secateur.torch.running.example import Example, batch_size
from secateur.torch.running.explaining import brief
from secateur.torch.running.memory import free_beside, held
from secateur.torch.running.resizing import other_sizes
from secateur.torch.running.restoring import named_tensors
from secateur.torch.running.walking import parameters_of
from secateur.torch.tracing.build import READS_VALUES
from secateur.torch.tracing.resized import has_users_code
from secateur.torch.verifying.blame import at_fault
from secateur.torch.verifying.branches import Branches, of_one_value
from secateur.torch.verifying.comparing import (
    Inconclusive,
    Setup,
    Wrong,
    compare,
    depends_on_weights,
    is_too_little,
)
from secateur.torch.verifying.inputs import fresh, informative, resized
from secateur.torch.verifying.reordering import Reordered
from secateur.torch.verifying.running import Numbers, Scene, run

_OWN = Numbers()
_ALSO = (
    "Calls that reach them can be given beside the example: secateur.Examples(dummy_input, also=[…]), where "
    'secateur.Call("name", …) calls a method of that name'
)
EXAMPLE, FRESH, REORDERED = "the example", "fresh inputs", "the example, inexact units in another order"


def verify(model: nn.Module, plan: Plan, graph: Graph, *, dtype: torch.dtype | None = None) -> Verification:
    """Compare the network a plan gives with the masked one; the model itself is not changed.

    Runs the graph's example in float64 where memory allows (``dtype`` forces one for everything), and further scenes in the
    model's own precision. Raises VerificationError where the two disagree, naming the widths in its ``widths``, and where
    nothing could be compared.
    """
    check_given("verify", "model", model, nn.Module)
    check_given("verify", "plan", plan, Plan)
    check_given("verify", "graph", graph, Graph)
    started = time.perf_counter()
    with torch.inference_mode(False):
        model = unwrapped(model)
        check_fingerprint(model, plan.fingerprint)
        refuse_without_data(model, graph)
        proof = _Proof(Setup.of(model, graph, plan), dtype)
        try:
            with Branches() as branches:
                proof.run()
        except _Disagreement as found:
            raise _error(model, found) from found.__cause__
    if plan.kept and (unproved := _not_reached(model, graph, branches)):
        proof.notes.append(f"{unproved}. {_ALSO}")
    if any(one.expected and one.mode == "evaluation" for one in proof.comparisons):
        proof.notes.append("the random numbers it draws in evaluation: each had its expected value")
    if failed := {one.second: one.mode for one in reversed(proof.comparisons) if one.second}:
        told = "; ".join(f"{why} (in {mode})" for why, mode in failed.items())
        proof.notes.append(
            f"a second call in a row, for which the first leaves something: it raises before any narrowing, {told}"
        )
    return Verification(
        comparisons=tuple(proof.comparisons),
        compared=tuple(name for name in plan.kept if graph[name].exact),
        not_compared=tuple(name for name in plan.kept if not graph[name].exact),
        notes=tuple(proof.notes),
        seconds=time.perf_counter() - started,
    )


def refuse_without_data(model: nn.Module, graph: Graph) -> None:
    """Raise InputError where a model has numbers, and an example that it would be proved on has none."""
    given = (t for example in (graph.example, *graph.example.further) for t in example.tensors())
    if any(t.is_meta for t in given) and not any(t.is_meta for t in named_tensors(model).values()):
        raise InputError(
            "the dummy_input is on the meta device and has no numbers, and the result could not be proved on it: give it on "
            "the model's device, or switch verification off (verify=False)"
        )


def _not_reached(model: nn.Module, graph: Graph, branches: Branches) -> str:
    """What of the user's own code no comparison can speak of."""
    reads = any(note.startswith(READS_VALUES) for note in graph.notes) and has_users_code(model)
    found = {
        "other values of tensors": f"{READS_VALUES}, and goes by them" if reads else "",
        "branches of the code that no run took": branches.not_taken(),
        "loops that went round once": branches.not_repeated(),
        "arguments that had one value in every run": of_one_value(model, (graph.example, *graph.example.further)),
        "methods that no run called": branches.not_called(model),
    }
    return "; ".join(f"{what}: {said}" for what, said in found.items() if said)


class _Disagreement(Exception):
    """The two sides of a setup disagree in this scene, on these numbers."""

    def __init__(self, setup: Setup, scene: Scene, numbers: Numbers, wrong: Wrong) -> None:
        super().__init__(str(wrong))
        self.setup, self.scene, self.numbers = setup, scene, numbers


class _Unfit(Exception):
    """A scene that the network cannot be run in, or that tells nothing; the text says why."""


@dataclass
class _Proof:
    """The scenes of one verification. State: what has been compared so far, and what could not be."""

    setup: Setup
    dtype: torch.dtype | None
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self) -> None:
        """All scenes, the example first. Raises _Disagreement, and VerificationError where the example tells nothing."""
        model = self.setup.model
        example = informative(self.setup.graph.example.beside_model())
        scene = Scene(inputs=EXAMPLE, example=example)
        self._example(scene)
        low, high = (_fresh(example, share) for share in (0.25, 0.75))
        here = [*high, Scene(inputs=EXAMPLE, example=example)]
        drawn = self._further(FRESH, _of_another_batch_size(low)) if low else None
        self._at_other_sizes(example, but=set() if drawn is None else _batches_of(example, drawn.example))
        self._reordered(scene)
        trains = any(p.requires_grad for p in parameters_of(model))
        if trains and not _fits(model, 4):
            self.notes.append("gradients: there is not the memory for them")
        elif not self._further("training", [_in(scene, training=True, backward=trains) for scene in here]) and trains:
            self._further("gradients", [_in(scene, training=False, backward=True) for scene in here])
        self._also(trains)
        seen = not self.setup.plan.kept or any(one.gradients for one in self.comparisons)
        if not seen and not depends_on_weights(self.setup, scene):
            raise _nothing(model, Inconclusive("what it returns does not depend on its weights"))

    def _at_other_sizes(self, example: Example, *, but: Collection[int]) -> None:
        """Where the user's own code runs with inputs of another size, the two must agree there, too; ``but`` these were had."""
        if not has_users_code(self.setup.model):
            return
        for what, others in other_sizes(example, briefly=True, but=but):
            for other in others:
                with contextlib.suppress(_Unfit):  # as the network may well be: it was made for its size
                    scene = Scene(inputs=f"inputs of another {what}", example=other)
                    self.comparisons.append(self._attempt(scene, self._choices))
                    break

    def _reordered(self, scene: Scene) -> None:
        """The whole network with its inexact widths in another order."""
        setup = Reordered.inexact(self.setup)
        if setup is None:
            return
        try:
            replace(self, setup=setup)._further(REORDERED, [replace(scene, inputs=REORDERED)])
        except _Disagreement as found:
            if not run(setup.whole(), scene, found.numbers).drew:
                raise
            self.notes.append(f"{REORDERED}: it draws random numbers of its own")

    def _also(self, trains: bool) -> None:
        """Each further example that was traced, in both modes."""
        for place, other in enumerate(self.setup.graph.example.further):
            scene = Scene(inputs=f"also[{place}]", example=informative(other.beside_model()), place=place + 1)
            if not self._further(scene.inputs, [scene]):
                continue
            if trains and _fits(self.setup.model, 4):
                self._further(f"training on {scene.inputs}", [_in(scene, training=True, backward=True)])

    def _example(self, scene: Scene) -> None:
        choices = [Numbers(wide=self.dtype)] if self.dtype is not None else [*_wide(self.setup.model), _OWN]
        try:
            self.comparisons.append(self._attempt(scene, choices))
        except _Unfit as first:
            alone = self._exact_alone(scene)
            if alone is None:
                raise _nothing(self.setup.model, first) from first.__cause__
            self.setup = alone
            try:
                self.comparisons.append(self._attempt(scene, choices))
            except _Unfit as problem:
                raise _nothing(self.setup.model, problem) from problem.__cause__

    def _exact_alone(self, scene: Scene) -> Setup | None:
        """Where the code cannot run with only the inexact widths narrowed: the exact ones alone, once all were seen to run."""
        graph, plan = self.setup.graph, self.setup.plan
        if not self.setup.base.kept:
            return None
        try:
            run(self.setup.narrowed(), scene, _OWN)
            exact = graph.plan(self.setup.exact)
        except Exception:
            return None
        self.notes.append(
            "exact and inexact widths together: the code does not run with only the inexact ones narrowed"
        )
        return replace(self.setup, plan=exact, base=graph.plan({})) if exact.kept or not plan.kept else None

    @property
    def _choices(self) -> list[Numbers]:
        """The numbers to compare on beside the example: the model's own, if these will do."""
        return [Numbers(wide=self.dtype)] if self.dtype is not None else [_OWN, *_wide(self.setup.model)]

    def _further(self, what: str, scenes: Sequence[Scene]) -> Scene | None:
        """Compare in the first of these scenes that the network can be run in, and return it; if in none, note why."""
        reason = ""
        for scene in scenes:
            try:
                self.comparisons.append(self._attempt(scene, self._choices))
                return scene
            except _Unfit as problem:
                reason = reason or str(problem)
        self.notes.append(f"{what}: {reason}")
        return None

    def _attempt(self, scene: Scene, choices: Sequence[Numbers]) -> Comparison:
        """Compare on the first numbers that will do; wide ones decide. Raises _Disagreement, or _Unfit where none will."""
        reasons: list[tuple[Numbers, Exception]] = []
        for numbers in choices:
            decides = numbers.wide is not None or len(choices) == 1
            try:
                found = compare(self.setup, scene, numbers, last=decides)
            except Wrong as wrong:
                # what does not run on numbers wider than its own may be no fault of the narrowing
                if (decides or wrong.certain) and (wrong.__cause__ is None or len(choices) == 1):
                    raise _Disagreement(self.setup, scene, numbers, wrong) from wrong
                reasons.append((numbers, wrong))
            except Exception as error:
                reasons.append((numbers, error))
            else:
                # the user may run in other numbers, too: what fails there is said
                failed = [(other.wide, e) for other, e in reasons if other.wide and isinstance(e, Wrong)]
                self.notes += [f"in {str(wide).removeprefix('torch.')}: {wrong}" for wide, wrong in failed]
                return found
        for numbers in [numbers for numbers, error in reasons if isinstance(error, Wrong)]:
            return self._attempt(scene, [numbers])
        self._unfit(scene, reasons)

    def _unfit(self, scene: Scene, reasons: Sequence[tuple[Numbers, Exception]]) -> NoReturn:
        """Raise for a scene that no numbers will do for."""
        numbers, error = reasons[-1]
        if not isinstance(error, Inconclusive):
            self._blame_inexact(scene, numbers, error)
        told = next((error for _, error in reasons if isinstance(error, Inconclusive)), error)
        raise _Unfit(str(told) if isinstance(told, Inconclusive) else brief(told)) from told

    def _blame_inexact(self, scene: Scene, numbers: Numbers, error: Exception) -> None:
        """Raise _Disagreement where the masked network does not run although the whole one does."""
        as_traced = not scene.training and scene.inputs == EXAMPLE
        if self.setup.base.kept and not as_traced and not is_too_little(error):
            try:
                run(self.setup.whole(), scene, numbers)
            except Exception:
                return
            wrong = Wrong(f"the network does not run once its inexact widths are narrowed ({brief(error)})")
            raise _Disagreement(self.setup, scene, numbers, wrong) from error


def _in(scene: Scene, *, training: bool, backward: bool) -> Scene:
    return replace(scene, training=training, backward=backward)


def _wide(model: nn.Module) -> Iterator[Numbers]:
    """The widest numbers for which there is memory, if they are wider than the model's own."""
    tensors = [t for t in named_tensors(model).values() if t.is_floating_point() or t.is_complex()]
    own = max((torch.finfo(t.dtype).eps for t in tensors), default=torch.finfo(torch.float32).eps)
    count = sum(t.numel() for t in tensors)
    for dtype in (torch.float64, torch.float32):
        if torch.finfo(dtype).eps < own and 2 * count * torch.finfo(dtype).bits // 8 < free_beside(model) // 3:
            yield Numbers(wide=dtype)
            return


def _fits(model: nn.Module, times: int) -> bool:
    """Whether there is memory for the model so many times over."""
    return times * sum(p.numel() * p.element_size() for p in parameters_of(model)) < free_beside(model) // 2


def _fresh(example: Example, share: float) -> list[Scene]:
    """Scenes with other inputs, boldest first: other ids too, or none but floating numbers."""
    others = [fresh(example, share, ids=ids) for ids in (True, False)]
    return [Scene(inputs=FRESH, example=other) for other in others if not _same_numbers(other, example)]


def _of_another_batch_size(scenes: Sequence[Scene]) -> list[Scene]:
    """The same scenes with a sample more or fewer first: code may ask how many there are."""
    others = [replace(scene, example=other) for scene in scenes if (other := resized(scene.example)) is not None]
    return [replace(scene, inputs=f"{FRESH}, a batch of {batch_size(scene.example)}") for scene in others] + [*scenes]


def _batches_of(example: Example, other: Example) -> set[int]:
    """The size of the batch where the other has a larger one, and no other dimension has that size."""
    size = batch_size(example)
    beside = {n for tensor in example.tensors() for n in tensor.shape[1:]}
    return {size} - beside if batch_size(other) > size else set()


def _same_numbers(one: Example, other: Example) -> bool:
    return all(_equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.layout == other.layout and all(map(torch.equal, held(one), held(other)))


def _nothing(model: nn.Module, reason: Exception) -> VerificationError:
    return VerificationError(
        f"nothing was compared, so nothing is verified: {reason}. The model ({type(model).__name__}) is unchanged. Give an "
        "example on which it returns tensors, or switch verification off and compare yourself."
    )


def _error(model: nn.Module, found: _Disagreement) -> VerificationError:
    """The error that names the widths at fault."""
    setup = found.setup

    def differs(widths: Sequence[str]) -> bool:
        try:
            _Proof(setup.only(widths), None)._attempt(found.scene, [found.numbers])
        except _Disagreement:
            return True
        except (_Unfit, PlanError):
            return False
        return False

    widths = at_fault(setup.widths, differs)
    names = ", ".join(widths[:3]) + (f" and {len(widths) - 3} more widths" if len(widths) > 3 else "")
    return VerificationError(
        f"{setup.told(names)} what {type(model).__name__} computes: on {found.scene.inputs}, in {found.scene.mode}, "
        f"{found}. Its code uses how many of these units there are, or where each one stands, in a way that a trace does not "
        f"see. The model is unchanged. Leave them whole with exclude={list(widths[:3])!r}, or let "
        'on_mismatch="freeze" do so.',
        widths=widths,
    )
