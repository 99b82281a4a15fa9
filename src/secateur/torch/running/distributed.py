"""More than one process: statistics are summed over ranks, and ranks agree on what they decide.

    rank 0: its batches ── sums ──┐
                                  ├── all-reduce ── the same statistics ── the same plan ── agree(digest)
    rank 1: its batches ── sums ──┘

Invariant: without an initialised process group nothing here does anything; no group is ever started, no port opened.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from secateur.core.plan import Plan, digest_of
from secateur.errors import SecateurError

Group = dist.ProcessGroup | None  # None: all processes


def active(group: Group = None) -> bool:
    """Whether this process is one of several that talk to each other."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def rank(group: Group = None) -> int:
    """The number of this process; 0 where there is only one."""
    return dist.get_rank(group) if active(group) else 0


def world_size(group: Group = None) -> int:
    """How many processes there are."""
    return dist.get_world_size(group) if active(group) else 1


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside a DistributedDataParallel wrapper; any other module as it is."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def reduce_sum(tensors: Sequence[torch.Tensor], group: Group = None) -> None:
    """Replace each tensor, in place, by its sum over all ranks of a group, that of all processes if none is given.

    Every rank gives the same shapes in the same order.
    """
    if not active(group):
        return
    with torch.no_grad():
        for tensor in tensors:
            carried = tensor.detach().to(_carrier(group)).contiguous()
            dist.all_reduce(carried, group=group)
            tensor.copy_(carried)


def agree(what: str, held: str | Plan, group: Group = None) -> None:
    """Raise SecateurError, on every rank, unless all ranks hold the same text or plan; it names the ranks that differ."""
    if not active(group):
        return
    digest = held if isinstance(held, str) else digest_of(held)
    digests = _gathered(hashlib.sha256(digest.encode()).digest(), group)
    if len(set(digests)) == 1:
        return
    usual, _ = Counter(digests).most_common(1)[0]
    others = ", ".join(f"rank {number} ({found[:12]})" for number, found in enumerate(digests) if found != usual)
    raise SecateurError(
        f"the ranks do not agree on {what}: {others} differs from rank {digests.index(usual)} ({usual[:12]}). "
        "Give every rank the same weights, seed and options, and sum statistics over ranks. Nothing was changed."
    )


@dataclass(frozen=True, slots=True)
class ProcessRanks:
    """The ranks of a process group, as a search asks for them."""

    group: Group = None

    @property
    def number(self) -> int:
        """Which of them this is, from 0."""
        return rank(self.group)

    @property
    def size(self) -> int:
        """How many there are."""
        return world_size(self.group)

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number, added up over all ranks."""
        total = torch.tensor(numbers, dtype=torch.float64)
        reduce_sum([total], self.group)
        return total.tolist()

    def agree(self, what: str, held: str | Plan) -> None:
        """Raise SecateurError unless all ranks hold the same."""
        agree(what, held, self.group)


def _gathered(fingerprint: bytes, group: Group) -> list[str]:
    """Every rank's 32 bytes, in hex, in the order of ranks."""
    mine = torch.tensor(list(fingerprint), dtype=torch.uint8, device=_carrier(group))
    all_of_them = [torch.empty_like(mine) for _ in range(world_size(group))]
    dist.all_gather(all_of_them, mine, group=group)
    return [bytes(found.tolist()).hex() for found in all_of_them]


def _carrier(group: Group) -> torch.device:
    """Where a tensor must be for the group's backend: NCCL takes GPUs only, all others take the CPU."""
    on_gpu = "nccl" in dist.get_backend(group)
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
