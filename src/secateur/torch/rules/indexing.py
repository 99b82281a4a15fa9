"""Reading and writing by position: the indexed dimension is frozen, all the others go through.

embedding   out[..., d] = table[ids, d]           the vocabulary is frozen, d is the table's d
index       x[:, i, j]                            dimensions i and j are frozen
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secateur.core.space import ONE, Space, constant, freeze
from secateur.torch.rules.protocol import COUNTED, Indices, Outputs, Trace, looked_up, tensors_of
from secateur.torch.rules.registry import Sample, rule, sample


@rule("embedding")
def embedding(trace: Trace, out: Tensor, weight: Tensor, ids: Tensor, *args: object, **kwargs: object) -> None:
    freeze(trace.spaces(weight)[0], "vocabulary")
    trace.put(out, [*trace.spaces(ids), trace.spaces(weight)[1]], [False] * ids.dim() + [trace.zero(weight)[1]])


@rule("embedding_renorm", "embedding_renorm_")
def embedding_renorm(trace: Trace, out: Tensor, weight: Tensor, ids: Tensor, *args: object) -> None:
    """``max_norm``: rows of the table that are too long are shortened, before they are looked up."""
    freeze(trace.spaces(weight)[0], "vocabulary")
    trace.contract(trace.spaces(weight)[1], zero=trace.zero(weight)[1])
    trace.put(out, trace.spaces(weight), trace.zero(weight))


@rule("index", "_unsafe_index")
def index(trace: Trace, out: Tensor, x: Tensor, indices: Indices) -> None:
    given = {i: t for i, t in enumerate(indices) if t is not None}
    places = list(given)
    if any(map(_is_mask, given.values())):
        _by_mask(trace, out, x, indices, places)
        return
    for i, ids in given.items():
        looked_up(trace, trace.spaces(x)[i], ids)
    taken = _broadcast(trace, list(given.values()))
    adjacent = places == list(range(places[0], places[-1] + 1))
    position = places[0] if adjacent else 0
    rest = [i for i in range(x.dim()) if i not in places]
    before = [i for i in rest if i < position] if adjacent else []
    after = [i for i in rest if i not in before]
    spaces = [trace.spaces(x)[i] for i in before] + taken + [trace.spaces(x)[i] for i in after]
    zero = [trace.zero(x)[i] for i in before] + [False] * len(taken) + [trace.zero(x)[i] for i in after]
    trace.put(out, spaces, zero)


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _by_mask(trace: Trace, out: Tensor, x: Tensor, indices: Indices, places: list[int]) -> None:
    """One mask over some leading dimensions: how many are taken depends on values; the dimensions after it go through."""
    mask, *others = (t for t in indices if t is not None)
    if others or places != [0]:
        raise NotImplementedError("an index by a mask beside others")
    trace.data_dependent = True
    covered = mask.dim()
    reason = f"indexed by a mask in {trace.where}"
    for space in [*trace.spaces(x)[:covered], *trace.spaces(mask)]:
        freeze(space, reason)
    taken = constant(out.shape[0], COUNTED)
    trace.put(out, [taken, *trace.spaces(x)[covered:]], [False, *trace.zero(x)[covered:]])


def _broadcast(trace: Trace, tensors: list[Tensor]) -> list[Space]:
    """The dimensions of index tensors broadcast against each other."""
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    spaces: list[Space] = []
    for back in range(len(shape), 0, -1):
        there = [t for t in tensors if t.dim() >= back and t.shape[-back] == shape[-back] != 1]
        space = trace.spaces(there[0])[-back] if there else constant(shape[-back], ONE)
        for other in there[1:]:
            space = trace.same(space, trace.spaces(other)[-back])
        spaces.append(space)
    return spaces


@rule("index_select")
def index_select(trace: Trace, out: Tensor, x: Tensor, dim: int, ids: Tensor) -> None:
    dim %= max(x.dim(), 1)
    looked_up(trace, trace.spaces(x)[dim], ids)
    spaces, zero = list(trace.spaces(x)), list(trace.zero(x))
    spaces[dim] = trace.spaces(ids)[0] if ids.dim() else constant(1, ONE)
    zero[dim] = False
    trace.put(out, spaces, zero)


@rule("gather", "take_along_dim")
def gather(trace: Trace, out: Tensor, x: Tensor, dim: int, ids: Tensor, **kwargs: object) -> None:
    dim %= x.dim()
    looked_up(trace, trace.spaces(x)[dim], ids)
    spaces, zero = [], []
    for i in range(x.dim()):
        same = i != dim and x.shape[i] == ids.shape[i]
        space = trace.spaces(ids)[i]
        spaces.append(trace.same(space, trace.spaces(x)[i]) if same and x.shape[i] != 1 else space)
        zero.append(same and trace.zero(x)[i])
        if not same and i != dim:
            freeze(trace.spaces(x)[i], f"partly indexed in {trace.where}")
    trace.put(out, spaces, zero)


@rule("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill", "index_reduce")
def scatter(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    dim: int,
    ids: Tensor,
    source: object = None,
    *a: object,
    **k: object,
) -> None:
    dim %= max(x.dim(), 1)
    looked_up(trace, trace.spaces(x)[dim], ids)
    for tensor in (t for t in (x, source) if isinstance(t, Tensor)):
        if (along := trace.said(tensor, "positions")) is not None:
            freeze(along, f"its positions are written in {trace.where}")
    others = [t for t in (ids, source) if isinstance(t, Tensor) and t.dim() == x.dim()]
    spaces, zero = list(trace.spaces(x)), list(trace.zero(x))
    for tensor in others:
        freeze(trace.spaces(tensor)[dim], f"written by position in {trace.where}")
        for i in range(x.dim()):
            if i == dim:
                continue
            if tensor.shape[i] == x.shape[i]:
                spaces[i] = trace.same(spaces[i], trace.spaces(tensor)[i])
                zero[i] = zero[i] and (tensor is ids or trace.zero(tensor)[i])
            else:
                freeze(spaces[i], f"partly written in {trace.where}")
                freeze(trace.spaces(tensor)[i], f"partly written in {trace.where}")
    if ids.dim() == 1 and x.dim() != 1:
        freeze(trace.spaces(ids)[0], f"written by position in {trace.where}")
    if not isinstance(source, Tensor) or source.dim() != x.dim():
        zero = [False] * len(zero)  # a number is written at all units, removed ones too
        if isinstance(source, float) and source == -math.inf and ids.dim() == x.dim():
            trace.at_least(spaces[dim], ids.shape[dim] + 1)  # what is left out of a choice leaves something to choose
    trace.put(out, spaces, zero)


@rule("index_put", "_index_put_impl_", "_unsafe_index_put")
def index_put(trace: Trace, out: Tensor, x: Tensor, indices: Indices, values: Tensor, *args: object) -> None:
    places = [i for i, t in enumerate(indices) if t is not None]
    masks = [i for i in places if _is_mask(indices[i])]
    if masks and (len(places) > 1 or places != [0]):
        raise NotImplementedError("a mask beside other indices")
    given = [t for t in indices if t is not None]
    covered = given[0].dim() if masks else 0
    for i in [*places, *range(covered)]:
        freeze(trace.spaces(x)[i], f"written by position in {trace.where}")
    trace.freeze_all(given, f"written by position in {trace.where}")
    spaces, zero = list(trace.spaces(x)), list(trace.zero(x))
    trailing = [i for i in range(x.dim()) if i > max(places[-1], covered - 1)]
    for back, i in enumerate(reversed(trailing), start=1):
        if values.dim() >= back and values.shape[-back] == x.shape[i] != 1:
            spaces[i] = trace.same(spaces[i], trace.spaces(values)[-back])
            zero[i] = zero[i] and trace.zero(values)[-back]
        else:
            zero[i] = False
    for i in range(places[0]):
        freeze(spaces[i], f"written by position in {trace.where}")
    if values.dim() > len(trailing):
        for space in trace.spaces(values)[: values.dim() - len(trailing)]:
            freeze(space, f"written by position in {trace.where}")
    trace.put(out, spaces, zero)


@rule("isin")
def isin(trace: Trace, out: Tensor, elements: object, known: object, **kwargs: object) -> None:
    """Whether each number is among others, all of which are read."""
    if isinstance(known, Tensor):
        trace.freeze_all([known], f"its values are read in {trace.where}")
    if isinstance(elements, Tensor):
        trace.put(out, trace.spaces(elements))
    else:
        trace.keep_whole(out)


@rule("masked_scatter", "put")
def masked_scatter(trace: Trace, out: Tensor, x: Tensor, mask: Tensor, source: Tensor, *rest: object) -> None:
    """Whole rows are placed by a mask that was expanded along them (pictures among the words of a language model)."""
    same = 0  # trailing dimensions along which the mask says one thing
    while (
        mask.dtype == torch.bool and same < mask.dim() and (mask.shape[-1 - same] == 1 or mask.stride()[-1 - same] == 0)
    ):
        same += 1
    if not same or x.shape != out.shape or source.dim() < same or source.shape[-same:] != x.shape[-same:]:
        raise NotImplementedError("values are placed by a mask, or by numbers that count through all dimensions")
    spaces, zero = list(trace.spaces(x)), list(trace.zero(x))
    for d in range(-same, 0):
        spaces[d] = trace.same(spaces[d], trace.spaces(source)[d])
        if mask.shape[d] != 1:
            trace.same(spaces[d], trace.spaces(mask)[d])
        zero[d] = zero[d] and trace.zero(source)[d]
    for space in (*spaces[:-same], *trace.spaces(source)[:-same], *trace.spaces(mask)[:-same]):
        freeze(space, f"rows are placed by a mask in {trace.where}")
    trace.put(out, spaces, zero)


_SIZED_BY_VALUES = frozenset(
    {
        "nonzero",
        "_unique",
        "_unique2",
        "unique_dim",
        "unique_dim_consecutive",
        "unique_consecutive",
        "bincount",
        "masked_select",
        "repeat_interleave",
    }
)


@rule("histc")
def histogram(trace: Trace, out: Tensor, x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> None:
    """How many fall into each of some equal parts; of positions, how often each unit was meant."""
    along = trace.said(x, "positions")
    if along is None or (bins, min, max) != (along.root().size, 0, along.root().size - 1):
        if along is not None:
            freeze(along, f"its positions are counted otherwise in {trace.where}")
        positions(trace, out, x)
        return
    trace.put(out, [along])
    trace.say(out, "counts", along)


@rule(
    "nonzero",
    "nonzero_static",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_dim_consecutive",
    "unique_consecutive",
    "bincount",
    "searchsorted",
    "bucketize",
    "masked_select",
    "repeat_interleave",
    "take",
    "histogram",
    "_histogramdd_bin_edges",
    "_histogramdd_from_bin_cts",
    "_histogramdd_from_bin_tensors",
)
def positions(trace: Trace, out: Outputs, *args: object, **kwargs: object) -> None:
    """The output counts or places values: its sizes are constants, and what was read is frozen."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    trace.data_dependent |= trace.name in _SIZED_BY_VALUES
    trace.freeze_all(tensors, f"its values are read in {trace.where}")
    for result in tensors_of(out):
        trace.put(result, [constant(n, COUNTED) if n != 1 else constant(1, ONE) for n in result.shape])


