"""What code reads out of tensors, asked once of numbers and answered from then on.

    asked     a run with numbers       int(h.argmax()) ──► 3          h[h > 0] ──► 5 were taken
    answered  runs without data        int(h.argmax()) ──► 3          h[h > 0] ──► 5, of whatever width

So code that reads values runs on tensors without data like any other, at every width on the same course: what it then calls
otherwise, or with another number, comes of a size and of nothing else.

Invariant: an answer is given to the operator, in the module and in the order, that asked for it; there is none by guess.
"""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from secateur.torch.running.calls import Args, Function, Kwargs, Operator, Result
from secateur.torch.running.written import written_places

Run = Callable[[Operator, Args, Kwargs], Result]
Answer = Callable[[Operator, Args, Kwargs, Run], Result]
Place = tuple[str, str]  # the module, and what was called there

READS = frozenset({"numpy", "tolist"})  # functions that no operator stands for
_MASKED = frozenset({"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"})


class Unanswered(RuntimeError):
    """The code asks what was not asked before: it is on another course."""


class Answers(Protocol):
    """Who is told of every operator and of functions that read values, and runs them."""

    def operator(self, module: str, func: Operator, args: Args, kwargs: Kwargs, run: Run) -> Result:
        """What an operator gives."""
        ...

    def function(self, module: str, func: Function, args: Args, kwargs: Kwargs) -> Result:
        """What a function that reads values gives."""
        ...

    def again(self) -> Answers:
        """The same, for a run over the same code from its beginning."""
        ...


class Asking:
    """Runs on numbers, and keeps what came out."""

    def __init__(self) -> None:
        self._kept: defaultdict[Place, list[Answer]] = defaultdict(list)

    def operator(self, module: str, func: Operator, args: Args, kwargs: Kwargs, run: Run) -> Result:
        taken = _positions(func, args)
        out = run(func, args, kwargs)
        self._kept[module, _name(func)].append(partial(_at, taken) if taken else _answer(func, args, out))
        return out

    def function(self, module: str, func: Function, args: Args, kwargs: Kwargs) -> Result:
        out = func(*args, **kwargs)
        self._kept[module, func.__name__].append(partial(_told, copy.deepcopy(out)))
        return out

    def again(self) -> Answered:
        """One who answers a run over the same code from its beginning."""
        return Answered(self._kept)


class Answered:
    """Answers for tensors without data what was asked of numbers; all else is run."""

    def __init__(self, kept: dict[Place, list[Answer]]) -> None:
        self._kept = kept
        self._left = {place: deque(answers) for place, answers in kept.items()}

    def again(self) -> Answered:
        """The same answers from the beginning."""
        return Answered(self._kept)

    def operator(self, module: str, func: Operator, args: Args, kwargs: Kwargs, run: Run) -> Result:
        answer = self._next(module, _name(func))
        if any(t.is_meta for t in _tensors((args, kwargs))):
            return answer(func, args, kwargs, run)
        return run(func, args, kwargs)

    def function(self, module: str, func: Any, args: Args, kwargs: Kwargs) -> Result:
        answer = self._next(module, func.__name__)
        return answer(func, args, kwargs, _call) if args[0].is_meta else func(*args, **kwargs)

    def _next(self, module: str, name: str) -> Answer:
        left = self._left.get((module, name))
        return left.popleft() if left else _plain


def writes(func: Operator) -> bool:
    """Whether an operator writes into its first argument."""
    return any(place == 0 for place, _ in written_places(func))


def _call(func: Any, args: Args, kwargs: Kwargs) -> Result:
    return func(*args, **kwargs)


def _answer(func: Operator, args: Args, out: Result) -> Answer:
    """What to keep of an operator that ran on numbers: what it read, or how many it took, or only the shapes it gave."""
    made = list(_tensors(out))
    if not made:
        return partial(_told, out)
    if _sized_by_values(func):
        return partial(_given, [_without_data(t) for t in made], isinstance(out, Tensor))
    if writes(func):
        numbers = not args[0].is_floating_point() and not args[0].is_complex()
        return partial(_rewritten, args[0].detach().clone()) if numbers else _plain
    return partial(_shaped, [torch.empty_like(t, device="meta") for t in made], isinstance(out, Tensor))


def _plain(func: Operator, args: Args, kwargs: Kwargs, run: Run) -> Result:
    """Nothing was asked: it must run by itself."""
    if _sized_by_values(func) or torch.Tag.data_dependent_output in getattr(func, "tags", ()) or run is _call:
        raise Unanswered(f"{_name(func)} reads values that were not read before")
    return run(func, args, kwargs)


def _told(value: Any, func: Operator, args: Args, kwargs: Kwargs, run: Run) -> Result:
    return copy.deepcopy(value)


def _given(made: list[Tensor], single: bool, func: Operator, args: Args, kwargs: Kwargs, run: Run) -> Result:
    """Positions are numbers that code may go on with; what was taken is without data."""
    again = [torch.empty_like(t) if t.is_meta else t.clone() for t in made]  # what is given does not outlive the run
    return again[0] if single else tuple(again)


def _at(taken: list[Tensor | None], func: Operator, args: Args, kwargs: Kwargs, run: Run) -> Result:
    """A mask among indices stands for the positions where it was true."""
    indices: list[Tensor | None] = []
    for index, found in zip(args[1], taken, strict=True):
        indices.extend([index] if found is None else found.to("meta").unbind(1))
    return run(func, (args[0], indices, *args[2:]), kwargs)


def _rewritten(contents: Tensor, func: Operator, args: Args, kwargs: Kwargs, run: Run) -> Result:
    """Integers stay numbers when unknown ones are written among them: they are what they were then."""
    if args[0].is_meta:
        return run(func, args, kwargs)
    return args[0].copy_(contents)


def _shaped(made: list[Tensor], single: bool, func: Operator, args: Args, kwargs: Kwargs, run: Run) -> Result:
    """An operator that cannot be run without data gives the shapes that it gave."""
    try:
        return run(func, args, kwargs)
    except NotImplementedError:
        again = [torch.empty_like(t) for t in made]
        return again[0] if single else tuple(again)


def _positions(func: Operator, args: Args) -> list[Tensor | None]:
    """Where the masks among the indices of an operator are true; nothing where there is no mask."""
    if _name(func) not in _MASKED:
        return []
    masks = [t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]]
    return [t.nonzero() if mask else None for t, mask in zip(args[1], masks, strict=True)] if any(masks) else []


def _sized_by_values(func: Operator) -> bool:
    return torch.Tag.dynamic_output_shape in getattr(func, "tags", ()) and _name(func) not in _MASKED


def _without_data(tensor: Tensor) -> Tensor:
    numbers = not tensor.is_floating_point() and not tensor.is_complex()
    return tensor.detach().clone() if numbers else torch.empty_like(tensor, device="meta")


def _name(func: Operator) -> str:
    return func._schema.name if hasattr(func, "_schema") else str(getattr(func, "__name__", func))


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, dict):
        yield from _tensors(tuple(tree.values()))
