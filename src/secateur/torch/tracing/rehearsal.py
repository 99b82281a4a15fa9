"""A run on a narrower network, each operator held against what the run on the whole one said of it.

    record of the trace:  conv2d in layer1.0.conv1    (1, c1, 56, 56)      c1 = 20 now: is it (1, 20, 56, 56)?
                          relu in layer1.0.act        (1, c1, 56, 56)

Invariant: the model is untouched; nothing is learnt of spaces.
"""

from __future__ import annotations

import contextlib
import math
import random
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import torch
from torch import nn

from secateur.core.layout import size_of
from secateur.core.plan import Plan
from secateur.core.settle import size_now
from secateur.core.space import Space, is_frozen, leaves
from secateur.torch.narrowing.bookkeeping import refresh
from secateur.torch.narrowing.installing import install
from secateur.torch.narrowing.slices import narrowed
from secateur.torch.running.calls import Args, Kwargs, Operator, Result
from secateur.torch.running.constants import narrowable_tensors
from secateur.torch.running.outputs import output_tensors
from secateur.torch.running.outside import Outside
from secateur.torch.running.restoring import abstract_like
from secateur.torch.running.walking import modules_of
from secateur.torch.tracing.heard import OPEN, Call, is_alike, place_of_code
from secateur.torch.tracing.observe import Run, call_beside, real_like
from secateur.torch.tracing.records import Record
from secateur.torch.tracing.stage import Staging, perform
from secateur.torch.tracing.tracer import Tracer
from secateur.torch.tracing.trees import flat

COUNTS: Call = ("add_", (1.0,))  # what batch norm does in training: it counts its batches

# what brings a tensor into another form: PyTorch itself does so as memory lies
LAYOUT = frozenset(
    [
        "clone",
        "permute",
        "transpose",
        "view",
        "_unsafe_view",
        "_reshape_alias",
        "unsqueeze",
        "expand",
        "empty",
        "new_empty",
    ]
)
_SLICES = {"slice", "alias"}  # PyTorch makes the second of a slice that takes all
_COUNT = torch.ops.aten.add_.Tensor
_STATISTICAL = frozenset({"native_batch_norm"})  # what it saves is empty in evaluation


class Mismatch(Exception):
    """An operator gave another size than its spaces foretold."""


def told(error: Exception) -> str:
    """What went wrong, in a line: an error of the code's by its name, ours in our words."""
    text = str(error) if isinstance(error, Mismatch) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0][:160] if text else type(error).__name__


