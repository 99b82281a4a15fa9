"""Nothing broken leaves the building: what a graph says can be narrowed is narrowed, and run.

    narrow every free width, each to another share ──► run ──► each operator gives the sizes its spaces foretold?
                ▲                                          │ no: freeze what that operator touched, why
                └──────────────────────────────────────────┘

Runs on tensors without data (milliseconds a round), or on real ones where the trace needed them.

Invariant: ends with a graph whose narrowed network has been seen to run.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
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
from secateur.core.settle import size_now
from secateur.core.space import Space, freeze, is_frozen, leaves
from secateur.errors import PlanError, TraceError
from secateur.torch.narrowing.bookkeeping import refresh
from secateur.torch.narrowing.installing import install
from secateur.torch.narrowing.slices import narrowed
from secateur.torch.running.calls import Args, Kwargs, Operator, Result
from secateur.torch.running.outputs import output_tensors
from secateur.torch.running.outside import Outside
from secateur.torch.running.restoring import abstract_like, named_tensors
from secateur.torch.tracing.observe import Observation, Run, real_like
from secateur.torch.tracing.records import Record
from secateur.torch.tracing.stage import Staging, perform
from secateur.torch.tracing.tracer import Tracer, _flat

ROUNDS = 60


class Mismatch(Exception):
    """An operator gave another size than its spaces foretold."""


class Rehearsal(Tracer):
    """Runs operators without rules and holds their output sizes against the record of the trace."""

    def __init__(self, *, abstract: bool, records: list[Record], sizes: dict[int, int]) -> None:
        super().__init__(abstract=abstract)
        self.expected, self.sizes = records, sizes
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
        if self.place >= len(self.expected) or self.expected[self.place].name != name:
            self.following = False
            return
        record = self.expected[self.place]
        for tensor, layout in zip(outputs, record.outputs, strict=False):
            self.compare(name, tensor, layout)
        self.place += 1

    def compare(self, name: str, tensor: torch.Tensor, layout: list[Space]) -> None:
        """Raise Mismatch unless a tensor has the sizes that its spaces foretell."""
        for got, space in zip(tensor.shape, layout, strict=False):
            if not self.abstract and is_frozen(space):
                continue
            want = size_now(space, self.sizes, self._random)
            if got != want:
                raise Mismatch(f"{name} gives a dimension of {got} where {want} is due")


def check_by_running(seen: Observation, graph: Graph, leaf_of: dict[str, Space]) -> str | None:
    """Narrow and run once; None if all went as foretold, else what was frozen because of it."""
    generator = random.Random(0)
    counts = {w.name: _some_count(w, generator.uniform(0.3, 0.8)) for w in graph.free if len(w.choices) > 1}
    try:
        plan = _without_coincidence(graph, counts)
    except PlanError as error:
        return _freeze_contradiction(graph, counts, leaf_of, str(error))
    sizes = {id(leaf_of[name].root()): count for name, count in counts.items()}
    for run in _different(seen.runs, sizes):
        rehearsal = Rehearsal(abstract=run.tracer.abstract, records=run.tracer.records, sizes=sizes)
        try:
            _run_narrowed(run, plan, rehearsal, seen.outside)
        except Exception as error:
            return _freeze_around(seen, run, rehearsal, f"{type(error).__name__}: {error}".splitlines()[0][:160])
    return None


def _different(runs: list[Run], narrowed: Collection[int]) -> Iterator[Run]:
    """The runs that came to their end, without those that took the course of one before: most train as they evaluate."""
    courses = []
    for run in runs:
        course = run.tracer.abstract, _course(run, narrowed)
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
    """A count that is allowed, near this share of the width, and less than all."""
    return min(width.choices[:-1], key=lambda count: abs(count - share * width.size))


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
