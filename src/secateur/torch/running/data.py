"""Batches for whatever looks at data: criteria, calibration, compensation, training.

    Data(loader=loader, collect=first_of, num_batches=50)     from a data loader
    Data.of_forward_loop(model, loop, num_batches=50)         from a user's own loop: what it passes to the model is kept

Invariant: every user of data sees the same batches in the same order, moved to the model's device, at most ``num_batches``;
only training asks for another pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from secateur.errors import InputError
from secateur.torch.running.describing import described
from secateur.torch.running.distributed import Group
from secateur.torch.running.example import Example, batch_size
from secateur.torch.running.randomness import unmoved
from secateur.torch.running.twin import in_use, twin
from secateur.torch.running.walking import parameters_of

Batch = Any  # whatever a loader yields, a model takes of it and gives for it
Loss = Callable[[Batch, Batch], torch.Tensor]
Collect = Callable[[Batch], Batch]
_IGNORED = -100  # a label that torch's losses do not count


def first_of(batch: object) -> Batch:
    """What a batch passes to the model by default: its first item if it is a tuple or list, else the batch."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


class NotFinite(InputError):
    """What was measured on data is no finite number."""


@dataclass
class Hand:
    """The batch that was read last, its number from 0 and how it is read: where a fault of the data is looked for.

    None where it was done with. State, because reading goes on while somebody else waits for a fault.
    """

    held: tuple[int, Batch, Collect] | None = None


_HAND: ContextVar[Hand | None] = ContextVar("the batch in hand", default=None)


@contextmanager
def in_hand() -> Iterator[Hand]:
    """What is read inside this block, batch after batch, by this thread."""
    hand = Hand()
    token = _HAND.set(hand)
    try:
        yield hand
    finally:
        _HAND.reset(token)


