"""The example a model is run on, and what ``dummy_input`` may be.

    x                     one positional argument
    (a, b)                positional arguments
    (a, b, {"mask": m})   positional and keyword arguments
    (a, {"k": v}, {})     the escape: the last positional argument really is a dict
    {"input_ids": ids}    keyword arguments alone
    Examples(x, also=[…]) further examples, each as above, which reach what the first does not

Invariant: an Example never changes its tensors; whoever runs it gets clones where the model might write.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from secateur.core.depth import Depth
from secateur.errors import InputError
from secateur.torch.running.interface import Interface
from secateur.torch.running.twin import copied


@dataclass(frozen=True, slots=True)
class Examples:
    """A ``dummy_input`` and further ones: other branches of the model's code, other forms of its input.

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
    """A model with the arguments of one forward pass; ``also`` are those of further ones.

    ``interface`` says which of its outputs are read outside, ``depth`` whether its blocks may go whole.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    also: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = ()
    interface: Interface = True
    depth: Depth = False

    @classmethod
    def of(cls, model: nn.Module, dummy_input: Any) -> Example:
        """Read ``dummy_input`` by the convention above. Raises InputError where it is none of these."""
        if isinstance(dummy_input, Examples):
            first, *others = (cls.of(model, one) for one in (dummy_input.first, *dummy_input.also))
            return replace(first, also=(*first.also, *((other.args, other.kwargs) for other in others)))
        if isinstance(model, torch.export.ExportedProgram):
            raise InputError(
                "the model is an ExportedProgram, whose code has all sizes as constants and cannot be narrowed. Pass the model "
                "it was exported from, and export the result."
            )
        if not isinstance(model, nn.Module):
            raise InputError(f"expected a torch.nn.Module, got {type(model).__name__}")
        if dummy_input is None:
            raise InputError("a dummy_input is needed: a tensor, a tuple of arguments, a dict of keywords, or a tuple ending in one")
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

    @property
    def further(self) -> list[Example]:
        """The further examples, each by itself."""
        return [replace(self, args=args, kwargs=kwargs, also=()) for args, kwargs in self.also]

    def as_dummy_input(self) -> Examples:
        """What `of` reads this from."""
        return Examples((*self.args, dict(self.kwargs)), [(*args, dict(kwargs)) for args, kwargs in self.also])

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
        """The arguments by the names that the model's forward has for them."""
        try:
            bound = inspect.signature(self.model.forward).bind_partial(*self.args, **self.kwargs).arguments
        except (TypeError, ValueError):  # a forward that says nothing of its arguments
            return dict(self.kwargs)
        return {**bound, **self.kwargs}

    def beside_model(self) -> Example:
        """The same example with host tensors moved to where the model's first parameter is."""
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        if device.type in ("cpu", "meta"):
            return self
        return self.map(lambda t: t.to(device) if t.device.type == "cpu" else t)


def batch_size(example: Example) -> int:
    """The size of the first dimension of the first tensor: how many samples a batch has."""
    return next((t.shape[0] for t in _leaves(example) if isinstance(t, torch.Tensor) and t.dim() > 0), 1)


def _leaves(example: Example) -> list[Any]:
    return tree_leaves((example.args, example.kwargs))
