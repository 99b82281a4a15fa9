"""Small graphs made by hand: a chain of convolutions, a residual stack, grouped widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.core.cost import Peak, Polynomial
from secateur.core.graph import Graph, Use, Width
from secateur.core.layout import Axis, Layout, Unit, Whole, size_of, units_of


def graph_of(
    layouts: Mapping[str, Layout],
    *,
    area: int = 1,
    module_types: Mapping[str, tuple[str, ...]] | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Graph:
    """A graph whose widths are those its layouts name; every matrix is multiplied once for each of ``area`` places."""
    uses: dict[str, list[Use]] = {}
    sizes: dict[str, int] = {}
    for tensor, layout in layouts.items():
        for axis, made_of in enumerate(layout):
            for unit in units_of(made_of):
                sizes[unit.width] = unit.size
                uses.setdefault(unit.width, []).append(Use(tensor=tensor, axis=axis))
    widths = [
        Width(name=name, kind="channels", size=size, choices=tuple(range(1, size + 1)), exact=True, uses=tuple(uses[name]),
              **(changes or {}).get(name, {}))
        for name, size in sizes.items()
    ]  # fmt: skip
    products = [(1, layout) for layout in layouts.values()]
    matrices = [(area, layout) for layout in layouts.values() if len(layout) > 1]
    memory = [event for layout in layouts.values() for event in ((4 * area, layout[:1]), (-4 * area, layout[:1]))]
    return Graph(
        widths=tuple(widths),
        layouts=dict(layouts),
        equations=(),
        attributes={},
        costs={"macs": Polynomial.of(matrices), "params": Polynomial.of(products), "peak_activation_bytes": Peak.of(memory)},
        fingerprint="by hand",
        module_types=module_types or _conv_types(layouts),
        parameters=frozenset(layouts),
    )


def chain(*sizes: int, first: int = 3, last: int = 10, kernel: int = 9) -> Graph:
    """``conv0 → conv1 → … → head``: one free width for each size, between a fixed input and a fixed output."""
    axes: list[Axis] = [Whole(first), *(Unit(f"conv{i}.out", size) for i, size in enumerate(sizes))]
    layouts: dict[str, Layout] = {
        f"conv{i}.weight": (axes[i + 1], axes[i], Whole(kernel)) for i in range(len(sizes))
    }
    layouts["head.weight"] = (Whole(last), axes[-1])
    return graph_of(layouts, area=16)


def residual(blocks: Sequence[Sequence[int]], stream: int) -> Graph:
    """Bottleneck blocks around one stream: each block has inner widths of its own."""
    axis = Unit("stem.out", stream)
    layouts: dict[str, Layout] = {"stem.weight": (axis, Whole(3), Whole(49))}
    for number, sizes in enumerate(blocks):
        inner: list[Axis] = [axis, *(Unit(f"layer{number}.conv{i}.out", size) for i, size in enumerate(sizes)), axis]
        for i in range(len(inner) - 1):
            layouts[f"layer{number}.conv{i}.weight"] = (inner[i + 1], inner[i], Whole(9))
    layouts["fc.weight"] = (Whole(100), axis)
    return graph_of(layouts, area=49)


def cost_by_hand(graph: Graph, counts: Mapping[str, int], metric: str) -> int:
    """A cost counted tensor by tensor, without the polynomial."""
    total = 0
    for layout in graph.layouts.values():
        entries = 1
        for axis in layout:
            entries *= size_of(axis, counts)
        total += entries * (1 if metric == "params" else 16 if len(layout) > 1 else 0)
    return total


def _conv_types(layouts: Mapping[str, Layout]) -> dict[str, tuple[str, ...]]:
    kinds = {2: ("nn.Linear", "Linear", "nn.Module"), 3: ("nn.Conv2d", "Conv2d", "nn.Module")}
    return {name.rpartition(".")[0]: kinds.get(len(axes), ("nn.Module",)) for name, axes in layouts.items()}
