"""A journal loses no finished line, repeats none, and is never mistaken for another search's."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest

from secateur.errors import ArtifactError, InputError
from secateur.search.journal import FILE_NAME, Journal

HEADER = {"method": "test", "model": "abc", "constraints": {"macs": 5}, "pair": (1, 2)}


def written(path: Path, count: int = 3) -> bytes:
    with Journal.open(path, HEADER) as journal:
        for i in range(count):
            journal.record(f"k{i}", {"score": i / 3})
    return path.read_bytes()


def test_what_was_recorded_is_there_again(tmp_path: Path) -> None:
    with Journal.open(tmp_path, HEADER) as journal:
        assert journal.get("a") is None
        journal.record("a", {"score": 0.1, "of": np.float64(2), "many": np.arange(3)})
        first = journal.get("a")
    assert (tmp_path / FILE_NAME).exists()
    with Journal.open(tmp_path, HEADER) as again:
        assert again.get("a") == first == {"score": 0.1, "of": 2.0, "many": [0, 1, 2]}
        assert "a" in again
        again.record("b", {})
        assert len(again) == 2
    assert len(Journal.open(tmp_path / FILE_NAME, HEADER)) == 2


def test_without_a_path_it_is_kept_in_memory() -> None:
    journal = Journal.open(None, HEADER)
    journal.record("a", {"score": 1.0})
    assert journal.get("a") == {"score": 1.0}


def test_a_path_without_a_suffix_is_a_folder_and_one_with_a_suffix_is_the_file(tmp_path: Path) -> None:
    Journal.open(tmp_path / "search", HEADER).close()
    Journal.open(tmp_path / "more" / "search.jsonl", HEADER).close()
    assert (tmp_path / "search" / FILE_NAME).is_file()
    assert (tmp_path / "more" / "search.jsonl").is_file()


def test_cut_anywhere_it_keeps_every_whole_line_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    whole = written(path)
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        finished = sum(cut >= end for end in ends[1:])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            journal = Journal.open(path, HEADER)
        with journal:
            assert len(journal) == finished
            for i in range(finished, 3):
                journal.record(f"k{i}", {"score": i / 3})
        assert path.read_bytes() == whole
        torn = cut > 0 and cut not in ends and whole[cut - 1] != ord("\n")
        assert len(said) == torn, cut


@pytest.mark.parametrize("line", [2, 3])
@pytest.mark.parametrize("damage", [b"{", b"", b'{"key": "k0", "values": {"score": 9.0}}', b"\0\0", b"[1]", b"5"])
def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path, line: int, damage: bytes) -> None:
    path = tmp_path / "j.jsonl"
    lines = written(path).split(b"\n")
    lines[line - 1] = damage
    path.write_bytes(b"\n".join(lines))
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match=f"line {line}"):
        Journal.open(path, HEADER)
    assert path.read_bytes() == before


def test_a_changed_digit_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    whole = written(path)
    path.write_bytes(whole.replace(b"0.333", b"0.433"))
    with pytest.raises(ArtifactError, match="line 3"):
        Journal.open(path, HEADER)


def test_a_key_that_occurs_twice_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    whole = written(path)
    path.write_bytes(whole + whole.split(b"\n")[1] + b"\n")
    with pytest.raises(ArtifactError, match=r"line 5.*twice"):
        Journal.open(path, HEADER)


def test_the_journal_of_another_search_is_refused_naming_what_differs_and_both_values(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    whole = written(path)
    with pytest.raises(ArtifactError) as refusal:
        Journal.open(path, {**HEADER, "model": "xyz", "data": "d"})
    for word in ("model", '"abc"', '"xyz"', "data", "nothing"):
        assert word in str(refusal.value)
    assert "method" not in str(refusal.value)
    with pytest.raises(ArtifactError, match="pair"):
        Journal.open(path, {k: v for k, v in HEADER.items() if k != "pair"})
    assert path.read_bytes() == whole


def test_what_may_differ_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    written(path)
    with Journal.open(path, {**HEADER, "constraints": {"macs": 6}}, may_differ={"constraints"}) as journal:
        assert len(journal) == 3


@pytest.mark.parametrize("content", [b"weights", b"weights\nmore", b"{}\n", b"\0" * 50, b'{"a": 1}\n{"b"', b"\n"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"no journal"):
        Journal.open(path, HEADER)
    assert path.read_bytes() == content


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journal.open(path, HEADER).close()
    from secateur.search import journal

    entry = {"format": "secateur journal", "version": 2, "header": {}}
    path.write_text(json.dumps({**entry, "crc32": journal._checksum(entry)}) + "\n")
    with pytest.raises(ArtifactError, match="version 2"):
        Journal.open(path, HEADER)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), {1, 2}, object()])
def test_values_without_a_json_form_are_refused_and_nothing_is_written(tmp_path: Path, value: object) -> None:
    path = tmp_path / "j.jsonl"
    with Journal.open(path, HEADER) as journal:
        before = path.read_bytes()
        with pytest.raises(InputError, match="'a'"):
            journal.record("a", {"score": value})
        assert path.read_bytes() == before
        assert journal.get("a") is None


def test_a_key_is_recorded_once() -> None:
    journal = Journal.open(None, HEADER)
    journal.record("a", {})
    with pytest.raises(InputError, match="already"):
        journal.record("a", {})


def test_one_search_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal.open(path, HEADER):
        with pytest.raises(ArtifactError, match="another search"):
            Journal.open(path, HEADER)
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            assert "another search" in pool.apply(_try_to_open, (str(path),))
    with Journal.open(path, HEADER):  # closed: free again
        pass
    Journal.open(path, HEADER)  # dropped without close: free again
    Journal.open(path, HEADER).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_from_a_killed_search_does_not_hold_its_journal(tmp_path: Path) -> None:
    """Data loader workers outlive a killed search for a while."""
    path = tmp_path / "j.jsonl"
    read, write = os.pipe()
    if (search := os.fork()) == 0:
        _journal = Journal.open(path, HEADER)
        if (worker := os.fork()) == 0:
            signal.pause()
        os.write(write, worker.to_bytes(4, "big"))
        signal.pause()
    worker = int.from_bytes(os.read(read, 4), "big")
    try:
        os.kill(search, signal.SIGKILL)
        os.waitpid(search, 0)
        Journal.open(path, HEADER).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(read)
        os.close(write)


def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    with Journal.open(path, HEADER) as journal:
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(ArtifactError, match="No space"):
                journal.record("a", {})
        assert path.read_bytes() == before
        assert journal.get("a") is None
        journal.record("a", {})
    assert len(Journal.open(path, HEADER)) == 1


def test_every_line_is_synced_before_record_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    synced: list[int] = []
    real = os.fsync
    with Journal.open(path, HEADER) as journal:
        monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), real(fd)))
        for i in range(3):
            journal.record(f"k{i}", {"score": 1.0})
            assert synced[-1] == path.stat().st_size
    assert len(synced) == 3


def test_a_closed_journal_can_be_read_but_not_written(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, HEADER)
    journal.record("a", {"score": 1.0})
    journal.close()
    assert journal.get("a") == {"score": 1.0}
    with pytest.raises(ArtifactError, match="closed"):
        journal.record("b", {})


def _try_to_open(path: str) -> str:
    try:
        Journal.open(path, HEADER)
    except ArtifactError as error:
        return str(error)
    return "opened"
