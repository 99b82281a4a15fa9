"""What the original network gave, and where: kept once, compared with every narrowed version.

    visit  "conv1.weight#1"   the first use of that weight in a pass       Original.contractions
           "bn1.running_mean#1"                                            Original.norms
    seen   of a visit, by the number of the pass: rows of the output at some positions, and whose they are

Invariant: nothing here changes once the original has been run over all batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from secateur.torch.compensation.norms import ChannelSums, Statistics


@dataclass(slots=True)
class Sampled:
    """One contraction in one pass: rows of its output ``[R, outputs]`` and of the sum it flows into, if it does.

    ``at`` are the flat positions of the rows, ``owner`` the numbers of their samples, ``spatial`` the spatial sizes of the
    output, ``outline`` the shape of what came in, but for its features.
    """

    at: torch.Tensor
    owner: torch.Tensor
    rows: torch.Tensor
    spatial: tuple[int, ...]
    outline: tuple[int, ...]
    sums: torch.Tensor | None = None


@dataclass(slots=True)
class Contraction:
    """One visit of a weight: ``outputs`` is the axis of the weight that makes outputs, ``norm`` the batch norm right after."""

    weight: str
    outputs: int
    bias: str | None
    left: str | None  # why it is not fitted
    norm: Statistics | None = None
    seen: dict[int, Sampled] = field(default_factory=dict)

    @property
    def is_summed(self) -> bool:
        """Whether its output flows into a sum and nowhere else."""
        return any(seen.sums is not None for seen in self.seen.values())


@dataclass(slots=True)
class Norm:
    """One visit of a batch norm: the statistics it was trained with, and sums of what came in, by pass."""

    mean: str
    trained: Statistics
    sums: dict[int, ChannelSums] = field(default_factory=dict)


@dataclass(slots=True)
class Original:
    """All that is kept of the original network; ``order`` is that in which points of decision come up."""

    contractions: dict[str, Contraction] = field(default_factory=dict)
    norms: dict[str, Norm] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    looked_up: frozenset[str] = frozenset()  # weights that are (also) embeddings

    def gather(self, number: int) -> None:
        """Let all that is kept of a pass lie in one piece of memory.

        Where they were made, rows lie between what activations leave: in gaps that no activation of the next pass fits into,
        so that every pass would take as much memory as all its activations.
        """
        seen = [c.seen[number] for c in self.contractions.values() if number in c.seen]
        norms = [norm for norm in self.norms.values() if number in norm.sums]
        rows = [t for one in seen for t in (one.at, one.owner, one.rows, one.sums) if t is not None]
        sums = [t for norm in norms for t in norm.sums[number].tensors]
        moved = iter(_in_one_piece([*rows, *sums]))
        for one in seen:
            one.at, one.owner, one.rows = next(moved), next(moved), next(moved)
            one.sums = None if one.sums is None else next(moved)
        for norm in norms:
            norm.sums[number] = ChannelSums(*(next(moved) for _ in norm.sums[number].tensors))


def _in_one_piece(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The same numbers, those of one kind side by side."""
    found = list(tensors)
    for kind in {(t.dtype, t.device) for t in tensors}:
        places = [place for place, t in enumerate(tensors) if (t.dtype, t.device) == kind]
        parts = torch.cat([tensors[place].flatten() for place in places]).split([tensors[p].numel() for p in places])
        for place, part in zip(places, parts, strict=True):
            found[place] = part.view(tensors[place].shape)
    return found
