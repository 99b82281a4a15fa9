"""How good a network's answers are, sample by sample, so that a mean comes with its uncertainty.

    @METRICS.add("accuracy")
    class Accuracy: per_sample(output, batch) -> [B] zeros and ones;  of_mean(mean) -> the figure people read

Batches are ``(inputs, labels)``, or a mapping with ``labels``, as Hugging Face's loaders give them.

Invariant: a metric is a function of the mean over samples, so that batches may have any size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch

from secateur.core.measurement import MetricValue
from secateur.core.registry import Registry
from secateur.errors import InputError
from secateur.torch.running.data import NotFinite

IGNORED = -100  # a label that torch's losses do not count
_Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations


class Metric(Protocol):
    """A quality that is a function of a mean over samples."""

    @property
    def higher_is_better(self) -> bool: ...

    def per_sample(self, output: object, batch: object) -> torch.Tensor:
        """One number for each sample (or token) of a batch, as a vector."""
        ...

    def of_mean(self, mean: float) -> float:
        """The figure that is reported; a monotone function of the mean."""
        ...


METRICS: Registry[Metric] = Registry("metric")


class _Accuracy:
    higher_is_better = True

    def __init__(self, k: int) -> None:
        self.k = k

    def per_sample(self, output: object, batch: object) -> torch.Tensor:
        """1 where the label is among the k likeliest classes; labels of -100 do not count."""
        logits, labels = classes_of(output, batch)
        best = logits.topk(min(self.k, logits.shape[-1]), dim=-1).indices
        return (best == labels.unsqueeze(-1)).any(-1)[labels != IGNORED].double()

    def of_mean(self, mean: float) -> float:
        """The share itself."""
        return mean


class _CrossEntropy:
    higher_is_better = False

    def per_sample(self, output: object, batch: object) -> torch.Tensor:
        """Negative log likelihood of each label; labels of -100 do not count."""
        logits, labels = classes_of(output, batch)
        flat = labels.flatten()
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, -2).float(), flat, reduction="none")
        return losses[flat != IGNORED].double()

    def of_mean(self, mean: float) -> float:
        """The loss itself."""
        return mean


class _Perplexity(_CrossEntropy):
    def per_sample(self, output: object, batch: object) -> torch.Tensor:
        """Negative log likelihood of each next token."""
        logits, labels = classes_of(output, batch)
        if logits.dim() < 3:
            raise InputError("perplexity wants logits of [batch, tokens, vocabulary] and labels of [batch, tokens]")
        nexts = labels[:, 1:].flatten()
        losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, -2).float(), nexts, reduction="none")
        return losses[nexts != IGNORED].double()

    def of_mean(self, mean: float) -> float:
        """e to the mean loss."""
        return math.exp(min(mean, 700.0))


METRICS.add("accuracy")(_Accuracy(1))
METRICS.add("top5_accuracy")(_Accuracy(5))
METRICS.add("cross_entropy")(_CrossEntropy())
METRICS.add("perplexity")(_Perplexity())


def classes_of(output: object, batch: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``[…, K]`` and labels ``[…]`` of a batch, below K or IGNORED. Raises InputError where either cannot be had."""
    logits = getattr(output, "logits", output)
    labels: object = None
    if isinstance(batch, Mapping) or hasattr(batch, "keys"):
        labels = batch.get("labels")  # type: ignore[union-attr]
    elif isinstance(batch, (tuple, list)) and len(batch) > 1:
        labels = batch[1]
    if not isinstance(logits, torch.Tensor) or not isinstance(labels, torch.Tensor) or labels.is_floating_point():
        raise InputError(
            "this metric wants batches of (inputs, integer labels) or a mapping with 'labels', and an output that is a "
            f"tensor of logits or has .logits; here the output is a {type(output).__name__}, the batch a {type(batch).__name__}"
        )
    if logits.dim() == labels.dim() + 1 and logits.dim() > 2 and logits.shape[2:] == labels.shape[1:]:
        logits = logits.movedim(1, -1)  # maps: [B, K, h, w] beside [B, h, w]
    if logits.shape[:-1] != labels.shape:
        raise InputError(f"logits of shape {tuple(logits.shape)} do not fit labels of shape {tuple(labels.shape)}")
    counted, num_classes = labels[labels != IGNORED], logits.shape[-1]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < num_classes:
        raise InputError(
            f"the labels run from {int(counted.min())} to {int(counted.max())}, and the model's output has {num_classes} "
            f"classes, 0 to {num_classes - 1}: number the labels so; {IGNORED} stands for a label that does not count"
        )
    return logits, labels.to(logits.device).long()


def quality(metric: Metric, values: torch.Tensor) -> MetricValue:
    """The metric over all samples, with a 95 % confidence interval: Wilson's for shares, else by the central limit.

    Raises InputError where no sample counts, or one is no finite number.
    """
    if not len(values):
        raise InputError(f"no sample of the data counts: every label is {IGNORED}, which stands for none")
    n, mean = len(values), float(values.mean())
    if not math.isfinite(mean):
        raise NotFinite(
            f"a metric is {mean}: what the model gives for {int((~values.isfinite()).sum())} of {n} samples is so"
        )
    if bool(((values == 0) | (values == 1)).all()):
        centre, half = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n), 0.0
        half = _Z * math.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    else:
        half = _Z * float(values.std()) / math.sqrt(n) if n > 1 else 0.0
        low, high = mean - half, mean + half
    ends = sorted((metric.of_mean(low), metric.of_mean(high)))
    return MetricValue(
        value=metric.of_mean(mean), low=ends[0], high=ends[1], num_samples=n, higher_is_better=metric.higher_is_better
    )
