"""Integers that a module keeps for a method that no run called, which makes tensors of that size.

    self.latent = 6
    def sample(self, n): return self.decode(torch.randn(n, self.latent))        forward never says that latent is a width

By its number alone it cannot be told (6 may be a count of layers), so it is not changed either: what is near and has that
size stays whole. Only integers are meant that no run used, and that such a method names beside a function that takes sizes.

Invariant: nothing is run and nothing changed; widths are only frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType

from torch import nn

from secateur.core.equations import Attribute
from secateur.core.space import freeze
from secateur.torch.tracing.observe import Observation
from secateur.torch.tracing.unreached import Scene

_TAKE_SIZES = frozenset(
    [
        *("randn", "rand", "zeros", "ones", "empty", "full", "normal", "eye", "randint", "arange", "linspace"),
        *(
            "new_zeros",
            "new_ones",
            "new_empty",
            "new_full",
            "view",
            "reshape",
            "expand",
            "unflatten",
            "split",
            "repeat",
        ),
    ]
)
_REBUILDS = ("_", "reset", "init", "set_")  # private, or made to give the module other layers
_NOT_USES = frozenset(
    ["__init__", "forward", "extra_repr", "__repr__", "reset_parameters", "__setstate__", "__post_init__"]
)


def freeze_kept_sizes(seen: Observation) -> None:
    """Freeze what has the size of an integer that only a method which did not run makes tensors with."""
    heard = seen.tracer.facts.mentioned()
    scene: Scene | None = None
    for attribute, method, value in _kept(seen.example.model):
        if attribute in heard or attribute not in seen.tracer.facts.attributes:
            continue
        scene = scene or Scene(seen)
        for space in scene.near(attribute.module):
            if space.size == value:
                freeze(space, f"{attribute} has this size, and {method}(), which no run called, makes tensors with it")


def _kept(model: nn.Module) -> Iterator[tuple[Attribute, str, int]]:
    for name, module in model.named_modules():
        for key, value in list(vars(module).items()):
            if type(value) is int and value > 1 and not type(module).__module__.startswith("torch."):
                for method in _methods(type(module)):
                    if key in method.co_names and not _TAKE_SIZES.isdisjoint(method.co_names):
                        yield Attribute(name, key), method.co_name, value


def _methods(kind: type) -> list[CodeType]:
    """The methods that a class and its bases, PyTorch's aside, define for others to call; not those that forward leads to."""
    own = {
        name: value.__code__
        for base in reversed(kind.__mro__)
        if not base.__module__.startswith(("torch.", "builtins"))
        for name, value in vars(base).items()
        if type(value) is FunctionType
    }
    called, open_ones = set[str](), ["forward"]
    while open_ones:
        name = open_ones.pop()
        if name in own and name not in called:
            called.add(name)
            open_ones.extend(own[name].co_names)
    return [code for name, code in own.items() if name not in called | _NOT_USES and not name.startswith(_REBUILDS)]