class _Enough(Exception):
    """Raised inside a user's forward loop once enough batches were seen."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """A source of batches.

    ``collect`` says what of a batch the model takes; ``loss(output, batch)`` gives a scalar; ``group`` are the processes
    that each read a part of the data, all there are if None.
    """

    loader: Iterable[Batch]
    collect: Collect = first_of
    num_batches: int = 50
    loss: Loss | None = None
    group: Group = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.num_batches < 1:
            raise InputError(f"num_batches is at least 1, not {self.num_batches}")
        if isinstance(self.loader, torch.Tensor):
            raise InputError(
                f"the data loader is one tensor {tuple(self.loader.shape)}, which would be read row by row: give batches, "
                "[tensor] or list(zip(inputs.split(64), labels.split(64))), or a DataLoader"
            )
        if not hasattr(self.loader, "__iter__"):
            raise InputError(f"a data loader can be iterated over; {type(self.loader).__name__} cannot")
        if isinstance(self.loader, Iterator):  # not iter(loader): that draws a random number
            raise InputError(
                "the data loader can be read only once (a generator or iterator): pass a list or a DataLoader"
            )

    @classmethod
    def of(
        cls,
        given: Iterable[Batch] | Data,
        *,
        collect: Collect | None = None,
        num_batches: int | None = None,
        loss: Loss | None = None,
    ) -> Data:
        """The data of a loader, or the one given; what is said beside it holds."""
        said = {"collect": collect, "num_batches": num_batches, "loss": loss}
        data = given if isinstance(given, Data) else cls(loader=given)
        return replace(data, **{name: value for name, value in said.items() if value is not None})

    @classmethod
    def of_forward_loop(cls, model: nn.Module, loop: Callable[[nn.Module], Batch], *, num_batches: int = 50) -> Data:
        """The batches that ``loop(model)`` passes to the model it is given: a twin, so that the model is left as it was.

        Raises InputError if the loop never calls it.
        """
        seen: list[Batch] = []

        def keep(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, Batch]) -> None:
            if len(seen) == num_batches:
                raise _Enough
            seen.append((*args, dict(kwargs)))

        given = twin(model, in_use)
        given.register_forward_pre_hook(keep, with_kwargs=True)
        with torch.no_grad(), suppress(_Enough):
            loop(given)
        if not seen:
            raise InputError(
                "the forward_loop never called the model it was given: it is called as forward_loop(model)"
            )
        return cls(loader=seen, collect=_itself, num_batches=num_batches)

    def batches(self, model: nn.Module) -> Iterator[Batch]:
        """The batches on the model's device, the same each time: a loader's own generator is left where it is.

        Raises InputError where there is none, or one has no samples.
        """
        with unmoved(self.loader):
            yield from self.next_pass(model)

    def next_pass(self, model: nn.Module) -> Iterator[Batch]:
        """The batches that the loader gives this time, in another order where it shuffles."""
        device = next((p.device for p in parameters_of(model)), torch.device("cpu"))
        number = -1
        for number, batch in enumerate(islice(iter(self.loader), self.num_batches)):
            self._check_samples(number, batch)
            moved = to_device(batch, device)
            hand = _HAND.get() or Hand()
            hand.held = number, moved, self.collect
            yield moved
            hand.held = None
        if number < 0:
            raise InputError("the data loader gave no batch")

    def _check_samples(self, number: int, batch: Batch) -> None:
        # collect is not asked: it may draw random numbers
        taken = first_of(batch) if self.collect is first_of else batch
        tensors = [leaf for leaf in tree_leaves(taken) if isinstance(leaf, torch.Tensor) and leaf.dim()]
        if tensors and not any(map(len, tensors)):
            raise InputError(
                f"batch {number} of the data (from 0) has no samples, it is {described(batch)}: leave empty batches out"
            )

    def strange(self, model: nn.Module) -> str | None:
        """The first batch of which the model takes values that are no finite numbers, in words; None if there is none."""
        for number, batch in enumerate(self.batches(model)):
            for tensor in Example.of(model, self.collect(batch)).tensors():
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    return f"batch {number} of the data has values that are no finite numbers, in {described(tensor)}"
        return None

    def limited(self, model: nn.Module, samples: int) -> Data:
        """The same data up to the batch that completes so many samples, kept in memory."""

        seen, kept = 0, []
        for batch in self.batches(model):
            kept.append(batch)
            seen += batch_size(Example.of(model, self.collect(batch)))
            if seen >= samples:
                break
        return replace(self, loader=kept)

    def output(self, model: nn.Module, batch: object) -> Batch:
        """Run the model on one batch."""
        return call(model, self.collect(batch))

    def loss_of(self, output: Batch, batch: object) -> torch.Tensor:
        """The loss of an output: ``loss`` where given, else the output's own, else cross entropy with the labels.

        Raises InputError where none of these can be had.
        """
        if self.loss is not None:
            value = _of_torch(self.loss, output, batch) if is_torch_loss(self.loss) else self.loss(output, batch)
        elif isinstance(getattr(output, "loss", None), torch.Tensor):
            value = output.loss
        else:
            value = _cross_entropy(output, batch, self.collect)
        if isinstance(value, nn.Module):
            raise InputError(f"loss_func is a class: write {type(value).__name__}(), with brackets")
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise InputError(f"the loss is a tensor with one element, not {_described(value)}")
        return value

    def wants_a_loss(self, output: object, batch: object) -> bool:
        """Whether there is nothing to have a loss from: none given, none of the output's own, no labels."""
        if self.loss is not None or isinstance(getattr(output, "loss", None), torch.Tensor):
            return False
        return self._labels_of(batch) is None

    def is_of_classes(self, output: object, batch: object) -> bool:
        """Whether an output is known to be logits: it says so, or the labels are class numbers."""
        labels = self._labels_of(batch)
        if hasattr(output, "logits"):
            return labels is None or not labels.is_floating_point()
        return isinstance(output, torch.Tensor) and labels is not None and _are_labels(labels, output)

    def is_of_numbers(self, batch: object) -> bool:
        """Whether labels say that no classes are meant: they are floats."""
        labels = self._labels_of(batch)
        return labels is not None and labels.is_floating_point()

    def _labels_of(self, batch: object) -> torch.Tensor | None:
        """The labels beside the inputs; a forward_loop gives inputs alone."""
        return None if self.collect is _itself else _labels(batch)


def _itself(batch: object) -> Batch:
    return batch


def is_torch_loss(loss: object) -> bool:
    """Whether this is a loss of torch's own, which takes predictions and labels."""
    ours = getattr(torch.nn.functional, getattr(loss, "__name__", ""), None)
    return isinstance(loss, nn.modules.loss._Loss) or (callable(loss) and ours is loss)


def _of_torch(loss: Loss, output: Batch, batch: object) -> torch.Tensor:
    """``nn.CrossEntropyLoss()`` and its like, as everybody means them: of the logits and the labels."""
    labels = _labels(batch)
    if labels is None:
        raise InputError(
            f"loss_func is {_name(loss)}, which takes logits and labels, and the batches are not (inputs, labels): give "
            "loss_func=lambda output, batch: …"
        )
    return _told_of_labels(loss, getattr(output, "logits", output), labels)


