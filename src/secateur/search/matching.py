"""Which widths a user means: by name, by tensor, by module, by type, or by a pattern over these.

    "layer1.*"   "fc"   "layer1.0.conv1.weight"   "nn.Linear"   "layer?.0.conv1.out_channels"

A width answers to its own name, to the tensors it lives in, and to every module around these, by name and by type.

Invariant: a pattern that names nothing in the model is an error that names the nearest thing there is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import cache

from secateur.core.depth import LAYERS
from secateur.core.graph import Graph, Width
from secateur.errors import InputError, nearest


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What each width answers to, and what else the model has names for."""

    of_width: Mapping[str, set[str]]
    others: set[str]

    @classmethod
    def of(cls, graph: Graph) -> Vocabulary:
        """Read a graph's names once, for many patterns."""
        around: dict[str, set[str]] = {}
        for tensor in {use.tensor for width in graph.widths for use in width.uses}:
            around[tensor] = {tensor}
            for module in _modules_around(owner(graph, tensor)):
                around[tensor] |= {module, *graph.module_types.get(module, ())}
        for block in (width.name for width in graph.widths if width.kind == LAYERS):
            names = [block, *_modules_around(block)]
            around[block] = {*names, *(kind for name in names for kind in graph.module_types.get(name, ()))}
        types = {name for names in graph.module_types.values() for name in names}
        return cls(
            {
                w.name: {w.name}.union(around.get(w.name, ()), *(around[use.tensor] for use in w.uses))
                for w in graph.widths
            },
            types | set(graph.module_types) | set(graph.layouts),
        )

    def matching(self, pattern: object, option: str) -> list[str]:
        """The names of the widths that a pattern means, frozen ones included; ``option`` is what errors call it.

        Raises InputError where the pattern matches nothing in the model at all.
        """
        if not isinstance(pattern, str):
            raise InputError(f"{option}: a name or a pattern is needed, not {pattern!r}")
        found = [name for name, words in self.of_width.items() if any_match(pattern, words)]
        if not found and not any_match(pattern, self.others):
            known = self.others.union(*self.of_width.values())
            raise InputError(
                f"{option}: {pattern!r} matches no width, tensor, module or type.{nearest(pattern, known)}"
            )
        return found


def owner(graph: Graph, tensor: str) -> str:
    """The module that holds a tensor: the longest module name it begins with."""
    name = tensor
    while "." in name:
        name = name.rpartition(".")[0]
        if name in graph.module_types or not graph.module_types:
            return name
    return ""


def owners(graph: Graph, width: Width) -> tuple[str, ...]:
    """The modules that hold a width's tensors, each once."""
    return tuple(dict.fromkeys(owner(graph, use.tensor) for use in width.uses))


def any_match(pattern: str, words: Collection[str]) -> bool:
    """Whether a pattern is one of these words, or a glob that matches one."""
    if pattern in words:
        return True
    return any(c in pattern for c in "*?[") and any(map(_compiled(pattern).match, words))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def _modules_around(module: str) -> Iterator[str]:
    while module:
        yield module
        module = module.rpartition(".")[0]
    yield ""
