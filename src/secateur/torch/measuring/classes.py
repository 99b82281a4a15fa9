"""Which of its classes a classifier answers on some samples.

    384 crops of five photographs, 1,000 classes      42 answered, where as many independent samples would have answered 319

Where most are answered the samples stand for all others. State, because it is counted while something else runs the model.

Invariant: outputs that give a sample no one class, or batches that disagree on how many there are, count as all answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from secateur.torch.measuring.answers import told
from secateur.torch.running.distributed import Group, reduce_sum, world_size


@dataclass(slots=True)
class ClassCounts:
    """How many samples were answered with each class."""

    counts_K: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    is_classifier: bool = True

    def add(self, output: object) -> None:
        """Count what a batch was answered."""
        z_BK = _classes(output)
        same = len(self.counts_K) in (0, z_BK.shape[1])  # of answers of several lengths the places are no classes
        self.is_classifier &= same and z_BK.numel() > 0
        if self.is_classifier:
            counts_K = z_BK.argmax(1).bincount(minlength=z_BK.shape[1]).double()
            self.counts_K = counts_K + self.counts_K if len(self.counts_K) else counts_K

    def share(self, group: Group) -> float:
        """Of all classes; 1 for everything else than a classifier, and with no sample."""
        counts_K = self._of_all(group)
        return 1.0 if counts_K is None else float((counts_K > 0).double().mean())

    def share_of_expected(self, group: Group) -> float:
        """Of as many classes as so many samples would be answered with if each were drawn anew from all classes."""
        counts_K = self._of_all(group)
        if counts_K is None:
            return 1.0
        expected = 1 - (1 - 1 / len(counts_K)) ** float(counts_K.sum())
        return min(float((counts_K > 0).double().mean()) / expected, 1.0)

    def _of_all(self, group: Group) -> torch.Tensor | None:
        """The counts of all processes together; in all of them, or in none."""
        counts_K = self.counts_K.clone()
        classes, processes = float(len(counts_K)), world_size(group)
        sizes = torch.tensor([classes, classes**2, float(self.is_classifier)], dtype=torch.float64)
        reduce_sum([sizes], group)
        if not classes or processes * float(sizes[1]) != float(sizes[0]) ** 2 or sizes[2] < processes:
            return None
        reduce_sum([counts_K], group)
        return counts_K


def _classes(output: object) -> torch.Tensor:
    """What each sample is answered, ``[B, K]``; of no classes where there is no such thing as one class a sample."""
    z = told(output)
    if z is None or z.dim() != 2 or not z.is_floating_point() or hasattr(output, "last_hidden_state"):
        return torch.zeros(0, 0)
    return z.detach().float().cpu()