def _told_of_labels(loss: Loss, logits: Batch, labels: torch.Tensor) -> torch.Tensor:
    """The loss. Raises InputError for a label that is no class of the model's, and where no label counts."""
    if labels.dtype in (torch.int8, torch.int16, torch.int32):  # PyTorch's own losses take 64 bits alone
        labels = labels.long()
    ignored = getattr(loss, "ignore_index", _IGNORED)
    if not labels.is_floating_point() and labels.numel() and bool((labels == ignored).all()):
        raise InputError(
            f"every label of a batch is {ignored}, which stands for none, so that there is no loss: leave such batches out, or "
            "give a loss_func that needs no labels"
        )
    try:
        return loss(logits, labels)
    except IndexError as fault:
        if logits.shape[1] == 1:
            raise InputError(
                "the model answers with one number, which cross entropy cannot be asked of: give a loss_func, such as "
                "lambda output, batch: binary_cross_entropy(output[:, 0], batch[1].float())"
            ) from fault
        raise InputError(
            f"the labels run from {int(labels.min())} to {int(labels.max())}, and the model's output has "
            f"{logits.shape[1]} classes, 0 to {logits.shape[1] - 1}: number the labels so, or give a loss_func"
        ) from fault


def _name(loss: object) -> str:
    return getattr(loss, "__name__", type(loss).__name__)


def _labels(batch: Batch) -> torch.Tensor | None:
    """The second of a pair, or what a mapping calls its labels."""
    if isinstance(batch, (tuple, list)):
        labels = batch[1] if len(batch) > 1 else None
    else:
        labels = batch.get("labels") if hasattr(batch, "keys") and hasattr(batch, "get") else None
    return labels if isinstance(labels, torch.Tensor) else None


def _cross_entropy(output: object, batch: object, collect: Collect) -> torch.Tensor:
    alone = collect is _itself
    logits, labels = getattr(output, "logits", output), None if alone else _labels(batch)
    if isinstance(logits, torch.Tensor) and labels is not None:
        if _are_labels(labels, logits):
            return _told_of_labels(torch.nn.functional.cross_entropy, logits, labels)
        if logits.dim() == 3 and labels.shape == logits.shape[:2] and not labels.is_floating_point():
            return _of_tokens(logits, labels, collect(batch))
    if alone:
        raise InputError(
            "no loss: a forward_loop gives the model's inputs alone, and this looks at gradients of a loss. Give a "
            "data_loader of (inputs, labels), or loss_func(output, inputs) that needs no labels"
        )
    raise InputError(
        f"no loss: the model gives {described(output)}, a batch is {described(batch)}. Cross entropy is of logits, one tensor "
        "[samples, classes, …] or .logits, and of integer labels beside the inputs; for anything else pass loss_func, called as "
        "loss_func(output, batch)"
    )


def _of_tokens(logits: torch.Tensor, labels: torch.Tensor, given: Batch) -> torch.Tensor:
    """Cross entropy of ``[B, T, V]``. Labels that repeat the model's input are those of the next position."""
    counted = labels != _IGNORED
    if any(_repeats(leaf, labels, counted) for leaf in tree_leaves(dict(given) if hasattr(given, "keys") else given)):
        logits, labels = logits[:, :-1], labels[:, 1:]
    return _told_of_labels(torch.nn.functional.cross_entropy, logits.movedim(-1, 1), labels)


def _repeats(leaf: object, labels: torch.Tensor, counted: torch.Tensor) -> bool:
    return (
        isinstance(leaf, torch.Tensor)
        and leaf.shape == labels.shape
        and leaf.dtype == labels.dtype
        and bool((leaf == labels)[counted].all())
    )


def _are_labels(labels: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether these are class numbers, one for each of the logits' rows."""
    one_each = logits.dim() >= 2 and labels.shape == (logits.shape[0], *logits.shape[2:])
    return one_each and not labels.is_floating_point()


def _described(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def call(model: nn.Module, given: object) -> Batch:
    """Run a model on what ``collect_func`` returned: a tensor, a tuple of arguments (last may be a dict), or a dict."""

    example = Example.of(model, given)
    return model(*example.args, **example.kwargs)


def to_device(tree: object, device: torch.device) -> Batch:
    """The same nested structure with every tensor on a device: tuples, lists, dicts, dataclasses, and what has ``.to``."""
    from torch.utils._pytree import tree_map

    return tree_map(lambda leaf: _moved(leaf, device), tree, is_leaf=_moves_itself)


def _moves_itself(entry: object) -> bool:
    return not isinstance(entry, type) and callable(getattr(entry, "to", None))


def _moved(leaf: Batch, device: torch.device) -> Batch:
    if isinstance(leaf, torch.Tensor):
        return leaf.to(device)
    if _moves_itself(leaf):
        return copy(leaf).to(device)  # Hugging Face's BatchEncoding moves its own tensors
    if is_dataclass(leaf) and not isinstance(leaf, type):
        return replace(leaf, **{f.name: to_device(getattr(leaf, f.name), device) for f in fields(leaf) if f.init})
    return leaf
