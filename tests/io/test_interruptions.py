"""Whatever interrupts a save, the folder holds the old artefact or the new one, whole."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nets import Residual, everything, narrowed
from torch import nn

from secateur.errors import ArtifactError
from secateur.io.artifact import restore, save


def watch(monkeypatch: pytest.MonkeyPatch, notice: Callable[[str], None]) -> None:
    """Call ``notice(step)`` before and after every step that touches the disk."""
    places: list[tuple[Any, str]] = [
        (os, "mkdir"), (os, "open"), (os, "fsync"), (os, "replace"), (os, "unlink"), (shutil, "rmtree"),
        (sys.modules["secateur.io.artifact"], "save_file"), (Path, "write_text"), (Path, "mkdir"), (Path, "unlink"),
        (Path, "chmod"),
    ]  # fmt: skip
    for place, name in places:
        real = getattr(place, name)

        def step(*args: Any, _real: Any = real, _name: str = name, **kwargs: Any) -> Any:
            notice(f"before {_name}")
            result = _real(*args, **kwargs)
            notice(f"after {_name}")
            return result

        monkeypatch.setattr(place, name, step)


@pytest.mark.parametrize("over", [True, False], ids=["over an old artefact", "into a new folder"])
def test_a_kill_at_any_step_leaves_old_or_new_whole(
    over: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder as it stands before and after each step is what a kill would leave: each copy must restore."""
    old, new = narrowed(Residual, seed=1), narrowed(Residual, seed=2, step=3)
    folder = tmp_path / "small"
    if over:
        save(old, folder)
    snapshots: list[Path] = []
    copying = [False]

    def snapshot(step: str) -> None:
        if not copying[0] and folder.exists():
            copying[0] = True
            snapshots.append(Path(shutil.copytree(folder, tmp_path / f"{len(snapshots)} {step}")))
            copying[0] = False

    with monkeypatch.context() as patch:
        watch(patch, snapshot)
        save(new, folder)
    assert len(snapshots) >= 20
    outcomes = [_outcome(left, {"old": old, "new": new}) for left in snapshots]
    start = ["old"] if over else ["nothing"]
    assert outcomes == start * outcomes.index("new") + ["new"] * (len(outcomes) - outcomes.index("new"))
    for left in snapshots:  # and each can be saved into again, and is then clean
        save(old, left)
        assert _outcome(left, {"old": old, "new": new}) == "old"
        assert sorted(os.listdir(left)) == ["model.safetensors", "plan.json"]


def _outcome(folder: Path, models: dict[str, nn.Module]) -> str:
    if not (folder / "plan.json").exists():
        return "nothing"
    found = everything(restore(Residual().eval(), folder))
    return next(name for name, model in models.items() if everything(model) == found)


@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_at_any_step_is_an_error_and_leaves_old_or_new(
    problem: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = narrowed(Residual, seed=1), narrowed(Residual, seed=2, step=3)
    for fault in range(1000):
        folder = tmp_path / str(fault)
        save(old, folder)
        steps = [0]

        def fail(step: str, at: int = fault, count: list[int] = steps) -> None:
            if step.startswith("before"):
                count[0] += 1
                if count[0] == at + 1:
                    raise OSError(problem, os.strerror(problem))

        with monkeypatch.context() as patch:
            watch(patch, fail)
            error = _error_of(lambda: save(new, folder))  # noqa: B023
        assert error is None or os.strerror(problem) in error
        assert _outcome(folder, {"old": old, "new": new}) in (("old", "new") if error else ("new",))
        if steps[0] <= fault:
            break
    assert fault >= 10


def _error_of(action: Callable[[], object]) -> str | None:
    try:
        action()
    except ArtifactError as error:
        return str(error)
    return None


def test_a_failed_first_save_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = narrowed(Residual)
    with monkeypatch.context() as patch:
        patch.setattr(
            "secateur.io.artifact.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
        )
        with pytest.raises(ArtifactError, match="full"):
            save(small, tmp_path / "small")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("moment", ["check_fits", "weights_path", "hash_of", "_header", "_load", "safe_open"])
def test_a_reader_beside_a_writer_reads_one_artefact_whole(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody saves again while the folder is read, at each of these moments once."""
    from secateur.io import artifact

    old, new = narrowed(Residual, seed=1), narrowed(Residual, seed=2)
    folder = tmp_path / "small"
    save(old, folder)
    works, calls = getattr(artifact, moment), []

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(artifact, moment, works)
                save(new, folder)
        return works(*args, **kwargs)

    monkeypatch.setattr(artifact, moment, meanwhile)
    fresh = restore(Residual().eval(), folder)
    assert everything(fresh) == everything(new)
    assert len(calls) > 1
