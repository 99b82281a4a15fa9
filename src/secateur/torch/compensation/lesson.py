"""What a narrowed network's answers are held against: the original's, on batches of which some samples are only judged on.

    lesson.answer_of(lesson.run(model, batch), batch)        apart(narrowed, original, lesson)        has_no_answer(model, …)

Invariant: both networks are given the same numbers, in floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from secateur.torch.measuring.answers import Answer
from secateur.torch.measuring.judging import judging
from secateur.torch.running.data import Data
from secateur.torch.running.distributed import Group, reduce_sum
from secateur.torch.running.example import Example
from secateur.torch.running.outputs import output_tensors
from secateur.torch.running.padding import Padding
from secateur.torch.running.walking import parameters_of

Weighed = tuple[torch.Tensor, torch.Tensor]  # numbers, one a row, and what each row counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The batches, and which samples of each are only judged on (True); ``beyond`` gives those that come after them."""

    data: Data
    batches: Sequence[object]
    held_out: Sequence[torch.Tensor]
    beyond: Callable[[], Iterable[object]] = tuple

    @property
    def group(self) -> Group:
        return self.data.group

    def can_be_judged(self, model: nn.Module) -> bool:
        """Whether the answer is one by samples, and some samples of all processes are left out, but not all."""
        with torch.no_grad():
            output = self.data.output(model, self.batches[0])
        told = self.answer_of(output, self.batches[0]).samples == len(self.held_out[0])
        counts = torch.tensor(
            [sum(float(h.sum()) for h in self.held_out), sum(map(len, self.held_out)), float(not told)]
        )
        reduce_sum([counts], self.group)
        return bool(0 < counts[0] < counts[1] and counts[2] == 0)

    def leads_back(self, model: nn.Module) -> bool:
        """Whether answers have gradients; none where code detaches them, or holds a model made of floats to fewer digits."""
        floating = [p for p in parameters_of(model) if p.is_floating_point()]
        for parameter in floating:
            parameter.requires_grad_()
        try:
            answer = self.answer_of(self.run(model, self.batches[0]), self.batches[0])
        except RuntimeError:
            return False
        finally:
            for parameter in floating:
                parameter.requires_grad_(False)
        return answer.z_RK.requires_grad

    def run(self, model: nn.Module, batch: object) -> object:
        """What a model returns, given floats where it is made of them."""
        own = next((p.dtype for p in parameters_of(model) if p.is_floating_point()), torch.float32)
        example = Example.of(model, self.data.collect(batch))
        if own == torch.float32:
            example = example.map(lambda t: t.float() if t.is_floating_point() and t.element_size() < 4 else t)
        return model(*example.args, **example.kwargs)

    def answer_of(self, output: object, batch: object) -> Answer:
        """What a model returned for this batch: numbers, unless classes are known to be meant."""
        answer = Answer.of(output, 'compensate="answers"')
        return answer if self.data.is_of_classes(output, batch) else replace(answer, is_numbers=True)


def has_no_answer(model: nn.Module, data: Data, batch: object) -> str | None:
    """Why all weights cannot be fitted together to what a model gives; None where it is one tensor, or has logits."""
    with judging(model) as network, torch.no_grad():
        output = data.output(network, batch)
    floating = [tensor for tensor in output_tensors(output) if tensor.is_floating_point()]
    if hasattr(output, "logits") or (len(floating) == 1 and floating[0].dim() > 0):
        return None
    given = (
        f"{len(floating)} tensors of numbers, of which none is called logits" if floating else "no tensor of numbers"
    )
    return f'compensate="answers" fits all weights to one answer, and the model gives {given}: layers alone were fitted'


def apart(narrowed: nn.Module, original: nn.Module, lesson: Lesson) -> float:
    """How far a network's answers are from the original's, on average over all samples of the lesson."""

    def measured(batch: object) -> Weighed:
        given, wanted = (lesson.answer_of(lesson.run(model, batch), batch) for model in (student, teacher))
        return given.distance(wanted), given.weights(Padding.of(student, lesson.data.collect(batch)))

    with judging(original) as teacher, judging(narrowed) as student, torch.no_grad():
        return mean_of(map(measured, lesson.batches), lesson.group)


def mean_of(parts: Iterable[Weighed], group: Group) -> float:
    """The mean over the rows of all parts, in all processes."""
    total = torch.zeros(2, dtype=torch.float64)
    for values_R, counts_R in parts:
        total += torch.stack([(values_R * counts_R).sum(), counts_R.sum()]).double().cpu()
    reduce_sum([total], group)
    return float(total[0] / total[1])
