"""The example a model is run on, and what ``dummy_input`` may be.

    x                     one positional argument
    (a, b)                positional arguments
    (a, b, {"mask": m})   positional and keyword arguments
    (a, {"k": v}, {})     the escape: the last positional argument really is a dict
    {"input_ids": ids}    keyword arguments alone
    Examples(x, also=[…]) further examples, each as above, which reach what the first does not
    Call("encode", x)     one of these: another method of the model, and what it is given

Invariant: an Example never changes its tensors; whoever runs it gets clones where the model might write.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from secateur.core.depth import Depth
from secateur.errors import InputError
from secateur.torch.running.interface import Interface
from secateur.torch.running.twin import copied
from secateur.torch.running.walking import parameters_of

_FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class Call:
    """A further example that calls another method of the model than ``forward``: ``Call("encode", x)`` is ``model.encode(x)``.

    ``dummy_input`` is what the method takes, written as what the model takes; none where it takes nothing. ``method`` may lead
    through modules: ``"decoder.sample"``. Stands in ``also`` of `Examples` and of `trace`.
    """

    method: str
    dummy_input: Any = ()

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise InputError(f'a Call names its method: secateur.Call("encode", x), not {self.method!r:.60}')
        if isinstance(self.dummy_input, (Call, Examples)):
            kind = type(self.dummy_input).__name__
            raise InputError(
                f"Call({self.method!r}, …) takes what the method does, no {kind}: write a Call for each call, beside each other "
                "in Examples(x, also=[…])"
            )


@dataclass(frozen=True, slots=True)
class Examples:
    """A ``dummy_input`` and further ones: other branches of the model's code, other forms of its input, other methods (`Call`).

    Wherever a ``dummy_input`` is taken. All are traced together, and a plan is verified on each.
    """

    first: Any
    also: Sequence[Any] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.also, (list, tuple)):
            kind = type(self.also).__name__
            raise InputError(f"also is a list of examples, each as dummy_input, not a {kind}: write also=[example]")


@dataclass(frozen=True, slots=True)
class Example:
    """A model with the arguments of one call of it, of its ``method``; ``also`` are further ones.

    ``interface`` says which of its outputs are read outside, ``depth`` whether its blocks may go whole.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    also: tuple[Example, ...] = ()
    interface: Interface = True
    depth: Depth = False
    method: str = _FORWARD

    @classmethod
    def of(cls, model: nn.Module, dummy_input: Any) -> Example:
        """Read ``dummy_input`` by the convention above. Raises InputError where it is none of these."""
        if isinstance(dummy_input, Examples):
            first = cls.of(model, dummy_input.first)
            others = (cls._of_call(model, one) for one in dummy_input.also)
            return replace(
                first, also=(*first.also, *(each for one in others for each in (replace(one, also=()), *one.also)))
            )
        if isinstance(dummy_input, Call):
            raise InputError(
                f"Call({dummy_input.method!r}, …) stands beside an example of forward, whose cost is the model's: write "
                "Examples(x, also=[Call(…)]), where model(x) runs"
            )
        if isinstance(model, torch.export.ExportedProgram):
            raise InputError(
                "the model is an ExportedProgram, whose code has all sizes as constants and cannot be narrowed. Pass the model "
                "it was exported from, and export the result."
            )
        if not isinstance(model, nn.Module):
            raise InputError(f"expected a torch.nn.Module, got {type(model).__name__}")
        if dummy_input is None:
            raise InputError(
                "there is nothing to run the model on: the dummy_input, or what a batch gives the model, is None. It is a "
                "tensor, a tuple of arguments, a dict of keywords, or a tuple ending in one"
            )
        if isinstance(dummy_input, dict) or hasattr(dummy_input, "keys"):
            return cls(model, (), dict(dummy_input))
        if not isinstance(dummy_input, tuple):
            return cls(model, (dummy_input,), {})
        if dummy_input and isinstance(dummy_input[-1], dict):
            *positional, keywords = dummy_input
            if not all(isinstance(key, str) for key in keywords):
                raise InputError("keyword arguments need string keys; to pass a dict itself, append an empty dict {}")
            return cls(model, tuple(positional), dict(keywords))
        return cls(model, dummy_input, {})

    @classmethod
    def _of_call(cls, model: nn.Module, given: Any) -> Example:
        """One of the further examples. Raises InputError where the model has no such method."""
        if not isinstance(given, Call):
            return cls.of(model, given)
        made = replace(cls.of(model, given.dummy_input), method=given.method)
        try:
            found = callable(made.called(model))
        except AttributeError:
            found = False
        if not found:
            raise InputError(
                f"{type(model).__name__} has no method {given.method!r}, which Call({given.method!r}, …) would run: name one "
                "that can be called on the model, or on a module inside by its dotted name"
            )
        return made

    def called(self, network: nn.Module) -> Callable[..., Any]:
        """What takes the arguments: the network, as hooks on it want it, or another method of it."""
        return network if self.method == _FORWARD else attrgetter(self.method)(network)

    @property
    def code(self) -> Callable[..., Any]:
        """The method that the arguments are those of."""
        called = self.called(self.model)
        return called.forward if isinstance(called, nn.Module) else called

    @property
    def further(self) -> list[Example]:
        """The further examples, each by itself."""
        return [replace(one, model=self.model, interface=self.interface, depth=self.depth) for one in self.also]

    def as_dummy_input(self) -> Examples:
        """What `of` reads this from."""
        calls = [one._given if one.method == _FORWARD else Call(one.method, one._given) for one in self.also]
        return Examples(self._given, calls)

    @property
    def _given(self) -> tuple[Any, ...]:
        return (*self.args, dict(self.kwargs))

    def map(self, function: Any) -> Example:
        """A copy of the example, objects that hold tensors included, with every tensor replaced by ``function(tensor)``."""
        args, kwargs = copied((self.args, self.kwargs), function)
        return replace(self, args=args, kwargs=kwargs)

    def tensors(self) -> list[torch.Tensor]:
        """Every tensor among the arguments, whatever objects hold them, in their order."""
        found: list[torch.Tensor] = []
        self.map(lambda tensor: found.append(tensor) or tensor)
        return found

    def by_name(self) -> dict[str, object]:
        """The arguments by the names that the method has for them."""
        try:
            bound = inspect.signature(self.code).bind_partial(*self.args, **self.kwargs).arguments
        except (TypeError, ValueError):  # a forward that says nothing of its arguments
            return dict(self.kwargs)
        return {**bound, **self.kwargs}

    def beside_model(self) -> Example:
        """The same example with host tensors moved to where the model's first parameter is."""
        device = next((p.device for p in parameters_of(self.model)), torch.device("cpu"))
        if device.type in ("cpu", "meta"):
            return self
        return self.map(lambda t: t.to(device) if t.device.type == "cpu" else t)


def batch_size(example: Example) -> int:
    """The size of the first dimension of the first tensor: how many samples a batch has."""
    return next((t.shape[0] for t in _leaves(example) if isinstance(t, torch.Tensor) and t.dim() > 0), 1)


def _leaves(example: Example) -> list[Any]:
    return tree_leaves((example.args, example.kwargs))