class Rehearsal(Tracer):
    """Runs operators without rules and holds their output sizes against the record of the trace."""

    def __init__(self, run: Run, sizes: dict[int, int] | None) -> None:
        """``sizes``: of the leaves that are narrowed; None for the whole network."""
        answers = run.tracer.answers
        super().__init__(abstract=run.tracer.abstract, answers=answers.again() if answers is not None else None)
        self.expected, self.sizes = run.tracer.records, sizes
        self.due = chain(run.tracer.calls, repeat(OPEN)) if OPEN in run.tracer.calls[-1:] else iter(run.tracer.calls)
        self.differs: str | None = None  # where the code called something else, or with another number
        self.place = 0
        self.compares = True  # operators; otherwise only what the code calls is held against what is due
        self.orders = True  # dimensions come in the order that is known; beside a size of one they may not
        self.following = True
        self.left_in: str | None = None  # the module whose code took another way, while it is not followed
        self.off: tuple[Space, int] | None = None  # a dimension that was not as large as foretold, and how large it was
        self.written: list[Space] = []  # a size that is written into the code, where that was found out
        self._random = random.Random(0)

    def _run_operator(self, func: Operator, args: Args, kwargs: Kwargs) -> Result:
        try:
            return super()._run_operator(func, args, kwargs)
        except Exception as error:
            raise Mismatch(told(error)) from error

    def observe(self, func: Operator, out: Result, args: Args, kwargs: Kwargs) -> None:
        name = (func._schema.name if hasattr(func, "_schema") else func.__name__).removeprefix("aten::")
        outputs = [t for t in flat(out) if isinstance(t, torch.Tensor)]
        if name.startswith("prim::") or not outputs or not self.compares:
            return
        record = self._due(name, outputs) if self.following else self._met_again(name, outputs)
        if record is None:
            # other numbers took another way: another expert, say, whose sizes are its own
            if self.following and name not in LAYOUT:
                self.following, self.left_in = False, self.module
            return
        self._compare_all(name, outputs, record)
        if record.ahead is not None and name == "slice":
            self._compare_start(record.ahead, *args, **kwargs)
        self.place += 1

    def _compare_start(
        self, ahead: Space, x: torch.Tensor, dim: int, start: int | None, end: int | None = None, step: int = 1
    ) -> None:
        """``x[:, 3:4]`` takes one of whatever is left: it must be the same one."""
        got, want = slice(start, end).indices(x.shape[dim])[0], self._size(ahead)
        if got != want:
            self.written, self.off = [ahead], (ahead, got)
            raise Mismatch(_otherwise("a slice starts at", got, ahead))

    def _due(self, name: str, outputs: list[torch.Tensor]) -> Record | None:
        """The record of an operator, past those that PyTorch leaves out where a size is one or memory is in order. It may leave
        out the first of two alike: of those next to one another, the one is due that fits."""
        found: int | None = None
        for place in range(self.place, len(self.expected)):
            record = self.expected[place]
            if record.module == self.module and (record.name == name or {record.name, name} == _SLICES):
                found = place if found is None else found
                if name not in LAYOUT or self._fits(name, outputs, record):
                    found = place
                    break
            elif name in LAYOUT and found is None:
                return None
            if record.name not in LAYOUT:
                break
        if found is None:
            return None
        self.place = found
        return self.expected[found]

    def _fits(self, name: str, outputs: list[torch.Tensor], record: Record) -> bool:
        with contextlib.suppress(Mismatch):
            self._compare_all(name, outputs, record)
            return True
        return False

    def _met_again(self, name: str, outputs: list[torch.Tensor]) -> Record | None:
        """The record from which on another module than the one that went its own way does what is due, sizes and all."""
        if name in LAYOUT or self.module == self.left_in:
            return None
        for place in range(self.place, len(self.expected)):
            record = self.expected[place]
            if record.module == self.module and record.name == name:
                if not self._fits(name, outputs, record):
                    return None
                self.place, self.following = place, True
                return record
        return None

    def passes(self, value: object, caller: str, called: str) -> None:
        """Nothing is learnt of who holds what."""

    def hears(self, call: Call) -> None:
        """Hold a call against the one that is due."""
        if self.differs is None and not ((due := next(self.due, None)) and is_alike(due, call)):
            self.differs = f"{call[0]} at {place_of_code()}"

    def ends(self) -> None:
        """The run is over: nothing more may be due."""
        if self.differs is None and (missing := next(self.due, None)) and missing is not OPEN:
            self.differs = f"{missing[0]} is not called"

    def _compare_all(self, name: str, outputs: list[torch.Tensor], record: Record) -> None:
        for tensor, layout in zip(outputs, record.outputs, strict=False):
            if self.orders or name not in LAYOUT:
                self.compare(name, tensor, layout)
            else:
                self._compare_all_numbers(name, tensor, layout)

    def _compare_all_numbers(self, name: str, tensor: torch.Tensor, layout: list[Space]) -> None:
        """Where PyTorch orders dimensions otherwise, since one has a size of one, there are as many numbers as ever."""
        if self.abstract or not any(map(is_frozen, layout)):
            want = math.prod(map(self._size, layout))
            if tensor.numel() != want:
                raise Mismatch(f"{name} does not give as many numbers as the widths say that it is made of")

    def compare(self, name: str, tensor: torch.Tensor, layout: list[Space]) -> None:
        """Raise Mismatch unless a tensor has the sizes that its spaces foretell."""
        for got, space in zip(tensor.shape, layout, strict=False):
            if not self.abstract and is_frozen(space):
                continue
            want = self._size(space)
            if got != want:
                self.off = space, got
                raise Mismatch(_otherwise(f"{name} gives a dimension of", got, space))

    def _size(self, space: Space) -> int:
        if self.sizes is None:
            return space.size
        for leaf in leaves(space):
            self.sizes.setdefault(id(leaf), leaf.size)  # what belongs to no width stays as it is
        return size_now(space, self.sizes, self._random)


