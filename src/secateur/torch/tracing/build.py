"""From one run to a Graph: leaves get names, axes and costs are written over these names.

Invariant: building reads spaces and changes none; the same observation gives the same graph.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import pairwise

from torch import nn

from secateur.core.cost import Cost, Monomial, Peak, Polynomial, Term
from secateur.core.equations import Attribute
from secateur.core.graph import Graph, Use, Width
from secateur.core.layout import Along, Axis, Layout, Product, Sum
from secateur.core.settle import axis_of, differences_for, equations_for
from secateur.core.sized import Origin
from secateur.core.space import Form, Space, factors, leaves
from secateur.torch.narrowing.fingerprint import fingerprint
from secateur.torch.running.memory import held_bytes
from secateur.torch.running.restoring import named_tensors
from secateur.torch.running.walking import named_parameters
from secateur.torch.tracing.names import Names, module_types
from secateur.torch.tracing.observe import Observation
from secateur.torch.tracing.records import Record
from secateur.torch.tracing.scratch import CostTerm

READS_VALUES = "the code reads values"


def build(seen: Observation) -> tuple[Graph, Mapping[str, Space]]:
    """The graph of what the runs said, as it stands, and the leaf that each of its widths is."""
    model = seen.example.model
    parameters = {name for name, _ in named_parameters(model)}
    names = Names(seen, parameters)
    memo: dict[int, Axis] = {}

    def axis(space: Space) -> Axis:
        return axis_of(space, names.by_leaf, memo)

    layouts: dict[str, Layout] = {name: tuple(axis(s) for s in spaces) for name, spaces in seen.spaces.items()}
    inner = _inner_widths(seen, names)
    positions = _positions_by_width({name: layouts[name] for name in parameters if name in layouts})
    widths = tuple(_width(name, names, positions, inner) for name in names.ordered)
    graph = Graph(
        widths=widths,
        layouts=layouts,
        equations=equations_for(seen.tracer.facts, axis),
        differences=differences_for(seen.tracer.facts, axis),
        attributes=dict(seen.tracer.facts.attributes),
        costs=_costs(seen, parameters, layouts, axis) | seen.caches.costs(names.by_leaf),
        fingerprint=fingerprint(model),
        module_types=module_types(seen.modules),
        parameters=frozenset(parameters),
        notes=_notes(seen),
        numbers=frozenset(a for origin, _ in seen.tracer.facts.float_uses for a in _attributes(origin)),
        outputs=tuple(tuple(axis(s) for s in layout) for layout in seen.outputs),
        example=seen.example,
        outputs_also=tuple(
            tuple(tuple(axis(s) for s in layout) for layout in run.outputs)
            for run in seen.further
            if run.whole and not run.training
        ),
    )
    return graph, names.leaf


def _width(name: str, names: Names, positions: Mapping[str, int], inner: Mapping[int, Space]) -> Width:
    leaf = names.leaf[name]
    uses = names.uses.get(id(leaf), [])
    outer = inner.get(id(leaf))
    choices = _choices(leaf)
    return Width(
        name=name,
        kind=names.kind[name],
        size=leaf.size,
        choices=choices,
        exact=leaf.inexact is None,
        frozen=leaf.frozen or _why_whole(leaf, choices),
        inexact_reason=leaf.inexact,
        outer=names.by_leaf.get(id(outer)) if outer is not None and not leaf.frozen else None,
        multiplier=positions.get(name, 1),
        uses=tuple(dict.fromkeys(Use(tensor=t, axis=a) for t, a in uses)),
    )


def _choices(leaf: Space) -> tuple[int, ...]:
    if leaf.frozen or leaf.size <= leaf.multiple:
        return (leaf.size,)
    first = -(-leaf.least // leaf.multiple) * leaf.multiple
    counts = range(first, leaf.size + 1, leaf.multiple)
    if not counts:
        return (leaf.size,)
    return tuple(counts) if counts[-1] == leaf.size else (*counts, leaf.size)


def _why_whole(leaf: Space, choices: tuple[int, ...]) -> str | None:
    if leaf.size == 1 or len(choices) > 1:
        return None
    if leaf.multiple > 1:
        return f"its {leaf.size} units are kept in multiples of {leaf.multiple}"
    return f"with fewer than {leaf.least} units of it the code goes another way"


def _positions_by_width(parameters: Mapping[str, Layout]) -> dict[str, int]:
    """How many positions one unit of each width stands for where it is made: the sizes of the factors inside it.

    A head is so many features of the layer that projects to it, though a table of biases may have one number for it; a
    channel is one, though a flattened picture has it many times.
    """
    made: dict[str, int] = {}
    elsewhere: dict[str, int] = {}

    def visit(axis: Axis, inside: int, found: dict[str, int]) -> None:
        match axis:
            case Along():
                found[axis.width] = math.gcd(found.get(axis.width, 0), inside)
            case Product():
                for factor in reversed(axis.factors):
                    visit(factor, inside, found)
                    inside *= factor.size
            case Sum():
                for part in axis.parts:
                    visit(part, inside, found)
            case _:
                pass

    for layout in parameters.values():
        for place, axis in enumerate(layout):
            visit(axis, 1, made if place == 0 and len(layout) > 1 else elsewhere)
    return {**elsewhere, **made}


def _inner_widths(seen: Observation, names: Names) -> dict[int, Space]:
    """Leaves that may keep another set under each index of the leaf just outside them.

    That needs the outer leaf beside the inner one in every tensor that has the inner one, and operators that keep the
    outer leaf's indices apart.
    """
    outer: dict[int, Space] = {}
    for spaces in seen.spaces.values():
        for space in spaces:
            _pair(space, outer)
    outer = {k: v for k, v in outer.items() if k in names.by_leaf and id(v) in names.by_leaf}
    if not outer:
        return {}
    records = list(seen.records)
    for tensor in [*seen.spaces.values(), *(o for r in records for o in r.outputs), *seen.outputs]:
        _strike_out(tensor, outer)
    for record in records if outer else []:
        _strike_out_mixed(record, outer)
    # one level only: kept sets are a vector, or a matrix with a row for each outer index
    return {inner: o for inner, o in outer.items() if id(o) not in outer}


def _pair(space: Space, outer: dict[int, Space]) -> None:
    top = space.root()
    if top.form is Form.PRODUCT:
        chain = factors(top)
        for before, after in pairwise(chain):
            both_leaves = before.root().form is after.root().form is Form.LEAF
            if both_leaves and not before.root().frozen and not after.root().frozen:
                outer.setdefault(id(after.root()), before.root())
    for child in top.children:
        _pair(child, outer)


def _strike_out(tensor: list[Space], outer: dict[int, Space]) -> None:
    present = [{id(leaf) for leaf in leaves(space)} for space in tensor]
    for place, space in enumerate(tensor):
        for before, leaf in _chains(space):
            needed = outer.get(id(leaf))
            if needed is None:
                continue
            elsewhere = any(id(needed) in found for i, found in enumerate(present) if i != place)
            crossing = before is None and elsewhere and not _has_sums(tensor) and _only_one(tensor, needed)
            if not (before is needed or crossing):
                del outer[id(leaf)]


def _strike_out_mixed(record: Record, outer: dict[int, Space]) -> None:
    """Where an operator sums over the outer leaf, what it gives has no outer index that a kept set could be under.

    Unless the two are one product wherever the inner leaf is: then each pair stays one position.
    """
    over = {id(leaf) for space in record.over for leaf in leaves(space)}
    given = [space for layout in record.outputs for space in layout]
    mixed = {id(leaf) for space in given for leaf in leaves(space) if over and id(outer.get(id(leaf))) in over}
    for leaf in mixed:
        chains = (chain for space in (*record.inputs, *given) for chain in _chains(space))
        if not all(before is outer[leaf] for before, end in chains if id(end) == leaf):
            del outer[leaf]


def _only_one(tensor: list[Space], outer: Space) -> bool:
    """Whether a free outer width is the only factor of its size, so that a matrix of kept sets can belong to no other."""
    return not outer.frozen and sum(f.root().size == outer.size for space in tensor for f in factors(space)) == 1


def _has_sums(tensor: list[Space]) -> bool:
    return any(f.root().form is Form.SUM for space in tensor for f in factors(space))


def _chains(space: Space) -> list[tuple[Space | None, Space]]:
    """Every leaf of a space with the leaf just outside it in the same product, or None."""
    top = space.root()
    if top.form is Form.LEAF:
        return [(None, top)]
    if top.form is Form.SUM:
        return [pair for child in top.children for pair in _chains(child)]
    found: list[tuple[Space | None, Space]] = []
    before: Space | None = None
    for factor in factors(top):
        if factor.root().form is Form.LEAF:
            found.append((before, factor.root()))
            before = factor.root()
        else:
            found.extend((Space(1) if b is None and before is not None else b, leaf) for b, leaf in _chains(factor))
            before = Space(1)
    return found


def _costs(
    seen: Observation, parameters: Collection[str], layouts: Mapping[str, Layout], axis: Callable[[Space], Axis]
) -> dict[str, Cost]:
    tensors = named_tensors(seen.example.model)
    norms = {name for name, m in seen.modules.items() if isinstance(m, nn.modules.batchnorm._NormBase)}
    # a tied tensor is paid for once, by its first name
    distinct = {id(t): n for n, t in reversed(list(tensors.items()))}
    params = [
        (1, layouts[n], n.rpartition(".")[0]) for n, t in tensors.items() if n in parameters and distinct[id(t)] == n
    ]
    stored = [(tensors[n].element_size(), layouts[n], n.rpartition(".")[0]) for n in distinct.values()]
    macs = Counter(
        seen.tracer.macs
    )  # a layer run a hundred times is one term, or a recurrent network would have thousands

    def written(events: Iterable[CostTerm]) -> list[Monomial]:
        return [(number, tuple(axis(s) for s in spaces), module) for number, spaces, module in events]

    weights = Polynomial.of(stored)
    allocated, on_cpu = seen.tracer.allocations.events, all(t.device.type == "cpu" for t in tensors.values())
    given = Term(sum(map(held_bytes, seen.example.tensors())), ())
    held = [*weights.terms, given, *written(seen.tracer.scratch.among(allocated) if on_cpu else allocated)]
    return {
        "macs": Polynomial.of([(n * k, tuple(axis(s) for s in spaces), m) for (n, spaces, m), k in macs.items()]),
        "params": Polynomial.of(params),
        "params_without_batchnorm": Polynomial.of([term for term in params if term[2] not in norms]),
        "weight_bytes": weights,
        "peak_activation_bytes": Peak.of(written(allocated)),
        "peak_memory_bytes": Peak.of(held),
    }


def _attributes(origin: Origin) -> Iterator[Attribute]:
    if isinstance(origin, Attribute):
        yield origin
    elif isinstance(origin, tuple):
        yield from (*_attributes(origin[1]), *_attributes(origin[2]))


def _notes(seen: Observation) -> tuple[str, ...]:
    notes = [
        f"no rule for {count} × {name}: what it touches is kept whole" for name, count in (+seen.tracer.unknown).items()
    ]
    inside = dict.fromkeys(re.split(r"[.\[]", place)[0] for place in seen.interior)
    if inside and seen.example.interface:
        notes.append(f"not pinned: {', '.join(inside)} (interface=[…] pins what it names)")
    if seen.fallback:
        how = "as on the example" if seen.tracer.abstract else "traced with real tensors"
        notes.append(f"{READS_VALUES}: {how} ({seen.fallback})")
    if seen.left_over:
        owners = dict.fromkeys(name.rpartition(".")[0] or name for name in seen.left_over)
        notes.append(f"no code of the model's leads to {', '.join(owners)}: left whole, for whoever else may call it")
    if seen.tracer.data_dependent:
        notes.append("some sizes depend on the values of the example: costs hold for this example only")
    return tuple(notes)
