"""What to keep: the kept indices of every width, and everything that follows from them.

A Plan is complete in itself: it names the tensors, how their axes are made of widths, and the attributes to rewrite, so that
it can be applied without the trace it came from.

Invariant: kept indices are sorted, unique and in range; ``sizes`` counts them. Only the kept set of a block may be empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.core.depth import Passes, Renaming, inside
from secateur.core.equations import Attribute
from secateur.core.layout import Along, Axis, Indices, Layout, kept_indices, size_of, touches
from secateur.errors import PlanError, nearest

if TYPE_CHECKING:
    from secateur.core.graph import Graph

KeptSet = tuple[int, ...] | tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An integer attribute that must change: ``module`` and ``path`` say where, ``old`` is what is there now."""

    module: str
    path: str
    old: int
    new: int


class KeptSets(dict[str, KeptSet]):
    """Kept sets of the narrowed widths; asking for one that stays whole gives all of its indices."""

    def __init__(
        self, kept: Mapping[str, KeptSet] | Iterable[tuple[str, KeptSet]], sizes: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(kept)
        self._sizes = sizes or {}  # none where `dataclasses.asdict` copies it

    def __missing__(self, name: str) -> KeptSet:
        if name not in self._sizes:
            raise PlanError(f"the plan knows no width {name!r}.{nearest(name, self._sizes)}")
        return tuple(range(self._sizes[name]))

    def __reduce__(self) -> tuple[Any, ...]:
        return (KeptSets, (dict(self), self._sizes))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which units of which widths survive.

    ``kept`` maps each narrowed width to its sorted kept indices (one tuple, or one tuple per index of the width just
    outside it; none for a block that goes; a width that stays whole can be asked for, too); ``sizes`` maps every width to
    the number kept;
    ``fingerprint`` identifies the architecture. ``standing`` says of blocks that go, but leave a module in their place, what that
    gives on. ``stays`` are the integers that the code reads and that are to be what they are: whoever writes numbers into the
    network from elsewhere, a configuration, has to leave these.
    """

    kept: Mapping[str, KeptSet]
    sizes: Mapping[str, int]
    layouts: Mapping[str, Layout]
    edits: tuple[Edit, ...]
    fingerprint: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    standing: Mapping[str, Passes] = field(default_factory=dict)
    stays: Mapping[Attribute, int] = field(default_factory=dict)
    if TYPE_CHECKING:
        graph: Graph | None = field(default=None, compare=False, repr=False)
    else:  # no field: what copies or compares a plan as data (`dataclasses.asdict`) leaves it alone
        graph: InitVar[Graph | None] = None

    def __post_init__(self, *graph: Graph | None) -> None:
        object.__setattr__(self, "graph", graph[0] if graph else None)
        object.__setattr__(self, "kept", KeptSets(self.kept, self.sizes))

    @cached_property
    def arrays(self) -> Mapping[str, Indices]:
        """The kept sets as integer arrays that nobody can write to, by width; made once."""
        made = {name: np.array(kept, dtype=np.int64) for name, kept in self.kept.items()}
        for array in made.values():
            array.flags.writeable = False
        return MappingProxyType(made)

    @cached_property
    def drops(self) -> frozenset[str]:
        """The blocks that go whole, by dotted name."""
        return frozenset(name for name, kept in self.kept.items() if not kept)

    @cached_property
    def renamed(self) -> Renaming:
        """Called with the name of a module or tensor, what it is called afterwards; None where it goes with a block."""
        return Renaming.without(self.drops, self.standing)

    @cached_property
    def instead(self) -> Mapping[str, Passes | None]:
        """Of every block that goes, what the module in its place gives on; None where a list closes up."""
        return {name: self.standing.get(name) for name in sorted(self.drops)}

    @cached_property
    def narrowed(self) -> tuple[str, ...]:
        """The tensors that get smaller, by every name they have; those in blocks that go are none."""
        names = (n for n in self.layouts if not inside(n, self.drops)) if self.drops else self.layouts
        return tuple(n for n in names if any(touches(axis, self.arrays) for axis in self.layouts[n]))

    def narrows(self, tensor: str) -> bool:
        """Whether a tensor gets smaller."""
        return tensor in self._narrowed

    @cached_property
    def _narrowed(self) -> frozenset[str]:
        return frozenset(self.narrowed)

    def indices(self, tensor: str) -> tuple[Indices | None, ...]:
        """Kept indices of each axis of a tensor, or None where the axis is whole.

        An axis whose kept set depends on another axis (inputs of a grouped convolution) gives a matrix, one row for each
        index of the outer width.
        """
        if tensor not in self.layouts:
            raise PlanError(f"the plan knows no tensor {tensor!r}.{nearest(tensor, self.layouts)}")
        return tuple(_axis_indices(axis, self.arrays) for axis in self.layouts[tensor])

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor after narrowing."""
        return tuple(int(size_of(axis, self.sizes)) for axis in self.layouts[tensor])

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what is made from them is made again where a pickle is read."""
        return {name: vars(self)[name] for name in type(self).__dataclass_fields__}

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        """Itself, since nothing in it changes; a model that remembers its plans is copied without them."""
        return self

    def __str__(self) -> str:
        from secateur.core.show import plan_table

        return plan_table(self)

    def to_json(self) -> str:
        """This plan as JSON text; `from_json` gives back an equal one."""
        from secateur.core.json.plan import plan_to_json

        return plan_to_json(self)

    @staticmethod
    def from_json(text: str | bytes) -> Plan:
        """The plan that `to_json` wrote. Raises PlanError, naming the place, for anything else."""
        from secateur.core.json.plan import plan_from_json

        return plan_from_json(text)


def _axis_indices(axis: Axis, arrays: Mapping[str, Indices]) -> Indices | None:
    if not touches(axis, arrays):
        return None
    return arrays[axis.width] if isinstance(axis, Along) else kept_indices(axis, arrays)


def digest_of(plan: Plan) -> str:
    """The sha256 of all that a plan does to a model; its provenance (paths, times) is left out."""
    return hashlib.sha256(replace(plan, provenance={}).to_json().encode()).hexdigest()


def as_kept(name: str, given: object) -> Indices:
    """Indices as a caller gives them: ``[units]``, or ``[outer, units]``. Raises `PlanError` for what no list of indices is."""
    try:
        found = np.asarray(given)
    except ValueError:  # rows of different lengths
        found = np.asarray(given, dtype=object)
    if found.ndim in (1, 2) and (not found.size or found.dtype.kind in "iu"):
        return found.astype(np.int64)
    wanted = "what is kept is a list of indices, such as [0, 2, 5], or a list of them for each outer index"
    raise PlanError(f"{name}: {wanted}, not {given!r:.60}{_instead(name, found)}")


def _instead(name: str, found: np.ndarray[Any, Any]) -> str:
    if found.dtype.kind == "b":
        return "; numpy.flatnonzero(mask) makes indices of a mask"
    if found.ndim == 0 and found.dtype.kind in "iu":
        return f"; which of them, a criterion chooses: sc.plan(graph, criterion, sizes={{{name!r}: {found}}})"
    return ""


def check_kept(name: str, size: int, kept: Indices) -> None:
    """Raise `PlanError` unless these indices may be the kept set of a width of this size."""
    if kept.ndim not in (1, 2) or kept.size == 0:
        raise PlanError(f"{name}: the kept set is empty; at least one unit must stay")
    if kept.min() < 0 or kept.max() >= size:
        wrong = int(kept.min() if kept.min() < 0 else kept.max())
        raise PlanError(f"{name}: kept index {wrong} is out of range for a width of {size}: 0 to {size - 1}")
    if (np.diff(kept, axis=-1) <= 0).any():
        raise PlanError(f"{name}: kept indices must be sorted and unique")
