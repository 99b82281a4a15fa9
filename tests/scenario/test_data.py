"""Data from files: read as they are, split the same way each time, refused with what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from secateur.errors import InputError
from secateur.scenario import read_file, run
from secateur.scenario.data import DATA, Splits, batches
from tests.scenario.small import written


def load(source: str, base: Path, **options: object) -> Splits:
    return DATA[source].read(options).load(base)


def _sizes(splits: Splits) -> list[int]:
    return [len(part) for part in (splits.train, splits.valid, splits.test)]  # type: ignore[arg-type]


def test_tables_that_ship_with_a_package_train(tmp_path: Path) -> None:
    data = {
        "model": {"source": "zoo:table", "options": {"inputs": 13, "classes": 3}},
        "data": "wine",
        "stages": [
            {"do": "train", "epochs": 8, "lr": 0.01},
            {"do": "prune", "mode": "progressive", "constraints": {"params": "40%"}, "options": {"steps": 2}},
            {"do": "measure", "num_runs": 2},
        ],
    }
    (found,) = run(read_file(written(tmp_path, data)), tmp_path, tmp_path / "out")
    assert found.quality["accuracy"].value > 0.85
    assert found.classes == ("class_0", "class_1", "class_2")


def test_a_folder_of_images_is_read_when_it_is_needed(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            image.new("RGB", (9, 7), colour).save(tmp_path / "pictures" / name / f"{number}.png")
    splits = load("images", tmp_path, path="pictures", size=8)
    assert (splits.classes, _sizes(splits)) == (("blue", "red"), [12, 2, 6])
    images, labels = next(iter(batches(splits.train, 12)))  # type: ignore[misc]
    assert images.shape == (12, 3, 8, 8)
    assert torch.equal(images[:, 2, 0, 0] > 0, labels == 0)
    with pytest.raises(InputError, match="no folder of images"):
        load("images", tmp_path, path="photos")


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "pictures" / "red").mkdir(parents=True)
    for number in range(10):
        image.effect_noise((40, 40), 50).save(tmp_path / "pictures" / "red" / f"{number}.png")
    cut = tmp_path / "pictures" / "red" / "3.png"
    cut.write_bytes(cut.read_bytes()[:-300])
    splits = load("images", tmp_path, path="pictures", size=8)
    with pytest.raises(InputError, match=r"3\.png cannot be read as a picture: .*take it out"):
        [list(batches(part, 2)) for part in (splits.train, splits.valid, splits.test)]
    cut.write_text("no picture", encoding="utf-8")
    with pytest.raises(InputError, match=r"3\.png cannot be read as a picture"):  # before anything is trained
        load("images", tmp_path, path="pictures", size=8)


def _texts(count: int = 40) -> list[tuple[str, str]]:
    return [
        (("buy now " if n % 2 else "see you at lunch ") * 3 + str(n), "spam" if n % 2 else "ham") for n in range(count)
    ]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_texts_are_read_from_csv_and_json_lines(form: str, tmp_path: Path) -> None:
    if form == "csv":
        text = "words,kind\n" + "".join(f'"{t}",{k}\n' for t, k in _texts())
    else:
        text = "".join(json.dumps({"words": t, "kind": k}) + "\n" for t, k in _texts())
    (tmp_path / f"texts.{form}").write_text(text, encoding="utf-8")
    splits = load("text_file", tmp_path, path=f"texts.{form}", text="words", label="kind", length=32)
    assert (splits.classes, _sizes(splits)) == (("ham", "spam"), [24, 4, 12])
    with pytest.raises(InputError, match="no column 'text'"):
        load("text_file", tmp_path, path=f"texts.{form}")


def test_a_transformer_learns_from_texts_and_is_pruned(tmp_path: Path) -> None:
    folder = tmp_path / "mails" / "data" / "all"
    folder.mkdir(parents=True)
    for number, (text, kind) in enumerate(_texts(60)):
        mail = {"text": f"Subject: x\n\n{text}", "group": f"{kind}-1"}
        (folder / f"{number:03d}.json").write_text(json.dumps(mail), encoding="utf-8")
    data = {
        "model": {"source": "zoo:text", "options": {"width": 16, "layers": 1, "heads": 2, "length": 48}},
        "data": {"source": "mails", "batch_size": 12, "options": {"path": "mails", "length": 48}},
        "stages": [
            {"do": "train", "epochs": 3, "lr": 0.01},
            {"do": "prune", "mode": "gradnas", "constraints": {"params": "80%"}},
            {"do": "measure", "num_runs": 2},
        ],
    }
    (found,) = run(read_file(written(tmp_path, data)), tmp_path, tmp_path / "out")
    assert found.quality["accuracy"].num_samples == 18
    assert found.plan_id is not None
    assert found.origin is not None
    assert found.origin.prunings[0].after["params"] <= 0.8 * found.origin.prunings[0].before["params"]


def test_a_long_text_is_cut_into_blocks_that_are_their_own_labels(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("the quick brown fox " * 40, encoding="utf-8")
    splits = load("text", tmp_path, path="book.txt", length=16)
    batch = next(iter(batches(splits.train, 4)))
    assert isinstance(batch, dict)
    assert torch.equal(batch["input_ids"], batch["labels"])
    assert int(batch["input_ids"].min()) > 0


def test_the_split_is_the_same_each_time_and_its_digest_tells_others(tmp_path: Path) -> None:
    one, two, other = load("wine", tmp_path), load("wine", tmp_path), load("breast_cancer", tmp_path)
    assert one.digest == two.digest != other.digest
    first, second = (next(iter(batches(s.test, 60)))[0] for s in (one, two))  # type: ignore[index]
    assert torch.equal(first, second)


def test_a_missing_package_is_named_with_the_command_that_adds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "saved").mkdir()
    with pytest.raises(InputError, match="pip install datasets"):
        load("datasets", tmp_path, path="saved")
