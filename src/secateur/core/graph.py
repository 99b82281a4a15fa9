"""What is coupled: the widths of a network, where each is used, and what the network costs as a function of them.

    Graph
    ├── widths      the independent dimensions, each with its uses, its choices, and why it is frozen if it is
    ├── layouts     every tensor's axes, made of widths
    ├── equations   integers in the code that follow from widths
    ├── stacks      lists of modules of which some may go whole: each such block is a width with the choices 0 and 1
    └── costs       macs, params, weight_bytes, … as functions of the widths, each share known by module

Invariant: a Graph is data. It holds no tensor and no module but the example the trace ran on, and never changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from secateur.core.cached import is_of_cache, sized
from secateur.core.cost import Amount, Cost
from secateur.core.depth import LAYERS, Stack, emptied, inside, renumbered, standing
from secateur.core.equations import (
    Attribute,
    Contradiction,
    Difference,
    Equation,
    attributes_of,
    evaluate,
    solve,
    widths_in,
)
from secateur.core.layout import Indices, Layout
from secateur.core.plan import Edit, Plan, as_kept, check_kept
from secateur.core.tape import Counts
from secateur.errors import Coincidence, PlanError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A place where a width occurs: an axis of a tensor."""

    tensor: str
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """An independent dimension of the network.

    ``kind`` is a field word (channels, features, heads, head_dim, …); ``size`` what it is now; ``choices`` the counts it may
    take, ascending; ``exact`` says that removing a unit equals zeroing it; ``frozen`` is None or the reason it may not be
    narrowed; ``outer`` names the width just outside it where each index of that one may keep another set.
    """

    name: str
    kind: str
    size: int
    choices: tuple[int, ...]
    exact: bool
    frozen: str | None = None
    inexact_reason: str | None = None
    outer: str | None = None
    multiplier: int = 1  # how many positions of the full axis one unit stands for (inner factors)
    uses: tuple[Use, ...] = ()

    def whole(self, reason: str) -> Width:
        """The same width, never to be narrowed for this reason; one that is frozen already keeps its own."""
        return self if self.frozen is not None else replace(self, frozen=reason, choices=(self.size,))


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The coupled dimensions of one model, as seen while running it once on its example."""

    widths: tuple[Width, ...]
    layouts: Mapping[str, Layout]
    equations: tuple[Equation, ...]
    attributes: Mapping[Attribute, int]
    costs: Mapping[str, Cost]
    fingerprint: str
    module_types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parameters: frozenset[str] = frozenset()
    differences: tuple[Difference, ...] = ()
    outputs: tuple[Layout, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: frozenset[Attribute] = frozenset()  # those that the code calculates with
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    example: Any = field(default=None, compare=False, repr=False)
    outputs_also: tuple[tuple[Layout, ...], ...] = field(default=(), compare=False, repr=False)  # of further examples
    stacks: tuple[Stack, ...] = ()

    def __getitem__(self, name: str) -> Width:
        try:
            return self._by_name[name]
        except KeyError:
            some = ", ".join([*self._by_name][:4]) + (", …" if len(self.widths) > 4 else "")
            hint = nearest(name, self._by_name) or f" There are {some}: all of them are in graph.widths."
            raise PlanError(f"no width is called {name!r}.{hint}") from None

    def __iter__(self) -> Iterator[Width]:
        return iter(self.widths)

    @cached_property
    def _by_name(self) -> dict[str, Width]:
        return {w.name: w for w in self.widths}

    @cached_property
    def _of_cache(self) -> dict[str, Cost]:
        """What was asked for at sizes other than the example's: a search asks thousands of times."""
        return {}

    @property
    def free(self) -> tuple[Width, ...]:
        """The widths that may be narrowed."""
        return tuple(w for w in self.widths if w.frozen is None)

    @property
    def configurable(self) -> tuple[Width, ...]:
        """The free widths with more than one choice."""
        return tuple(w for w in self.free if len(w.choices) > 1)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass on the example, all widths whole."""
        return int(self.cost("macs"))

    @property
    def params(self) -> int:
        """Number of parameters, all widths whole."""
        return int(self.cost("params"))

    def cost(self, metric: str, counts: Counts | Plan | None = None) -> Amount:
        """A cost at given counts (ints, or integer arrays of candidates) or those of a plan; widths not named are whole."""
        return self._cost(metric).value(counts.sizes if isinstance(counts, Plan) else counts or {})

    def cost_by_module(self, metric: str, counts: Mapping[str, int] | Plan | None = None) -> Mapping[str, float]:
        """The share of each module in a cost, by dotted name, ``""`` for what the model itself does; they sum to the cost."""
        return self._cost(metric).by_module(counts.sizes if isinstance(counts, Plan) else counts or {})

    def _cost(self, metric: str) -> Cost:
        if is_of_cache(metric):
            if metric not in self._of_cache:
                self._of_cache[metric] = sized(self.costs, metric)
            return self._of_cache[metric]
        try:
            return self.costs[metric]
        except KeyError:
            raise PlanError(f"no cost is called {metric!r}.{nearest(metric, self.costs)}") from None

    def with_cost(self, metric: str, cost: Cost) -> Graph:
        """The same graph with one more cost to bound, to report and to tabulate (or another one under that name)."""
        return replace(self, costs={**self.costs, metric: cost})

    def table(
        self, metric: str = "macs", plan: Plan | None = None, *, limit: int | None = 60, width: int | None = None
    ) -> str:
        """A cost layer by layer, as text: every module that has a share in it, and with a plan what is left of it.

        Siblings share a line once there are more than ``limit`` lines, and beyond that the smallest are summed in one;
        ``limit=None`` gives each module its own. No line is longer than ``width``, 120 characters by default.
        """
        from secateur.core.show import cost_table

        return cost_table(self, metric, plan, limit=limit, width=width)

    def full(self) -> dict[str, int]:
        """The count of every width, all whole."""
        return {w.name: w.size for w in self.widths}

    def with_widths(self, widths: Iterable[Width]) -> Graph:
        """The same graph with other choices or frozen reasons."""
        return replace(self, widths=tuple(widths))

    def frozen(self, names: Collection[str], reason: str) -> Graph:
        """The same graph with these widths left whole, for one reason; those that are frozen keep their own."""
        return self.with_widths(w.whole(reason) if w.name in names else w for w in self.widths)

    def plan(self, kept: Mapping[str, object], provenance: Mapping[str, Any] | None = None) -> Plan:
        """The plan that keeps these indices of these widths, and all of the others.

        Of a block that goes (a width of kind ``layers``) no index is kept. Raises PlanError for an unknown or frozen width,
        for indices that are no integers, empty, unsorted, repeated or out of range, and where a stack would lose all its blocks.
        """
        if not isinstance(kept, Mapping):
            raise PlanError(f'what is kept is written {{"conv1.out_channels": [0, 2, 5]}}, not {kept!r:.60}')
        arrays: dict[str, Indices] = {}
        for name, indices in kept.items():
            width = self[name]
            array = as_kept(name, indices)
            if width.kind != LAYERS or array.size:
                check_kept(name, width.size, array)
            if array.shape[-1] == width.size:
                continue
            if width.frozen is not None:
                raise PlanError(f"{name} cannot be narrowed: {width.frozen}")
            if array.ndim == 2 and (width.outer is None or len(array) != self[width.outer].size):
                raise PlanError(f"{name}: one kept set per outer index needs {width.outer or 'an outer width'}")
            arrays[name] = array
        sizes = {w.name: int(arrays[w.name].shape[-1]) if w.name in arrays else w.size for w in self.widths}
        drops = frozenset(name for name, array in arrays.items() if not array.size)
        if (stack := emptied(self.stacks, drops)) is not None:
            raise PlanError(f"nothing of {stack or 'the model'} would be left: at least one of its blocks must stay")
        edits = self._edits(sizes, drops)
        return Plan(
            kept={name: _as_tuples(array) for name, array in arrays.items()},
            sizes=sizes,
            layouts=self.layouts,
            edits=edits,
            fingerprint=self.fingerprint,
            provenance=dict(provenance or {}),
            standing={name: passes for name, passes in standing(self.stacks).items() if name in drops},
            stays=self._stays(edits, drops),
            graph=self,
        )

    def _edits(self, sizes: Mapping[str, int], drops: frozenset[str]) -> tuple[Edit, ...]:
        try:
            values = solve(self.equations, self.attributes, sizes)
        except Contradiction as contradiction:
            raise PlanError(f"these widths contradict each other in the model's code: {contradiction}") from None
        self._check_differences(values, sizes)
        changed = [(a, self.attributes[a], value) for a, value in values.items() if value != self.attributes[a]]
        if drops:
            changed = [c for c in changed if not inside(c[0].module, drops)]
            changed += [c for c in renumbered(self.stacks, drops) if c[0] not in {a for a, _, _ in changed}]
        return tuple(Edit(module=a.module, path=a.path, old=old, new=new) for a, old, new in changed)

    @cached_property
    def _read(self) -> Mapping[Attribute, int]:
        """The integers that the code goes on with."""
        read = {a for equation in self.equations for a in attributes_of(equation.expression)} | self.numbers
        return {a: self.attributes[a] for a in sorted(read, key=str) if a in self.attributes}

    def _stays(self, edits: Sequence[Edit], drops: frozenset[str]) -> Mapping[Attribute, int]:
        rewritten = {Attribute(edit.module, edit.path) for edit in edits}
        return {a: n for a, n in self._read.items() if a not in rewritten and not inside(a.module, drops)}

    def _check_differences(self, values: Mapping[Attribute, int], sizes: Mapping[str, int]) -> None:
        for difference in self.differences:
            left, right = (evaluate(side, values, sizes) for side in (difference.left, difference.right))
            if left == right:
                narrowed = [n for n in widths_in(difference, self.equations) if sizes[n] != self[n].size]
                if narrowed:
                    raise Coincidence(narrowed[-1], sizes[narrowed[-1]], left, difference.where)

    def __str__(self) -> str:
        from secateur.core.show import graph_summary

        return graph_summary(self)

    def to_json(self) -> str:
        """This graph as JSON text; `from_json` gives back an equal one."""
        from secateur.core.json.graph import graph_to_json

        return graph_to_json(self)

    @staticmethod
    def from_json(text: str | bytes) -> Graph:
        """The graph that `to_json` wrote. Raises InputError, naming the place, for anything else."""
        from secateur.core.json.graph import graph_from_json

        return graph_from_json(text)


def _as_tuples(array: Indices) -> Any:
    return tuple(array.tolist()) if array.ndim == 1 else tuple(map(tuple, array.tolist()))