@rule("roll", "flip", "rot90")
def roll(trace: Trace, out: Tensor, x: Tensor, *args: object) -> None:
    """Positions move: only the dimensions that move are frozen."""
    given = args[-1] if trace.name != "roll" or len(args) > 1 else ()
    for dim in (
        given if isinstance(given, (list, tuple)) and given else [given] if isinstance(given, int) else range(x.dim())
    ):
        freeze(trace.spaces(x)[dim], f"its positions move in {trace.where}")
    trace.put(out, trace.spaces(x), trace.zero(x))


@rule("tril", "triu")
def triangle(trace: Trace, out: Tensor, x: Tensor, *args: object) -> None:
    for space in trace.spaces(x)[-2:]:
        freeze(space, f"a triangle of it is taken in {trace.where}")
    trace.put(out, trace.spaces(x), trace.zero(x))


@sample("isin")
def _isin() -> Sample:
    return Sample(lambda x, w: torch.where(torch.isin(x, torch.tensor([0.0, 1.0])), x, 2 * x) @ w, (4, 6), (6, 3))


@sample("histc")
def _histc() -> Sample:
    def function(x: Tensor) -> Tensor:
        chosen = x.topk(2, dim=1)[1].flatten().float()
        return chosen.histc(bins=x.shape[1], min=0, max=x.shape[1] - 1) * x.mean(0)

    return Sample(function, (4, 6))


@sample("embedding_renorm")
def _renorm() -> Sample:
    def function(table: Tensor) -> Tensor:
        return torch.nn.functional.embedding(torch.tensor([[0, 2], [1, 2]]), table.clone(), max_norm=1.0) * 2

    return Sample(function, (4, 6))


@sample("embedding", "index", "index_select", "gather")
def _index() -> Sample:
    ids = torch.tensor([[0, 2], [1, 3]])

    def function(table: Tensor, x: Tensor) -> Tensor:
        looked_up = torch.nn.functional.embedding(ids, table)
        return looked_up + x[ids] + x.index_select(0, ids[0]) + x.gather(0, ids[:1, :1].expand(2, 5))

    return Sample(function, (4, 5), (4, 5))


@sample("roll", "flip", "tril", "scatter", "index_put")
def _roll() -> Sample:
    def function(x: Tensor, y: Tensor) -> Tensor:
        z = torch.zeros_like(x).index_add(0, torch.tensor([0, 2]), y)
        return x.roll(1, 0) + x.flip(0) + z

    return Sample(function, (4, 5), (2, 5))
