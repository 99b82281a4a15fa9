"""Losses that a network computes of its own numbers: element by element, then summed or averaged.

    mse_loss(x, y)                 x.d = y.d; a mean runs over all of them            inexact
    mse_loss(x, y, reduction="sum")   exact where the loss of two zeros is zero
    cross_entropy(logits, labels)  the classes are what the labels' numbers say       frozen

A loss that compares with labels reads its classes by position; one that compares numbers with numbers does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.space import ONE, Space, constant, freeze
from secateur.torch.rules.pointwise import element_by_element
from secateur.torch.rules.protocol import Trace, tensors_of
from secateur.torch.rules.registry import Sample, rule, sample

_NONE, _MEAN = 0, 1  # as PyTorch numbers what becomes of the single losses; 2: they are summed


@rule(
    "mse_loss",
    "huber_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)
def of_numbers(trace: Trace, out: Tensor, *args: object, **kwargs: object) -> None:
    """The loss of each number, then all of them together."""
    place = [argument.name for argument in trace.operator._schema.arguments].index("reduction")
    given = args[place] if place < len(args) else kwargs.get("reduction", _MEAN)
    single = (*args[:place], _NONE, *args[place + 1 :]) if place < len(args) else args
    tensors = [a for a in args if isinstance(a, Tensor)]
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    rest = kwargs if place < len(args) else {**kwargs, "reduction": _NONE}
    spaces, zero = element_by_element(trace, shape, single, rest)
    if given == _NONE:
        trace.put(out, spaces, zero)
        return
    for space, clean in zip(spaces, zero, strict=True):
        if given == _MEAN:
            trace.statistic(space)
        else:
            trace.contract(space, zero=clean)
    trace.put(out, [])


@rule("nll_loss_forward", "nll_loss2d_forward", "multi_margin_loss", "multilabel_margin_loss_forward")
def of_labels(
    trace: Trace, out: Tensor | Sequence[Tensor], x: Tensor, labels: Tensor, *args: object, **kwargs: object
) -> None:
    """Labels say by a number which of the classes is meant, and so does the place of a class's weight."""
    classes = 1 if x.dim() > 1 else 0
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    for space in (trace.spaces(x)[classes], *(s for t in tensors for s in trace.spaces(t))):
        freeze(space, f"labels say which of it is meant in {trace.where}")
    others = [s for i, s in enumerate(trace.spaces(x)) if i != classes]
    if trace.name.startswith("nll") and labels.dim() == len(others):
        others = [trace.same(a, b) for a, b in zip(others, trace.spaces(labels), strict=True)]
    else:
        trace.freeze_all([labels], f"its labels are read in {trace.where}")
    loss, *rest = tensors_of(out)
    if loss.dim() and tuple(loss.shape) == tuple(s.root().size for s in others):
        trace.put(loss, others)
    else:
        for space in others:
            trace.statistic(space)
        trace.put(loss, [constant(n, ONE) for n in loss.shape])
    for other in rest:
        trace.put(other, [_constant(n, trace) for n in other.shape])


@rule("_ctc_loss")
def of_alignments(trace: Trace, out: Sequence[Tensor], x: Tensor, labels: Tensor, *args: object) -> None:
    """What is compared with labels is one of several sequences, each of a length of its own."""
    given = [x, labels, *(a for a in args if isinstance(a, Tensor))]
    trace.freeze_all(given, f"it is aligned with labels in {trace.where}")
    for result in out:
        trace.put(result, [_constant(n, trace) for n in result.shape])


def _constant(size: int, trace: Trace) -> Space:
    return constant(size, f"made in {trace.where}" if size != 1 else ONE)


@sample("mse_loss", "soft_margin_loss")
def _of_numbers() -> Sample:
    def function(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        apart = F.mse_loss(x, y, reduction="none") @ w
        return apart, F.mse_loss(x, y, reduction="sum"), F.soft_margin_loss(x, y.detach().sign())

    return Sample(function, (3, 4), (3, 4), (4, 5))


@sample("nll_loss_forward", "_ctc_loss")
def _of_labels() -> Sample:
    labels = torch.tensor([2, 0, 1])

    def function(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        logits = x.relu() @ w
        aligned = F.ctc_loss(logits.log_softmax(1)[:, None], labels[:1], torch.tensor([3]), torch.tensor([1]))
        return F.cross_entropy(logits, labels), F.cross_entropy(logits, labels, reduction="none"), aligned

    return Sample(function, (3, 6), (6, 4))
