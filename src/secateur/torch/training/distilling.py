"""Distillation inside somebody else's loop: `transformers.Trainer`, `accelerate`, Lightning, your own.

    with distilling(student, teacher):
        Trainer(student, …).train()            output.loss is what the teacher makes of it; the loop knows of nothing

The student's forward is listened to: in training mode the teacher runs on the same arguments, and the loss in the output is
replaced. In evaluation mode outputs are as they were, so what is measured is the task.

Invariant: when the block is left, student and teacher have no hook more than before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from secateur.errors import InputError
from secateur.torch.running.padding import Padding
from secateur.torch.training.distillation import Distillation, check_teacher, comparing, taught_by

_OF_THE_LOSS = ("labels", "num_items_in_batch")  # arguments that say nothing to the teacher


@contextmanager
def distilling(model: nn.Module, teacher: nn.Module | Distillation) -> Iterator[nn.Module]:
    """While this is open, the loss in the model's output, while it trains, is that of learning from the teacher.

    The output has a ``.loss`` (or, with ``Distillation(weight=1)``, may have none) and ``.logits``, as those of transformers.
    Yields the model. Projections of features (`Distillation.projections`) are trained by an optimizer that is given their
    parameters. Raises InputError where features cannot be compared, or the output has no place for a loss.
    """
    wish = teacher if isinstance(teacher, Distillation) else Distillation(teacher=teacher)
    with comparing(model, wish) as compare:

        def hook(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> object:
            if not module.training:
                return output
            _check_has_loss(output)
            check_teacher(module, wish.teacher)
            given = {name: value for name, value in kwargs.items() if name not in _OF_THE_LOSS}
            taught = taught_by(wish.teacher, (*args, given), lambda: wish.teacher(*args, **given))
            share = _share_of_step(kwargs)
            loss = compare(output, taught, Padding.of(module, (*args, given)), lambda: _own_loss(output, share))
            output["loss"] = loss * share  # type: ignore[index]
            return output

        handle = model.register_forward_hook(hook, with_kwargs=True)
        try:
            yield model
        finally:
            handle.remove()


def _check_has_loss(output: object) -> None:
    if not isinstance(output, Mapping) or not hasattr(output, "__setitem__"):
        raise InputError(
            f"distilling needs an output with a loss, as models of transformers give it, not {type(output).__name__}: "
            "use secateur.training.finetune(model, loader, teacher=…), or take logit_loss into your own loss"
        )


def _own_loss(output: object, share: float | torch.Tensor) -> torch.Tensor:
    """The task's loss as a mean over this batch. Raises InputError where there is none."""
    loss = getattr(output, "loss", None)
    if loss is None:
        raise InputError("no loss to teach beside: the batch has no labels; Distillation(weight=1) needs none")
    return loss / share


def _share_of_step(kwargs: Mapping[str, object]) -> float | torch.Tensor:
    """How much of one optimizer step this batch is, where the loop gathers gradients over several and says so."""
    labels, items = kwargs.get("labels"), kwargs.get("num_items_in_batch")
    if not isinstance(labels, torch.Tensor) or items is None:
        return 1.0
    counted = labels[..., 1:] if labels.dim() > 1 else labels
    return (counted != -100).sum() / torch.as_tensor(items, device=labels.device)
