"""Integers that a module keeps for code that no run came to, which makes tensors of that size.

    self.latent = 6
    def sample(self, n): return self.decode(torch.randn(n, self.latent))        forward never says that latent is a width
    if mask is not None: keys = repeat(keys, module.groups)                     nor does a branch that was not taken
    if cache is not None: y = self._step(x, cache)                              nor a method that nothing called

By its number alone it cannot be told (6 may be a count of layers), so it is not changed either: what is near and has that
size stays whole. Only integers are meant that no run used, or none but to compare them, and that code names beside a function
that takes sizes: a method, or a function of its file that it names. They are held by the module, its class, or what it keeps
of settings (``self.args.latent``, ``self.cfg["latent"]``, ``self.sizes[1]``). What code that did run names as well is no size:
it would have been heard. A tensor that is no buffer, and that only such code names, is the same by its shape.

Methods like ``forward_split``, which take what ``forward`` takes, are heard on that first.

Invariant: nothing is changed; widths are only frozen.
"""

from __future__ import annotations

import contextlib
import dis
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from inspect import signature
from types import CodeType, FunctionType

import numpy as np
import torch
from torch import nn

from secateur.core.equations import Attribute
from secateur.core.settle import SizeFacts, attributes_in
from secateur.core.space import freeze, leaves
from secateur.torch.narrowing.host_building import is_config
from secateur.torch.running.holding import closed_over
from secateur.torch.running.restoring import named_tensors
from secateur.torch.running.walking import attributes_of
from secateur.torch.tracing.blocks import entries_of, numbered
from secateur.torch.tracing.observe import Observation, UnheardSize, listen_again
from secateur.torch.tracing.unreached import Reach
from secateur.torch.tracing.written import asked_by, is_of, led_to, methods_of, named_by, names_in, things_in

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
_BUILDS = frozenset(["register_buffer", "register_parameter", "Parameter", "add_module", "register_module"])
_SEVERAL = (list, tuple, set, frozenset, deque)
_DEPTH = 3
_PRIVATE = "_"  # of these, only what a public method leads to
_NOT_USES = frozenset(["__init__", "extra_repr", "__repr__", "__setstate__", "__post_init__"])


def listen_to_other_forwards(seen: Observation) -> None:
    """Where only ``forward_split`` and its like say what an integer is the size of, hear them on what ``forward`` is given."""
    beside = {each.attribute.module: each.method for each in _unheard_sizes(seen) if _is_a_forward(seen, each)}
    if beside:
        seen.tried += [each for each in _unheard_sizes(seen) if each.attribute.module in beside]
        with contextlib.suppress(Exception):
            listen_again(seen, seen.example, training=False, beside=beside)


def freeze_kept_sizes(seen: Observation) -> None:
    """Freeze what has the size of an integer that only code which did not run makes tensors with."""
    reach: Reach | None = None
    still = [each for each in seen.tried if not _is_a_width(seen, each.attribute)]
    found = [
        (each.attribute, each.sizes, f"{each.method}() takes sizes from it") for each in [*_unheard_sizes(seen), *still]
    ]
    for attribute, sizes, use in [*found, *_tensors(seen)]:
        reach = reach or Reach(seen)
        near = reach.near(attribute.module)
        for space in {id(s): s for whole in near for s in (whole, *leaves(whole))}.values():
            if space.size in sizes:
                freeze(space, f"{attribute} has this size, and {use} where no run came")


def _is_a_forward(seen: Observation, unheard: UnheardSize) -> bool:
    """Whether a method is another way of doing what ``forward`` does: called after it, with parameters of the same names."""
    module = seen.modules[unheard.attribute.module]
    other = getattr(type(module), unheard.method, None)
    if "forward" not in unheard.method or not isinstance(other, FunctionType):
        return False
    return list(signature(other).parameters) == list(signature(type(module).forward).parameters)


def _is_a_width(seen: Observation, attribute: Attribute) -> bool:
    """Whether it was heard to be the size of something that may be narrowed."""
    spaces = (space for origin, space, _ in seen.tracer.facts.equations if attribute in attributes_in(origin))
    return any(not leaf.frozen for space in spaces for leaf in leaves(space))


def _unheard_sizes(seen: Observation) -> list[UnheardSize]:
    """The integers that no run was heard to use, beside functions that take sizes."""
    facts = seen.tracer.facts
    # A comparison alone does not say of which dimension an attribute is the size.
    said = {found for origin, *_ in facts.equations for found in attributes_in(origin)}
    heard, compared = facts.mentioned(), _told_apart(facts)
    places, named = _places(seen.example.model), _named_in(seen)
    elsewhere = {(_words(each.path)[-1], facts.attributes.get(each)) for each in heard | said}
    found: list[UnheardSize] = []
    for attribute, value in facts.attributes.items():
        if attribute in said | places or attribute.module not in named:
            continue
        kept, words = named[attribute.module], _words(attribute.path)
        uses = kept.on_a_branch if attribute in compared else {} if attribute in heard else kept.apart
        # what a configuration says, and another module was heard to use, is rewritten with it
        follows = (words[-1], value) in elsewhere and is_config(vars(seen.modules[attribute.module]).get(words[0]))
        if all(word in uses for word in words) and not follows:
            found.append(UnheardSize(attribute, {value}, uses[words[-1]]))
    return found


