"""Nothing broken leaves the building: what a graph says can be narrowed is narrowed, and run.

    narrow every free width, each to another share ──► run ──► each operator gives the sizes its spaces foretold?
                ▲                                          │ no: freeze what that operator touched, why
                └──────────────────────────────────────────┤ the same calls, with the same numbers?
                                                           │ no: freeze the widths whose size the code uses unseen

Runs on tensors without data (milliseconds a round), or on real ones where the trace needed them.

Invariant: ends with a graph whose narrowed network has been seen to run.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.coincidence import Avoided, unless_coincident
from secateur.core.equations import Contradiction, solve
from secateur.core.graph import Graph, Width
from secateur.core.layout import size_of
from secateur.core.plan import Plan
from secateur.core.settle import counted, size_now
from secateur.core.space import Space, freeze, is_frozen, leaves
from secateur.errors import PlanError, TraceError
from secateur.torch.narrowing.bookkeeping import refresh
from secateur.torch.narrowing.installing import install
from secateur.torch.narrowing.slices import narrowed
from secateur.torch.running.calls import Args, Kwargs, Operator, Result
from secateur.torch.running.outputs import output_tensors
from secateur.torch.running.outside import Outside
from secateur.torch.running.restoring import abstract_like, named_tensors
from secateur.torch.tracing.heard import Call, is_alike, place_of_code
from secateur.torch.tracing.observe import Observation, Run, real_like
from secateur.torch.tracing.records import Record
from secateur.torch.tracing.stage import Staging, perform
from secateur.torch.tracing.tracer import Tracer, _flat

ROUNDS = 60
_LAYOUT = frozenset(["clone", "permute", "transpose", "view", "_unsafe_view", "_reshape_alias", "unsqueeze", "expand"])
_SLICES = {"slice", "alias"}  # PyTorch makes the second of a slice that takes all
_COUNTS = ("add_", (1.0,))  # what batch norm does in training: it counts its batches
SHARES = ((0.3, 0.8), (0.1, 0.3))  # of each width, drawn between these: a threshold in the code lies on one side


class Mismatch(Exception):
    """An operator gave another size than its spaces foretold."""


class Rehearsal(Tracer):
    """Runs operators without rules and holds their output sizes against the record of the trace."""

    def __init__(self, run: Run, sizes: dict[int, int]) -> None:
        answers = run.tracer.answers
        super().__init__(abstract=run.tracer.abstract, answers=answers.again() if answers is not None else None)
        self.expected, self.sizes = run.tracer.records, sizes
        self.due = iter(run.tracer.calls)
        self.differs: str | None = None  # where the code called something else, or with another number
        self.place = 0
        self.following = True
        self._random = random.Random(0)

    def __torch_dispatch__(
        self, func: Operator, types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Result:
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        except Mismatch:
            raise
        except Exception as error:
            raise Mismatch(f"{error}".splitlines()[0][:160]) from error

    def observe(self, func: Operator, out: Result, args: Args, kwargs: Kwargs) -> None:
        name = (func._schema.name if hasattr(func, "_schema") else func.__name__).removeprefix("aten::")
        outputs = [t for t in _flat(out) if isinstance(t, torch.Tensor)]
        if name.startswith("prim::") or not outputs or not self.following:
            return
        record = self._due(name)
        if record is None:
            # other numbers took another way: another expert, say, whose sizes are its own
            self.following = name in _LAYOUT
            return
        for tensor, layout in zip(outputs, record.outputs, strict=False):
            self.compare(name, tensor, layout)
        self.place += 1

    def _due(self, name: str) -> Record | None:
        """The record of an operator, past those that PyTorch leaves out where a size is one or memory is in order."""
        place = self.place
        while place < len(self.expected):
            record = self.expected[place]
            if record.module == self.module and (record.name == name or {record.name, name} == _SLICES):
                self.place = place
                return record
            if name in _LAYOUT or record.name not in _LAYOUT:
                return None
            place += 1
        return None

    def passes(self, value: object, caller: str, called: str) -> None:
        """Nothing is learnt of who holds what."""

    def hears(self, call: Call) -> None:
        """Hold a call against the one that is due."""
        if self.differs is None and not ((due := next(self.due, None)) and is_alike(due, call)):
            self.differs = f"{call[0]} at {place_of_code()}"

    def ends(self) -> None:
        """The run is over: nothing more may be due."""
        if self.differs is None and (missing := next(self.due, None)):
            self.differs = f"{missing[0]} is not called"

    def compare(self, name: str, tensor: torch.Tensor, layout: list[Space]) -> None:
        """Raise Mismatch unless a tensor has the sizes that its spaces foretell."""
        for got, space in zip(tensor.shape, layout, strict=False):
            if not self.abstract and is_frozen(space):
                continue
            want = size_now(space, self.sizes, self._random)
            if got != want:
                raise Mismatch(f"{name} gives a dimension of {got} where {want} is due")


def check_by_running(seen: Observation, graph: Graph, leaf_of: dict[str, Space]) -> str | None:
    """Narrow and run, to middling counts and to small ones; None if all went as foretold, else what was frozen because of it."""
    free = [w for w in graph.free if len(w.choices) > 1]
    runs = list(_different(seen.runs, {id(leaf_of[w.name].root()) for w in free}))
    for least, most in SHARES:
        generator = random.Random(0)
        shares = {w.name: generator.uniform(least, most) for w in free}
        counts = {name: _some_count(graph[name], share) for name, share in shares.items()}
        try:
            plan = _without_coincidence(graph, counts)
        except PlanError as error:
            return _freeze_contradiction(graph, counts, leaf_of, str(error))
        if found := _check_plan(seen, runs, plan, leaf_of):
            return found
    return None


def _check_plan(seen: Observation, runs: list[Run], plan: Plan, leaf_of: dict[str, Space]) -> str | None:
    graph = plan.graph
    assert graph is not None
    sizes = {id(leaf_of[name].root()): plan.sizes[name] for name in plan.kept}
    for run in runs:
        rehearsal = Rehearsal(run, sizes)
        try:
            _run_narrowed(run, plan, rehearsal, seen.outside)
        except Exception as error:
            if rehearsal.differs and (found := _freeze_told(seen, run, graph, plan, leaf_of)):
                return found
            return _freeze_around(seen, run, rehearsal, f"{type(error).__name__}: {error}".splitlines()[0][:160])
        if rehearsal.differs and (found := _freeze_told(seen, run, graph, plan, leaf_of)):
            return found
    return None


def _freeze_told(seen: Observation, run: Run, graph: Graph, plan: Plan, leaf_of: dict[str, Space]) -> str | None:
    """Freeze the widths on whose size depends what the code calls, in a way that no equation says; what was frozen."""
    known = counted(seen.tracer.facts)
    where = ""

    def differs(names: Sequence[str]) -> bool:
        nonlocal where
        try:
            part = graph.plan({name: plan.arrays[name] for name in names})
        except PlanError:
            return False
        rehearsal = Rehearsal(run, {id(leaf_of[w.name].root()): part.sizes[w.name] for w in graph.free})
        with contextlib.suppress(Exception):  # on another course it may not come to its end
            _run_narrowed(run, part, rehearsal, seen.outside)
        where = rehearsal.differs or where
        return rehearsal.differs is not None

    suspects = [name for name in plan.kept if id(leaf_of[name].root()) not in known]
    found = _those(suspects, differs)
    for name in found:
        freeze(leaf_of[name], f"the code uses its size where it cannot be followed ({where})")
    return ", ".join(found) or None


def _those(names: Sequence[str], differs: Callable[[Sequence[str]], bool]) -> list[str]:
    """The names that by themselves, or only with others of their half, make a difference."""
    if not names or not differs(names):
        return []
    if len(names) == 1:
        return list(names)
    middle = len(names) // 2
    return _those(names[:middle], differs) + _those(names[middle:], differs) or list(names)


def _different(runs: list[Run], narrowed: Collection[int]) -> Iterator[Run]:
    """The runs that came to their end, without those that took the course of one before: most train as they evaluate."""
    courses = []
    for run in runs:
        calls = [call for call in run.tracer.calls if call != _COUNTS]
        course = run.tracer.abstract, calls, _course(run, narrowed)
        if run.whole and course not in courses:
            courses.append(course)
            yield run


def _course(run: Run, narrowed: Collection[int]) -> list[tuple[object, ...]]:
    """The operators of a run that met what is narrowed, in order, and all dimensions that they met."""
    course: list[tuple[object, ...]] = []
    for record in run.tracer.records:
        met = [leaves(space) for space in chain(record.inputs, *record.outputs[:1])]  # not the statistics it saves
        if any(id(leaf) in narrowed for found in met for leaf in found):
            sizes = [tuple(id(leaf) if id(leaf) in narrowed else leaf.size for leaf in found) for found in met]
            course.append((record.name, record.module, len(record.inputs), sizes))
    return course


def _some_count(width: Width, share: float) -> int:
    """A count that is allowed, near this share of the width, less than all, and more than one: sizes of one are special."""
    choices = [count for count in width.choices[:-1] if count > 1] or width.choices[:-1]
    return min(choices, key=lambda count: abs(count - share * width.size))


def _without_coincidence(graph: Graph, counts: dict[str, int]) -> Plan:
    """A plan for about these counts; moves a count that would make two sizes equal which the code tells apart."""

    def moved(avoided: Avoided) -> Plan:
        for name, taken in avoided.items():
            choices = graph[name].choices
            while counts[name] in taken and len(taken) < len(choices):
                counts[name] = choices[(choices.index(counts[name]) + 1) % len(choices)]
        return _some_plan(graph, counts)

    return unless_coincident(moved)


def _some_plan(graph: Graph, counts: dict[str, int]) -> Plan:
    generator = np.random.default_rng(0)
    kept = {name: np.sort(generator.choice(graph[name].size, count, replace=False)) for name, count in counts.items()}
    return graph.plan(kept)


def _run_narrowed(run: Run, plan: Plan, rehearsal: Rehearsal, outside: Outside) -> None:
    abstract = rehearsal.abstract
    smaller = {} if abstract else narrowed(named_tensors(run.example.model), plan)

    def stand_in(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if abstract:
            return rehearsal.owned(abstract_like(tensor, _narrowed_shape(plan, name, tensor)))
        return rehearsal.owned(real_like(smaller[name] if plan.narrows(name) else tensor))

    def prepare(twin: nn.Module) -> None:
        install(twin, {}, plan.edits)
        _refresh_all(twin)

    def look(output: Any) -> None:
        rehearsal.ends()
        for tensor, layout in zip(output_tensors(output), run.outputs, strict=False):
            if abstract:
                rehearsal.compare("the model", tensor, layout)

    def taken(tensor: torch.Tensor) -> torch.Tensor:
        return rehearsal.owned(abstract_like(tensor.detach()) if abstract else tensor.detach().clone())

    staging = Staging(stand_in=stand_in, taken=taken, prepare=prepare, training=run.training, reading=False)
    perform(run.example, rehearsal, staging, look, outside)


def _refresh_all(model: nn.Module) -> None:
    for module in model.modules():
        if type(module).__module__.startswith("torch.nn."):
            refresh(module)


def _narrowed_shape(plan: Plan, name: str, tensor: torch.Tensor) -> tuple[int, ...] | None:
    if name not in plan.layouts:
        return None
    shape = tuple(int(size_of(axis, plan.sizes)) for axis in plan.layouts[name])
    return None if shape == tuple(tensor.shape) else shape


def _freeze_around(seen: Observation, run: Run, rehearsal: Rehearsal, why: str) -> str:
    """Freeze what the failing operator touched; if that was frozen already, what its module holds; then its parent."""
    module = rehearsal.module
    reason = f"does not run when narrowed ({module or 'the model'}: {why})"
    records = run.tracer.records
    if rehearsal.following and records:
        place = min(rehearsal.place, len(records) - 1)
        written = [space for first, last, space in run.tracer.constants if first <= place < last]
        if _freeze_free(written, f"a size written into the code ({module or 'the model'})"):
            return reason
        record = records[place]
        if _freeze_free([*record.inputs, *(s for layout in record.outputs for s in layout)], reason):
            return reason
    while True:
        prefix = f"{module}." if module else ""
        spaces = [s for name, layout in seen.spaces.items() if name.startswith(prefix) for s in layout]
        if _freeze_free(spaces, reason):
            return reason
        if not module:
            raise TraceError(f"the narrowed model does not run and nothing is left to freeze: {why}")
        module = module.rpartition(".")[0]


def _freeze_free(spaces: list[Space], reason: str) -> bool:
    free = [leaf for space in spaces for leaf in leaves(space) if not leaf.frozen and leaf.size > 1]
    for leaf in free:
        freeze(leaf, reason)
    return bool(free)


def _freeze_contradiction(graph: Graph, counts: dict[str, int], leaf_of: dict[str, Space], why: str) -> str:
    from secateur.core.layout import widths_of

    reason = f"sizes in the code contradict each other ({why[:120]})"
    try:
        solve(graph.equations, graph.attributes, counts)
    except Contradiction as contradiction:
        names = {n for e in contradiction.equations for n in widths_of(e.axis)}
        for name in names or set(counts):
            freeze(leaf_of[name], reason)
    return reason
