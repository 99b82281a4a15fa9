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
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from secateur.errors import SecateurError

if TYPE_CHECKING:
    from secateur.core.plan import Plan


def active() -> bool:
    """Whether this process is one of several that talk to each other."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The number of this process; 0 where there is only one."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if active() else 1


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside a DistributedDataParallel wrapper; any other module as it is."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def reduce_sum(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor, in place, by its sum over all ranks. Every rank gives the same shapes in the same order."""
    if not active():
        return
    with torch.no_grad():
        for tensor in tensors:
            carried = tensor.detach().to(_carrier()).contiguous()
            dist.all_reduce(carried)
            tensor.copy_(carried)


def agree(what: str, held: str | Plan) -> None:
    """Raise SecateurError, on every rank, unless all ranks hold the same text or plan; it names the ranks that differ."""
    if not active():
        return
    digest = held if isinstance(held, str) else digest_of(held)
    digests = _gathered(hashlib.sha256(digest.encode()).digest())
    if len(set(digests)) == 1:
        return
    usual, _ = Counter(digests).most_common(1)[0]
    others = ", ".join(f"rank {number} ({found[:12]})" for number, found in enumerate(digests) if found != usual)
    raise SecateurError(
        f"the ranks do not agree on {what}: {others} differs from rank {digests.index(usual)} ({usual[:12]}). "
        "Give every rank the same weights, seed and options, and sum statistics over ranks. Nothing was changed."
    )


def digest_of(plan: Plan) -> str:
    """The sha256 of all that a plan does to a model; its provenance (paths, times) is left out."""
    return hashlib.sha256(replace(plan, provenance={}).to_json().encode()).hexdigest()


def _gathered(fingerprint: bytes) -> list[str]:
    """Every rank's 32 bytes, in hex, in the order of ranks."""
    mine = torch.tensor(list(fingerprint), dtype=torch.uint8, device=_carrier())
    all_of_them = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(all_of_them, mine)
    return [bytes(found.tolist()).hex() for found in all_of_them]


def _carrier() -> torch.device:
    """Where a tensor must be for the group's backend: NCCL takes GPUs only, all others take the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if "nccl" in dist.get_backend() else torch.device("cpu")