def _named_in(seen: Observation) -> dict[str, _Named]:
    return _by_module(seen.modules, frozenset[CodeType]().union(*(run.tracer.ran for run in seen.runs)))


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
    unheard: Mapping[str, str]  # whatever it takes: names that no code spoke which ran

    @classmethod
    def by(cls, kind: type, built: AbstractSet[str], ran: AbstractSet[CodeType]) -> _Named:
        """Those of a class, its bases, and the functions of their files, but for methods that give the module other layers, and
        those that a constructor has called and that write nothing: who calls ``reset_noise`` once calls it again."""
        own = {name: f for name, f in methods_of(kind, ("torch.", "builtins")).items() if name not in _NOT_USES}
        led = led_to(own)
        public = {name: f for name, f in own.items() if name not in led and not name.startswith(_PRIVATE)}
        building = {led for name in public if _builds(own, name) for led in (name, *led_to(own, name))}
        used = [n for n in public if n not in building and (n not in built or _writes(own, n))]
        # with the private methods that these lead to, and forward does not
        apart = list({k: f for n in used for k, f in {n: own[n], **led_to(own, n)}.items() if k not in led}.values())
        came = [
            f for name, f in led.items() if name == "forward" or any(is_of(g.__code__, ran) for g in _with_its_file(f))
        ]
        spoken = {name for f in came for name in names_in(f.__code__)}
        idle = _beside_sizes(f for f in led.values() if f not in came)
        left_out = {name: function for name, function in idle.items() if name not in spoken}
        still = [*apart, *(f for f in led.values() if f not in came)]
        unheard = {name: f.__name__ for f in still for name in names_in(f.__code__) if name not in spoken}
        return cls(_beside_sizes(led.values()), _beside_sizes(apart, own) | left_out, unheard)


def _by_module(modules: Mapping[str, nn.Module], ran: AbstractSet[CodeType]) -> dict[str, _Named]:
    """For modules of classes other than PyTorch's, what the code of their class names."""
    named: dict[type, _Named] = {}
    built = {name for kind in {base for m in modules.values() for base in type(m).__mro__} for name in asked_by(kind)}
    own = {name: type(module) for name, module in modules.items() if not type(module).__module__.startswith("torch.")}
    for kind in own.values():
        named[kind] = named.get(kind) or _Named.by(kind, built, ran)
    return {name: named[kind] for name, kind in own.items()}


def _tensors(seen: Observation) -> Iterator[tuple[Attribute, set[int], str]]:
    """Tensors and arrays that modules hold outside of PyTorch's tables, also in containers and plain objects (a distribution),
    with their sizes and the method that reads them."""
    own = frozenset(map(id, named_tensors(seen.example.model).values()))
    for module, kept in _named_in(seen).items():
        for key, value in attributes_of(seen.modules[module]):
            sizes = {n for shape in _shapes_within(value, own) for n in shape} - {1} if key in kept.unheard else None
            if sizes:
                yield Attribute(module, key), sizes, f"{kept.unheard[key]}() reads it"


def _shapes_within(value: object, own: AbstractSet[int], depth: int = _DEPTH) -> Iterator[tuple[int, ...]]:
    """The shapes of tensors and arrays in a value, so many containers and objects deep; not of the model's own, which are
    narrowed there, too, nor of what an optimizer keeps of them, which is told of when they are."""
    if isinstance(value, torch.Tensor | np.ndarray):
        if id(value) not in own:
            yield tuple(value.shape)
    elif depth and not isinstance(value, nn.Module | type | str | FunctionType | torch.optim.Optimizer):
        held = value.values() if isinstance(value, Mapping) else value if isinstance(value, _SEVERAL) else ()
        for part in (*held, *getattr(value, "__dict__", {}).values()):
            yield from _shapes_within(part, own, depth - 1)


def _words(path: str) -> list[str]:
    """The names in a path: ``args.latent``, ``cfg["latent"]``, ``sizes[1]``."""
    return re.findall(r"[^\W\d]\w*", path) or [path]


def _builds(methods: Mapping[str, FunctionType], name: str) -> bool:
    """Whether a method makes parameters, buffers or layers: ``reset_classifier``, ``reparameterize``. It builds the module, with
    sizes of its own, and is no use of what is there."""
    return any(_makes_layers(code) for led in led_to(methods, name).values() for code in _with_its_file(led))


def _makes_layers(function: FunctionType) -> bool:
    words = names_in(function.__code__)
    # quickly first: an attribute of the module may have such a name too
    meant = [table.get(word) for table in (vars(nn), function.__globals__) for word in words]
    may = any(map(_is_layer, (*meant, *closed_over(function))))
    return not words.isdisjoint(_BUILDS) or (may and any(map(_is_layer, things_in(function))))


def _is_layer(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, nn.Module)


def _writes(methods: Mapping[str, FunctionType], name: str) -> bool:
    """Whether a method, or one that it leads to, writes into what the module holds, as ``self.noise.copy_(…)`` does."""
    codes = [f.__code__ for f in led_to(methods, name).values()]
    stored = any(step.opname == "STORE_ATTR" for code in codes for step in dis.get_instructions(code))
    return stored or any(word.endswith("_") and hasattr(torch.Tensor, word) for c in codes for word in names_in(c))


def _beside_sizes(
    functions: Iterable[FunctionType], methods: Mapping[str, FunctionType] | None = None
) -> dict[str, str]:
    """Every name in code that takes sizes, itself, through a function of its file or one of these methods, and the name of
    that code."""
    found: dict[str, str] = {}
    for function in functions:
        for code in _with_its_file(function):
            led = led_to(methods, code.__name__).values() if methods else ()
            others = [*_with_its_file(code), *(f for other in led for f in _with_its_file(other))]
            if any(not _TAKE_SIZES.isdisjoint(names_in(other.__code__)) for other in others):
                found |= dict.fromkeys(names_in(code.__code__), code.__name__)
    return found


def _with_its_file(function: FunctionType) -> list[FunctionType]:
    """A function, and those of the same file that it names."""
    return [function, *(f for f in named_by(function) if f.__module__ == function.__module__)]
