"""What is differentiated: the loss, how strong the network's answer is, or how far it stays what it was.

    target="loss"       ∂ of the data's loss: what GradNAS and the Taylor criteria do
    target="output"     ∂ of ‖z − mean z‖, the norm of the centred output of each sample: needs no labels
    target="agreement"  ∂ of the loss on labels drawn from the network's own answer: squared and averaged, the curvature of
                        the divergence between the answer and what it becomes (Fisher information); needs no labels

On data that a network fits, the loss has almost no gradient left but for the few samples it gets wrong, and these then decide
which units stay; output and agreement have as much as ever.

Invariant: a target is a mean over samples; padded positions are no part of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from secateur.torch.measuring.answers import Answer, answer_of, told
from secateur.torch.measuring.judging import judging
from secateur.torch.running.data import Data
from secateur.torch.running.example import Example
from secateur.torch.running.padding import Padding

Target = Literal["loss", "output", "agreement"]
TARGETS = ("loss", "output", "agreement")


def aimed(data: Data, target: Target, model: nn.Module) -> Data:
    """The data, with what is differentiated as its loss."""
    if target == "loss":
        return data
    return replace(data, loss=output_norm if target == "output" else _Agreement(data, model))


def with_a_loss(data: Data, model: nn.Module, *, agreement: bool = True) -> Data:
    """The data with a loss: its own, of the next token where the model is causal, else (if that will do) ``agreement``.

    Labels that cannot be used are left to whoever asks for the loss: that is a fault, not a want.
    """
    with judging(model) as network, torch.no_grad():
        batch = next(iter(data.batches(network)))
        if not data.wants_a_loss(data.output(network, batch), batch):
            return data
        ids = _read_in_order(data, network, batch)
    if ids is not None:
        return replace(data, loss=_NextToken(data, model, ids))
    return replace(data, loss=_Agreement(data, model)) if agreement else data


def output_norm(output: object, batch: object = None) -> torch.Tensor:
    """Mean over samples of ‖z − mean z‖, z being ``output.logits`` or the first tensor of the output.

    Classes are the last dimension, or dimension 1 of maps ``[B, K, h, w]``. Raises InputError where there is no such tensor.
    """
    z = answer_of(output, 'target="output"')
    centred = z - z.mean(-1, keepdim=True) if z.shape[-1] > 1 else z
    return centred.reshape(len(z), -1).norm(dim=1).mean()


class _NextToken:
    """Mean over samples of the mean loss of the next token. State: which of the model's inputs is the text."""

    def __init__(self, data: Data, model: nn.Module, ids: int) -> None:
        self.data, self.model, self.ids = data, model, ids

    def __call__(self, output: object, batch: object) -> torch.Tensor:
        given = self.data.collect(batch)
        ids = Example.of(self.model, given).tensors()[self.ids]
        logits = answer_of(output, 'target="loss"')[:, :-1]
        losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        live = Padding.of(self.model, given).live(ids.shape)
        told = Padding(() if live is None else (live[:, 1:] & live[:, :-1],))
        return told.mean(losses.view(len(ids), -1)).mean()


class _Agreement:
    """Mean over samples of the loss on what the network itself answers. State: a generator, the same for the same data."""

    def __init__(self, data: Data, model: nn.Module) -> None:
        self.data, self.model = data, model
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, output: object, batch: object) -> torch.Tensor:
        answer = Answer.of(output, 'target="agreement"')
        by_sample = answer.of_a_draw(self.generator).view(answer.samples, -1)
        padding = Padding.of(self.model, self.data.collect(batch))
        return padding.mean(by_sample).mean()


def _read_in_order(data: Data, network: nn.Module, batch: object) -> int | None:
    """Which tensor the model is given is text that it reads from left to right, answering each token with the next one.

    Asked of the model: where the last token is another, only the last answer may be.
    """
    example = Example.of(network, data.collect(batch))
    first = _logits(network(*example.args, **example.kwargs))
    for number, ids in enumerate(example.tensors() if first is not None else ()):
        assert first is not None
        if not _may_be_text(ids, first):
            continue
        other = example.map(lambda tensor, ids=ids: _another_end(ids, first.shape[2]) if tensor is ids else tensor)
        second = _logits(network(*other.args, **other.kwargs))
        if second is not None and _only_the_last(first, second):
            return number
    return None


def _may_be_text(ids: torch.Tensor, logits: torch.Tensor) -> bool:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.shape != logits.shape[:2]:
        return False
    return ids.shape[1] > 2 and int(ids.min()) >= 0 and 1 < int(ids.max()) < logits.shape[2]  # ones are a mask


def _another_end(ids: torch.Tensor, vocabulary: int) -> torch.Tensor:
    return torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % vocabulary], 1)


def _logits(output: object) -> torch.Tensor | None:
    """``[B, T, V]``, or None."""
    z = told(output)
    return z.float() if z is not None and z.dim() == 3 and z.is_floating_point() else None


def _only_the_last(first: torch.Tensor, second: torch.Tensor) -> bool:
    change = (first - second).abs().amax((0, 2))
    return bool(change[-1] > 0 and change[:-1].max() <= 1e-3 * change[-1])
