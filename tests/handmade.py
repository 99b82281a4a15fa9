"""Small graphs made by hand, without a model: chains, residual streams, grouped widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.core.cost import Peak, Polynomial
from secateur.core.graph import Graph, Use, Width
from secateur.core.layout import Along, Axis, Layout, Product, Whole, alongs_of, size_of

AREA = 16  # places that each matrix is multiplied at
TYPES = {
    1: ("nn.BatchNorm2d", "BatchNorm2d", "_BatchNorm"),
    2: ("nn.Linear", "Linear"),
    3: ("nn.Conv2d", "Conv2d", "_ConvNd"),
}


def graph_of(layouts: Mapping[str, Layout], *, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Graph:
    """A graph whose widths are those its layouts name; ``changes`` are fields of widths to set."""
    uses: dict[str, list[Use]] = {}
    sizes: dict[str, int] = {}
    for tensor, layout in layouts.items():
        for axis, made_of in enumerate(layout):
            for unit in alongs_of(made_of):
                sizes[unit.width] = unit.size
                uses.setdefault(unit.width, []).append(Use(tensor=tensor, axis=axis))
    widths = [
        Width(
            **{
                "name": name,
                "kind": "channels",
                "size": size,
                "choices": tuple(range(1, size + 1)),
                "exact": True,
                "uses": tuple(uses[name]),
                **(changes or {}).get(name, {}),
            }
        )
        for name, size in sizes.items()
    ]
    matrices = [layout for layout in layouts.values() if len(layout) > 1]
    memory: list[tuple[int, Layout]] = []
    for before, layout in zip(
        [None, *matrices], matrices, strict=False
    ):  # each result, then the one before it is let go
        memory += [(4 * AREA, layout[:1]), *([(-4 * AREA, before[:1])] if before else [])]
    return Graph(
        widths=tuple(widths),
        layouts=dict(layouts),
        equations=(),
        attributes={},
        costs={
            "macs": Polynomial.of([(AREA, layout) for layout in matrices]),
            "params": Polynomial.of([(1, layout) for layout in layouts.values()]),
            "peak_activation_bytes": Peak.of(memory),
        },
        fingerprint="by hand",
        module_types={"": ("Network",)} | {n.rpartition(".")[0]: TYPES[min(len(a), 3)] for n, a in layouts.items()},
        parameters=frozenset(layouts),
    )


def chain(*sizes: int, first: int = 3, last: int = 10) -> Graph:
    """``conv0 → conv1 → … → head``: one free width for each size, between a fixed input and a fixed output."""
    axes: list[Axis] = [Whole(first), *(Along(f"conv{i}.out", size) for i, size in enumerate(sizes))]
    layouts: dict[str, Layout] = {f"conv{i}.weight": (axes[i + 1], axes[i], Whole(9)) for i in range(len(sizes))}
    return graph_of({**layouts, "head.weight": (Whole(last), axes[-1])})


def residual(blocks: Sequence[Sequence[int]], stream: int) -> Graph:
    """Blocks around one stream; each block has inner widths of its own, and a batch norm on the stream."""
    axis = Along("stem.out", stream)
    layouts: dict[str, Layout] = {"stem.weight": (axis, Whole(3), Whole(49)), "norm.weight": (axis,)}
    for number, sizes in enumerate(blocks):
        inner: list[Axis] = [axis, *(Along(f"layer{number}.conv{i}.out", size) for i, size in enumerate(sizes)), axis]
        for i in range(len(inner) - 1):
            layouts[f"layer{number}.conv{i}.weight"] = (inner[i + 1], inner[i], Whole(9))
    return graph_of({**layouts, "fc.weight": (Whole(100), axis)})


def heads(num_heads: int = 4, head_dim: int = 6, features: int = 10) -> Graph:
    """A projection into heads, whose dimensions may differ from head to head, and one back."""
    axis = Product((Along("heads", num_heads), Along("head_dim", head_dim)))
    layouts: dict[str, Layout] = {"v.weight": (axis, Whole(features)), "o.weight": (Whole(features), axis)}
    return graph_of(layouts, changes={"head_dim": {"outer": "heads"}, "heads": {"multiplier": head_dim}})


def counted(graph: Graph, counts: Mapping[str, int], metric: str) -> int:
    """A cost counted tensor by tensor, without a polynomial."""
    total = 0
    for layout in graph.layouts.values():
        entries = 1
        for axis in layout:
            entries *= size_of(axis, counts)
        total += entries if metric == "params" else entries * AREA * (len(layout) > 1)
    return total
