"""What the caches of a network hold, at any batch and length: a cost over its widths, and over two sizes of the call.

    batch × query groups × length × head width × bytes      "kv_cache_bytes"            as the example calls it
                                                            "kv_cache_bytes@8x4096"     8 sequences of 4096 tokens

The sizes of the call are axes like those of widths, under names that no width has; a plan never names them.

Invariant: a cache that was counted at the example's sizes is counted the same by the cost at these sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from secateur.core.cost import Cost, Polynomial
from secateur.core.layout import widths_of
from secateur.errors import ConfigError

if TYPE_CHECKING:
    from secateur.core.graph import Graph

KV_CACHE = "kv_cache_bytes"
BATCH, LENGTH = "@batch", "@length"
_SIZED = re.compile(rf"{KV_CACHE}@([1-9][0-9]{{0,8}})x([1-9][0-9]{{0,8}})")


def is_of_cache(metric: str) -> bool:
    """Whether a metric is this cost, at the example's sizes or others."""
    return str(metric).partition("@")[0] == KV_CACHE


def check_cache_name(metric: str) -> None:
    """Raise ConfigError for a cache's size that is written in another way."""
    if metric != KV_CACHE and not _SIZED.fullmatch(metric):
        raise ConfigError(
            f"{metric!r} is no cost; write {KV_CACHE}, or {KV_CACHE}@8x4096 for 8 sequences of 4096 tokens"
        )


def sized(costs: Mapping[str, Cost], metric: str) -> Cost:
    """The bytes of the caches under a name such as ``kv_cache_bytes@8x4096``.

    Raises ConfigError where the name is another, or the model was not seen to give a cache back.
    """
    if metric in costs:
        return costs[metric]
    cost, sizes = costs.get(KV_CACHE), _SIZED.fullmatch(metric)
    if cost is None:
        raise ConfigError(
            f"{metric}: the model gives no cache back on this example. Trace it as it generates: called with its defaults, "
            "or with use_cache=True"
        )
    check_cache_name(metric)
    if sizes is None or not isinstance(cost, Polynomial) or BATCH not in _axes(cost):
        raise ConfigError(
            f"{metric}: how the cache grows with the batch and the length does not show on this example; give one of at least "
            "two tokens"
        )
    return cost.at({BATCH: int(sizes[1]), LENGTH: int(sizes[2])})


def with_sizes(graph: Graph, metrics: Iterable[str]) -> Graph:
    """The graph with what these metrics say of caches among its costs, so that reports have it, too."""
    for metric in metrics:
        if is_of_cache(metric) and metric not in graph.costs:
            graph = graph.with_cost(metric, sized(graph.costs, metric))
    return graph


def _axes(cost: Polynomial) -> frozenset[str]:
    return frozenset(name for term in cost.terms for axis in term.axes for name in widths_of(axis))
