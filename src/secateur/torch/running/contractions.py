"""Looking at (and standing in for) what goes into and comes out of every contraction with a parameter.

    with taps(model, tap):        F.linear, F.conv*, addmm, matmul … with a parameter of the model as their weight
        model(x)                  tap.before(site) -> the input to use;  tap.after(site, y) -> the output to use

Works above autograd and below modules: functional calls (``nn.MultiheadAttention``, tied embeddings) are seen too. What runs
inside a transform of ``torch.func`` is passed by: what is seen there is gone when the transform ends.

Invariant: a tap that returns its arguments changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from secateur.torch.running.calls import Args, Function, Kwargs, Result
from secateur.torch.running.functions import functions_opened
from secateur.torch.running.listening import Listening
from secateur.torch.running.transforms import bottoms, inside_a_transform
from secateur.torch.running.walking import named_parameters


@dataclass(slots=True)
class Site:
    """One contraction: ``y = weight · x + bias``.

    ``kind`` is "linear" (features are the last dimension of x), "conv" or "transposed" (channels are dimension 1).
    ``inputs`` and ``outputs`` are the axes of the weight that are contracted with x and that make y's features; in
    grouped convolutions ``inputs`` counts within a group.
    """

    name: str
    weight: torch.Tensor
    bias: torch.Tensor | None
    x: torch.Tensor
    kind: str
    inputs: int
    outputs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    again: Callable[[], torch.Tensor] | None = None  # runs the contraction once more on x, past the tap

    @property
    def features(self) -> int:
        """The dimension of x and y that holds features."""
        return -1 if self.kind == "linear" else 1 - self.spatial - 2

    @property
    def spatial(self) -> int:
        """Number of spatial dimensions: 0 for linear."""
        return 0 if self.kind == "linear" else self.weight.dim() - 2

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 for linear."""
        return int(self.options.get("groups", 1))


class Tap(Protocol):
    """What looks on."""

    def before(self, site: Site) -> torch.Tensor:
        """The input to use in place of ``site.x`` (return ``site.x`` to change nothing)."""
        ...

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        """The output to use in place of ``y``."""
        ...


class WideTap(Tap, Protocol):
    """A tap that sees every other function, too."""

    def other(self, func: Function, args: Args, kwargs: Kwargs) -> Result:
        """What to use as the function's result: ``func(*args, **kwargs)`` to change nothing."""
        ...

    def inside(self, func: Function, args: Args, site: Site | None) -> None:
        """A function runs inside a transform, on what these tensors are wrapped in there; a contraction if there is a site."""
        ...


@contextmanager
def taps(model: nn.Module, tap: Tap, called: Callable[[str], str] = str) -> Iterator[None]:
    """While this is open, every contraction of a parameter of the model passes through the tap, in this thread.

    ``called`` gives each parameter the name that sites have.
    """
    watch = _Watch(model, tap, called)
    with functions_opened(watch), watch:
        yield


