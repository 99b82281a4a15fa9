"""Integers from which a method that no run came to builds a layer anew.

    self.head = nn.Linear(self.num_features, classes)        in reset_classifier(), which nobody called

The layer that is there says what the integer counts: ``head.in_features`` is the size of a width, has the same value, and
``in_features`` is what the constructor calls the argument. So ``num_features`` follows that width, as an attribute that
was heard does. Where a layer is built otherwise, or two of them disagree, nothing is known, and nothing is said.

Invariant: nothing is run, and no width becomes less free.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import CodeType, FunctionType

from torch import nn

from secateur.core.equations import Attribute
from secateur.core.space import Space, leaves
from secateur.torch.tracing.attributes import own_sizes
from secateur.torch.tracing.observe import Observation
from secateur.torch.tracing.written import is_of, methods_of, names_in

Known = Mapping[Attribute, Space]


def follow_rebuilt(seen: Observation) -> None:
    """Let integers that nobody heard follow the widths of the layers that are built from them."""
    facts = seen.tracer.facts
    heard = facts.mentioned()
    unheard: dict[str, set[str]] = {}
    for attribute in facts.attributes.keys() - heard:
        unheard.setdefault(attribute.module, set()).add(attribute.path)
    known = {origin: space for origin, space, _ in facts.equations if isinstance(origin, Attribute)}
    known |= {a: seen.spaces[tensor][axis] for a, tensor, axis in own_sizes(seen.modules) if tensor in seen.spaces}
    ran = frozenset[CodeType]().union(*(run.tracer.ran for run in seen.runs))
    for name, paths in unheard.items():
        told: dict[str, list[tuple[Space, str]]] = {}
        for path, layer, method in _built(seen.modules, name, paths, ran):
            if layer in known and known[layer].root().size == facts.attributes[Attribute(name, path)]:
                told.setdefault(path, []).append((known[layer], f"{method}() builds {layer.module} with it"))
        for path, said in told.items():
            if len({_key(space) for space, _ in said}) == 1:
                facts.equations.append((Attribute(name, path), *said[0]))


def _key(space: Space) -> tuple[int, ...]:
    return tuple(id(leaf) for leaf in leaves(space))


def _built(
    modules: Mapping[str, nn.Module], name: str, paths: AbstractSet[str], ran: AbstractSet[CodeType]
) -> Iterator[tuple[str, Attribute, str]]:
    """Which of its integers a module hands to the constructor of which argument of a layer of its own, in which method."""
    module = modules[name]
    if type(module).__module__.startswith("torch."):
        return
    for method, function in methods_of(type(module), ("torch.", "builtins")).items():
        words = names_in(function.__code__)
        # to read the source takes long, and few methods build anything
        builds = not (words.isdisjoint(paths) or words.isdisjoint(module._modules)) and method != "__init__"
        for target, call in _assigned(function) if builds and not is_of(function.__code__, ran) else ():
            full = f"{name}.{target}" if name else target
            for path, parameter in _handed(function, call, modules.get(full)):
                if path in paths:
                    yield path, Attribute(full, parameter), method


def _assigned(function: FunctionType) -> Iterator[tuple[str, ast.Call]]:
    """What a method makes by a call and keeps: ``self.head = Linear(…)``, ``self.head.fc = Linear(…) if n else Identity()``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # there is no source, or it is part of a line
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            made = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
            for target in filter(None, (_path(function, each) for each in targets)):
                yield from ((target, call) for call in made if isinstance(call, ast.Call))


def _handed(function: FunctionType, call: ast.Call, layer: nn.Module | None) -> Iterator[tuple[str, str]]:
    """The attributes of ``self`` in a call that makes another layer like this one, and what the constructor calls them."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
    if layer is None or called != type(layer).__name__ or any(isinstance(each, ast.Starred) for each in call.args):
        return
    try:
        names = list(inspect.signature(type(layer)).parameters)
    except (TypeError, ValueError):  # a constructor that says nothing of its arguments
        names = []
    for parameter, given in [*zip(names, call.args), *((each.arg, each.value) for each in call.keywords)]:
        path = _path(function, given)
        if path is not None and parameter is not None:
            yield path, parameter


def _path(function: FunctionType, node: ast.expr) -> str | None:
    """``head.fc`` of ``self.head.fc``."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    is_own = isinstance(node, ast.Name) and function.__code__.co_varnames[:1] == (node.id,)
    return ".".join(reversed(names)) if is_own and names else None