def _otherwise(what: str, got: int, space: Space) -> str:
    """How a size is wrong. What was tried is nobody's number: only what it is in the whole network is said."""
    whole = space.root().size
    if got == whole:
        return f"{what} {whole}, which should follow the widths that it is made of"
    return f"{what} {whole} in the whole network, and in a narrower one not what its widths say"


class Training(Rehearsal):
    """Holds a run in training mode against the one in evaluation mode: does its code take the same course?

    Dropout gives what it was given, and statistics are counted and updated: that is known of every training.
    """

    def __init__(self, run: Run, sizes: dict[int, int] | None = None) -> None:
        super().__init__(run, sizes)
        self.keeps_all = True

    def observe(self, func: Operator, out: Result, args: Args, kwargs: Kwargs) -> None:
        if not (func is _COUNT and out.dim() == 0 and not out.is_floating_point()):
            super().observe(func, out, args, kwargs)
        if not self.following:
            raise Mismatch(f"{self.module} does something else in training")

    def hears(self, call: Call) -> None:
        if call != COUNTS:
            super().hears(call)

    def compare(self, name: str, tensor: torch.Tensor, layout: list[Space]) -> None:
        if not (name in _STATISTICAL and tensor.dim() == 1):
            super().compare(name, tensor, layout)

    @property
    def followed(self) -> bool:
        """Whether the run, which has ended, was that of evaluation."""
        return self.following and self.differs is None and self.place == len(self.expected)


def is_quick_to_train(run: Run) -> bool:
    """Whether a run without rules can tell how the model trains; what is read in training may be other values."""
    return run.tracer.abstract and run.whole and run.tracer.answers is None


def trains_alike(run: Run, outside: Outside) -> bool:
    """Whether the model, in training mode, calls what it calls in evaluation mode, operator by operator."""
    return _follows(run, Training(run), outside)


def trains_as_foretold(run: Run, plan: Plan, sizes: dict[int, int], outside: Outside) -> bool:
    """Whether a twin narrowed to a plan, in training mode, does what the whole network's evaluation foretells."""
    return _follows(run, Training(run, sizes), outside, plan)


def _follows(run: Run, training: Training, outside: Outside, plan: Plan | None = None) -> bool:
    with contextlib.suppress(Exception):
        _run(replace(run, training=True), training, outside, plan)
        return training.followed
    return False


def run_narrowed(run: Run, plan: Plan, rehearsal: Rehearsal, outside: Outside) -> None:
    """Run a twin narrowed to a plan. Raises Mismatch, or what the model's code raises."""
    _run(run, rehearsal, outside, plan)


def _run(run: Run, rehearsal: Rehearsal, outside: Outside, plan: Plan | None = None) -> None:
    abstract = rehearsal.abstract
    smaller = {} if abstract or plan is None else narrowed(narrowable_tensors(run.example.model), plan)

    def stand_in(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if abstract:
            return rehearsal.owned(abstract_like(tensor, None if plan is None else _narrowed_shape(plan, name, tensor)))
        return rehearsal.owned(real_like(smaller.get(name, tensor)))

    def prepare(twin: nn.Module) -> None:
        if plan is not None:
            install(twin, {}, plan.edits, undo=_nothing)
            _refresh_all(twin)
        call_beside(twin, run.beside)

    def look(output: Any) -> None:
        rehearsal.ends()
        for tensor, layout in zip(output_tensors(output), run.outputs, strict=False):
            if abstract:
                rehearsal.compare("the model", tensor, layout)

    def taken(tensor: torch.Tensor) -> torch.Tensor:
        return rehearsal.owned(abstract_like(tensor.detach()) if abstract else tensor.detach().clone())

    staging = Staging(
        stand_in=stand_in, taken=taken, prepare=prepare, training=run.training, reading=False, times=run.times
    )
    perform(run.example, rehearsal, staging, look, outside)


def _nothing() -> None:
    """A twin that could not be narrowed is let go of."""


def _refresh_all(model: nn.Module) -> None:
    for module in modules_of(model):
        if type(module).__module__.startswith("torch.nn."):
            refresh(module)


def _narrowed_shape(plan: Plan, name: str, tensor: torch.Tensor) -> tuple[int, ...] | None:
    if name not in plan.layouts:
        return None
    shape = tuple(int(size_of(axis, plan.sizes)) for axis in plan.layouts[name])
    return None if shape == tuple(tensor.shape) else shape