class _Watch(Listening):
    def __init__(self, model: nn.Module, tap: Tap, called: Callable[[str], str]) -> None:
        super().__init__()
        self.tap = tap
        self.other = getattr(tap, "other", _run)
        self.inside = getattr(tap, "inside", None)
        self.names = {id(p): called(name) for name, p in named_parameters(model, once=True)}
        self.flipped: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # transposed view -> (view, parameter)
        self.copies: list[torch.Tensor] = []  # kept, so that no other tensor has their id
        self.passed: list[str] | None = None

    @contextmanager
    def away(self) -> Iterator[list[str]]:
        """Look away, and note what is passed by."""
        self.passed = found = []
        try:
            yield found
        finally:
            self.passed = None

    def known_as(self, tensor: torch.Tensor, copy: torch.Tensor) -> None:
        """A copy goes by the name of a parameter, or is the transposed view that the tensor is."""
        if id(tensor) in self.names:
            self.names[id(copy)] = self.names[id(tensor)]
            self.copies.append(copy)
        elif id(tensor) in self.flipped:
            self.flipped[id(copy)] = (copy, self.flipped[id(tensor)][1])

    def called(self, func: Function, args: Args, kwargs: Kwargs) -> Result:
        if inside_a_transform():
            if self.inside is not None:
                under, named = bottoms((args, kwargs))
                self.inside(func, under, self._site(func, under, named))
            return func(*args, **kwargs)
        site = self._site(func, args, kwargs)
        if site is None:
            out = (self.other if self.passed is None else _run)(func, args, kwargs)
            if func in _TRANSPOSES and id(args[0]) in self.names and args[0].dim() == 2:
                self.flipped[id(out)] = (out, args[0])
            return out
        if self.passed is not None:
            self.passed.append(site.name)
            return func(*args, **kwargs)
        given, position = site.x, next(i for i, a in enumerate(args) if a is site.x)
        x = self.tap.before(site)
        if x is not given:
            args = (*args[:position], x, *args[position + 1 :])
        site.again = lambda: func(*args, **kwargs)
        return self.tap.after(site, func(*args, **kwargs))

    def _site(self, func: Function, args: Args, kwargs: Kwargs) -> Site | None:
        read = _READERS.get(func)
        return None if read is None else read(self, func, *args, **kwargs)

    def weight(self, tensor: object) -> tuple[str, torch.Tensor, bool] | None:
        """The name of a parameter, itself, and whether it is seen transposed."""
        if not isinstance(tensor, torch.Tensor):
            return None
        if id(tensor) in self.names:
            return self.names[id(tensor)], tensor, False
        known = self.flipped.get(id(tensor))
        return None if known is None else (self.names[id(known[1])], known[1], True)


def _linear(watch: _Watch, _: object, x: object, weight: object = None, bias: object = None) -> Site | None:
    return _upright(watch, x, weight, bias, "linear", {})


def _upright(watch: _Watch, x: Any, weight: object, bias: Any, kind: str, options: Mapping[str, object]) -> Site | None:
    """A contraction that takes its weight as it is stored; nothing for a transposed view or a tensor of no name."""
    found = watch.weight(weight)
    if found is None or found[2]:
        return None
    inputs = 0 if kind == "transposed" else 1
    return Site(
        name=found[0], weight=found[1], bias=bias, x=x, kind=kind, inputs=inputs, outputs=1 - inputs, options=options
    )


def _matmul(watch: _Watch, _: object, x: object, other: object = None, **kwargs: object) -> Site | None:
    return _product(watch, x, other, None)


def _addmm(
    watch: _Watch, _: object, bias: object, x: object = None, other: object = None, **kwargs: object
) -> Site | None:
    return None if kwargs else _product(watch, x, other, bias)


def _product(watch: _Watch, x: object, other: Any, bias: Any) -> Site | None:
    found = watch.weight(other)
    if found is None or found[1].dim() != 2 or not isinstance(x, torch.Tensor):
        return None
    inputs = 1 if found[2] else 0
    return Site(name=found[0], weight=found[1], bias=bias, x=x, kind="linear", inputs=inputs, outputs=1 - inputs)


def _conv(
    watch: _Watch,
    _: object,
    x: object,
    weight: object = None,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> Site | None:
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _upright(watch, x, weight, bias, "conv", options)


def _transposed(
    watch: _Watch,
    _: object,
    x: object,
    weight: object = None,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    output_padding: object = 0,
    groups: int = 1,
    dilation: object = 1,
) -> Site | None:
    options = {"stride": stride, "padding": padding, "output_padding": output_padding}
    return _upright(watch, x, weight, bias, "transposed", options | {"dilation": dilation, "groups": groups})


def _run(func: Function, args: Args, kwargs: Kwargs) -> Result:
    return func(*args, **kwargs)


_F = nn.functional


_READERS: dict[Any, Callable[..., Site | None]] = {
    _F.linear: _linear,
    _F.conv1d: _conv,
    _F.conv2d: _conv,
    _F.conv3d: _conv,
    _F.conv_transpose1d: _transposed,
    _F.conv_transpose2d: _transposed,
    _F.conv_transpose3d: _transposed,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
    torch.mm: _matmul,
    torch.Tensor.mm: _matmul,
    torch.addmm: _addmm,
}


_TRANSPOSES = {torch.t, torch.Tensor.t, torch.Tensor.T.__get__, torch.transpose, torch.Tensor.transpose}  # type: ignore[attr-defined]
