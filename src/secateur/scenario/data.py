"""Data by name, split three ways: trained on, scored on while searching, measured on.

    @DATA.add("digits")
    class DigitsData(Source):            options, checked;  load(base) -> Splits(train, valid, test, classes, digest)
        size: int = 8

Samples are ``(inputs, label)``, or a dict with ``labels`` for networks that take keyword arguments.

Invariant: the split depends on the options and the files alone, never on a network's seed; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torch.utils.data import default_collate as collate

from secateur.core.options import Options
from secateur.core.registry import Registry
from secateur.core.text import visible
from secateur.errors import InputError
from secateur.scenario.digits import load_digits

Samples = Dataset[object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Samples to train on, to score on while searching, and to measure on; ``digest`` tells them from others."""

    train: Samples
    valid: Samples
    test: Samples
    classes: tuple[str, ...] = ()
    digest: str

    def example(self) -> object:
        """What a network takes of one sample."""
        return inputs_of(collate([self.train[0]]))


class Source(Options):
    """Options of a source of data; ``load`` reads it, with relative paths counted from ``base``."""

    called = "data"

    def load(self, base: Path) -> Splits:
        """Read and split. Raises InputError for what is not there."""
        raise NotImplementedError


DATA: Registry[type[Source]] = Registry("source of data")


def inputs_of(batch: object) -> object:
    """What of a batch a network takes: the first of a pair, or all of a mapping but its labels."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key != "labels"}
    return batch[0] if isinstance(batch, list | tuple) else batch


def batches(samples: Samples, size: int, seed: int | None = None) -> DataLoader[object]:
    """Batches in order, or with a seed in another order each epoch."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(samples, batch_size=size, shuffle=seed is not None, generator=generator)


class Columns(Dataset[object]):
    """Rows of several tensors, as mappings."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: tensor[row] for name, tensor in self.columns.items()}


def split(samples: Samples, number: int, *, classes: Sequence[str] = (), digest: str) -> Splits:
    """Six tenths to train on, a tenth to score on, three tenths to measure on, in an order that is always the same."""
    if number < 10:
        raise InputError(f"the data have {number} samples; at least 10 are needed for three parts")
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0)).tolist()
    first, second = round(0.6 * number), round(0.7 * number)
    train, valid, test = (Subset(samples, part) for part in (order[:first], order[first:second], order[second:]))
    return Splits(train=train, valid=valid, test=test, classes=tuple(classes), digest=digest)


def digest_of_tensors(*tensors: Tensor) -> str:
    """The sha256 of their bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def digest_of_files(files: Sequence[Path]) -> str:
    """The sha256 of names, sizes and times of change: of what would be too long to read."""
    rows = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def found(path: str, base: Path, what: str, check: Callable[[Path], bool] = Path.exists) -> Path:
    """The path, counted from ``base``. Raises InputError where it is not there."""
    place = (base / Path(path).expanduser()).resolve()
    if not check(place):
        raise InputError(f"data: there is no {what} at {visible(place)}")
    return place


@DATA.add("digits")
class DigitsData(Source):
    """The 1,797 handwritten digits that ship with scikit-learn.

    ``size`` scales the images up, ``channels`` repeats them, for networks that take larger or coloured ones; ``limit``
    takes the first so many of each part.
    """

    size: int = Field(default=8, ge=8, le=512)
    channels: int = Field(default=1, ge=1, le=3)
    limit: int | None = Field(default=None, ge=1)

    def load(self, base: Path) -> Splits:
        """Train, valid and test as the demo has them."""
        parts = load_digits()
        made = [self._samples(part.images_N1hw, part.labels_N) for part in (parts.train, parts.valid, parts.test)]
        digest = digest_of_tensors(*(tensor for samples in made for tensor in samples.tensors))
        train, valid, test = made
        return Splits(train=train, valid=valid, test=test, classes=tuple("0123456789"), digest=digest)

    def _samples(self, images_N1hw: Tensor, labels_N: Tensor) -> TensorDataset:
        images = images_N1hw[: self.limit]
        if self.size != 8:
            images = torch.nn.functional.interpolate(images, size=(self.size, self.size), mode="bilinear")
        return TensorDataset(images.repeat(1, self.channels, 1, 1), labels_N[: self.limit])


@DATA.add("digits_in_colour")
class DigitsInColour(DigitsData):
    """The same for networks that take photographs: 32 by 32, three channels."""

    size: int = Field(default=32, ge=8, le=512)
    channels: int = Field(default=3, ge=1, le=3)


class _Table(Source):
    """A table that ships with scikit-learn."""

    def load(self, base: Path) -> Splits:
        """Standardised columns."""
        try:
            from sklearn import datasets
        except ModuleNotFoundError:
            raise InputError("these data ship with scikit-learn; add it with: pip install scikit-learn") from None
        table = getattr(datasets, f"load_{type(self).__name__.lower()}")()
        rows = torch.as_tensor(table.data, dtype=torch.float32)
        labels = torch.as_tensor(table.target, dtype=torch.int64)
        rows = (rows - rows.mean(0)) / rows.std(0)
        names = [str(name) for name in table.target_names]
        return split(TensorDataset(rows, labels), len(rows), classes=names, digest=digest_of_tensors(rows, labels))


@DATA.add("wine")
class Wine(_Table):
    """178 wines, 13 measurements, 3 cultivars."""


@DATA.add("breast_cancer")
class Breast_Cancer(_Table):
    """569 tumours, 30 measurements, benign or malignant."""
