"""Integers that a module keeps for code that no run came to, which makes tensors of that size.

    self.latent = 6
    def sample(self, n): return self.decode(torch.randn(n, self.latent))        forward never says that latent is a width
    if mask is not None: keys = repeat(keys, module.groups)                     nor does a branch that was not taken
    if cache is not None: y = self._step(x, cache)                              nor a method that nothing called

By its number alone it cannot be told (6 may be a count of layers), so it is not changed either: what is near and has that
size stays whole. Only integers are meant that no run used, or none but to compare them, and that code names beside a function
that takes sizes: a method, or a function of its file that it names. What code that did run names as well is no size: it
would have been heard.

Invariant: nothing is run and nothing changed; widths are only frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import CodeType, FunctionType

from torch import nn

from secateur.core.equations import Attribute
from secateur.core.settle import SizeFacts, attributes_in
from secateur.core.space import freeze, leaves
from secateur.torch.tracing.blocks import entries_of, numbered
from secateur.torch.tracing.observe import Observation
from secateur.torch.tracing.unreached import Reach
from secateur.torch.tracing.written import asked_by, is_of, led_to, methods_of, named_by, names_in

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
_NOT_USES = frozenset(["__init__", "extra_repr", "__repr__", "reset_parameters", "__setstate__", "__post_init__"])


def freeze_kept_sizes(seen: Observation) -> None:
    """Freeze what has the size of an integer that only code which did not run makes tensors with."""
    facts = seen.tracer.facts
    # A comparison alone does not say of which dimension an attribute is the size.
    said = {found for origin, *_ in facts.equations for found in attributes_in(origin)}
    heard, compared = facts.mentioned(), _told_apart(facts)
    reach: Reach | None = None
    ran = frozenset[CodeType]().union(*(run.tracer.ran for run in seen.runs))
    places = _places(seen.example.model)
    for attribute, value, kept in _kept(seen.modules, ran):
        named = kept.on_a_branch if attribute in compared else {} if attribute in heard else kept.apart
        function = named.get(attribute.path)
        if function is None or attribute in said | places or attribute not in facts.attributes:
            continue
        reach = reach or Reach(seen)
        near = reach.near(attribute.module)
        for space in {id(s): s for whole in near for s in (whole, *leaves(whole))}.values():
            if space.size == value:
                freeze(space, f"{attribute} has this size, and {function}() makes tensors with it where no run came")


def _places(model: nn.Module) -> set[Attribute]:
    """The integers that say where in its list a module stands."""
    lists: dict[str, dict[str, nn.Module]] = {}
    for name, _, key, entry in entries_of(model):
        lists.setdefault(name, {})[key] = entry
    return {attribute for name, entries in lists.items() for attribute, _ in numbered(name, entries)}


def _told_apart(facts: SizeFacts) -> set[Attribute]:
    """The attributes that the code compared with a number; one that was equal to it is no size of the network's."""
    found: set[Attribute] = set()
    for left, _, right in facts.branches:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, Attribute) and isinstance(other, (int, float)) and facts.attributes[one] != other:
                found.add(one)
    return found


@dataclass(frozen=True, slots=True)
class _Named:
    """Names beside functions that take sizes, and the code they are in: what forward may lead to, and what it does not, or
    did not in any run."""

    on_a_branch: Mapping[str, str]
    apart: Mapping[str, str]

    @classmethod
    def by(cls, kind: type, built: AbstractSet[str], ran: AbstractSet[CodeType]) -> _Named:
        """Those of a class, its bases, and the functions of their files, but for methods that a constructor has called."""
        own = {name: f for name, f in methods_of(kind, ("torch.", "builtins")).items() if name not in _NOT_USES}
        led = led_to(own)
        apart = [f for name, f in own.items() if name not in {*led, *built} and not name.startswith(_REBUILDS)]
        came = [
            f for name, f in led.items() if name == "forward" or any(is_of(g.__code__, ran) for g in _with_its_file(f))
        ]
        spoken = {name for f in came for name in names_in(f.__code__)}
        idle = _beside_sizes(f for f in led.values() if f not in came)
        left_out = {name: function for name, function in idle.items() if name not in spoken}
        return cls(_beside_sizes(led.values()), _beside_sizes(apart) | left_out)


def _kept(modules: Mapping[str, nn.Module], ran: AbstractSet[CodeType]) -> Iterator[tuple[Attribute, int, _Named]]:
    """The integers that modules of classes other than PyTorch's keep, and what the code of their class names."""
    named: dict[type, _Named] = {}
    kinds = {base for module in modules.values() for base in type(module).__mro__}
    built = {name for kind in kinds for name in asked_by(kind)}
    for name, module in modules.items():
        kind = type(module)
        if not kind.__module__.startswith("torch."):
            named[kind] = named.get(kind) or _Named.by(kind, built, ran)
            for key, value in list(vars(module).items()):
                if type(value) is int and value > 1:
                    yield Attribute(name, key), value, named[kind]


def _beside_sizes(functions: Iterable[FunctionType]) -> dict[str, str]:
    """Every name in code that takes sizes, itself or through a function of its file, and the name of that code."""
    found: dict[str, str] = {}
    for function in functions:
        for code in _with_its_file(function):
            if any(not _TAKE_SIZES.isdisjoint(names_in(other.__code__)) for other in _with_its_file(code)):
                found |= dict.fromkeys(names_in(code.__code__), code.__name__)
    return found


def _with_its_file(function: FunctionType) -> list[FunctionType]:
    """A function, and those of the same file that it names."""
    return [function, *(f for f in named_by(function) if f.__module__ == function.__module__)]
