"""A folder that is damaged, forged or of another architecture is refused before anything is changed."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import Decoder, Residual, everything, narrowed
from safetensors.torch import load_file, save_file
from torch import nn

from secateur.errors import ArtifactError, InputError, PlanError
from secateur.io import atomic
from secateur.io.artifact import restore, save
from secateur.torch.apply import plans_of


def edit_plan(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = json.loads((folder / "plan.json").read_text())
        change(data)
        (folder / "plan.json").write_text(json.dumps(data))

    return damage


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Other tensors in the file, and their hash in the plan, as an attacker would write it."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        sha256 = atomic.hash_of(folder / "model.safetensors")
        edit_plan(lambda data: data["weights"].update(sha256=sha256))(folder)

    return damage


def edit_both(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Other tensors, their hash and their table: a folder that agrees with itself."""

    def damage(folder: Path) -> None:
        edit_weights(change)(folder)
        tensors = load_file(folder / "model.safetensors")
        codes = {torch.float32: "F32", torch.int64: "I64", torch.float64: "F64"}
        codes |= {torch.bool: "BOOL", torch.complex64: "C64"}
        table = {name: [codes[t.dtype], list(t.shape)] for name, t in tensors.items()}
        edit_plan(lambda data: data["weights"].update(tensors=table))(folder)

    return damage


def overwrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def header(text: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
        sha256 = atomic.hash_of(folder / "model.safetensors")
        edit_plan(lambda data: data["weights"].update(sha256=sha256))(folder)

    return damage


def first(data: dict[str, Any]) -> dict[str, Any]:
    return data["plans"][0]


def widen(data: dict[str, Any]) -> None:
    """A consistent plan for a wider network."""
    text = json.dumps(first(data)["layouts"]).replace('["inner.out_channels", 12]', '["inner.out_channels", 14]')
    first(data)["layouts"] = json.loads(text)


def keep(*indices: Any) -> Callable[[Path], None]:
    return edit_plan(lambda data: first(data)["kept"].update({"inner.out_channels": list(indices)}))


def shorten(data: dict[str, Any]) -> None:
    """One index less, consistently."""
    first(data)["kept"]["inner.out_channels"].pop()
    first(data)["sizes"]["inner.out_channels"] = 5


def haunt(data: dict[str, Any]) -> None:
    """A width and a tensor that no model has, consistently."""
    first(data)["kept"]["ghost"] = [0]
    first(data)["sizes"]["ghost"] = 1
    first(data)["layouts"]["ghost.weight"] = [["ghost", 2]]


def edit(module: str, path: str, old: int = 1, new: int = 2) -> Callable[[Path], None]:
    """One more attribute to rewrite."""
    one = {"module": module, "path": path, "old": old, "new": new}
    return edit_plan(lambda data: first(data)["edits"].append(one))


def layout(tensor: str, axes: list[Any]) -> Callable[[Path], None]:
    return edit_plan(lambda data: first(data)["layouts"].update({tensor: axes}))


def plan_bytes(old: bytes, new: bytes) -> Callable[[Path], None]:
    return overwrite("plan.json", lambda text: text.replace(old, new, 1))


def no_file(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else in the place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


W = "model.safetensors"
ONE = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
BAD: dict[str, Callable[[Path], object]] = {
    "an empty folder": lambda f: [p.unlink() for p in f.iterdir()],
    "no plan": lambda f: (f / "plan.json").unlink(),
    "no weights": lambda f: (f / W).unlink(),
    "an empty plan": overwrite("plan.json", lambda b: b""),
    "a truncated plan": overwrite("plan.json", lambda b: b[: len(b) // 2]),
    "a plan of NaN": overwrite("plan.json", lambda b: b'{"format_version": 1, "x": NaN}'),
    "an index that is NaN": plan_bytes(b'"inner.out_channels": [0', b'"inner.out_channels": [NaN'),
    "a key twice": plan_bytes(b'"format":', b'"format": "secateur", "format":'),
    "a plan of another encoding": overwrite("plan.json", lambda b: b.decode().encode("utf-16")),
    "a pickle as plan": overwrite("plan.json", lambda b: b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94."),
    "a plan of 65 megabytes": overwrite("plan.json", lambda b: b + b" " * (65 * 2**20)),
    "a plan nested without end": overwrite("plan.json", lambda b: b"[" * 10**5),
    "an unknown version": edit_plan(lambda d: d.update(format_version=2)),
    "an unknown version inside": edit_plan(lambda d: first(d).update(format_version=99)),
    "no plans": edit_plan(lambda d: d.update(plans=[])),
    "an index out of range": keep(0, 2, 4, 6, 8, 12),
    "a negative index": keep(-1, 2, 4, 6, 8, 10),
    "a duplicate index": keep(0, 2, 4, 4, 8, 10),
    "unsorted indices": keep(2, 0, 4, 6, 8, 10),
    "nothing kept": keep(),
    "a fractional index": keep(0, 2, 4, 6, 8, 10.5),
    "one index less": edit_plan(shorten),
    "an unknown width": edit_plan(haunt),
    "a width forgotten": edit_plan(lambda d: first(d)["kept"].pop("inner.out_channels")),
    "another fingerprint": edit_plan(lambda d: first(d).update(fingerprint="0" * 64)),
    "an unknown tensor": layout("ghost.weight", [3]),
    "a tensor of another shape": edit_plan(widen),
    "a tensor of another rank": layout("inner.bias", [["inner.out_channels", 12], 1]),
    "the plan applied twice": edit_plan(lambda d: d["plans"].append(first(d))),
    "an edit that finds another value": edit("stem", "groups", old=2, new=1),
    "an edit of an unknown module": edit("ghost", "groups"),
    "an edit of an unknown attribute": edit("stem", "ghost"),
    "an edit inside a method": edit("", "forward.x"),
    "an edit inside a module": edit("", "stem.groups"),
    "an edit inside a table of modules": edit("", "_modules.stem"),
    "another hash": edit_plan(lambda d: d["weights"].update(sha256="0" * 64)),
    "an alias to nothing": edit_plan(lambda d: d["weights"].update(aliases={"head.bias": "ghost"})),
    "a tensor missing from the table": edit_plan(lambda d: d["weights"]["tensors"].pop("head.bias")),
    "empty weights": overwrite(W, lambda b: b""),
    "truncated weights": overwrite(W, lambda b: b[:-1]),
    "weights with a tail": overwrite(W, lambda b: b + b"tail"),
    "weights with one bit flipped": overwrite(W, lambda b: b[:-1] + bytes([b[-1] ^ 1])),
    "a pickle as weights": overwrite(W, lambda b: b"\x80\x04N."),
    "a tensor missing": edit_both(lambda t: t.pop("head.bias")),
    "a tensor too many": edit_both(lambda t: t.update(ghost=torch.zeros(1))),
    "a tensor of the original shape": edit_both(lambda t: t.update({"inner.bias": torch.zeros(12)})),
    "a tensor flattened": edit_both(lambda t: t.update({"head.weight": t["head.weight"].reshape(-1)})),
    "a dtype that the table does not list": edit_weights(lambda t: t.update({"head.bias": torch.zeros(4).double()})),
    "a pipe as plan": no_file("plan.json", os.mkfifo),
    "a device as plan": no_file("plan.json", lambda path: path.symlink_to("/dev/zero")),
    "a folder as plan": no_file("plan.json", Path.mkdir),
    "a pipe as weights": no_file(W, os.mkfifo),
    "a device as weights": no_file(W, lambda path: path.symlink_to("/dev/zero")),
    "integers for a parameter": edit_both(lambda t: t.update({"head.bias": torch.ones(4, dtype=torch.int64)})),
    "booleans for a parameter": edit_both(lambda t: t.update({"head.bias": torch.ones(4, dtype=torch.bool)})),
    "complex numbers for a parameter": edit_both(lambda t: t.update({"head.bias": torch.ones(4).cfloat()})),
    "floating numbers for a counter": edit_both(lambda t: t.update({"norm.num_batches_tracked": torch.tensor(0.0)})),
    "a header of no JSON": header(b"not json"),
    "a header that overlaps": header(b'{"a":' + ONE + b',"b":' + ONE + b"}0000"),
    "a header beyond its data": header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'),
    "a header of an unknown dtype": header(b'{"a":{"dtype":"PY","shape":[],"data_offsets":[0,0]}}'),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "small"
    save(narrowed(Residual), folder)
    return folder


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_refused_before_anything_is_changed(name: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "bad"))
    BAD[name](folder)
    fresh = Residual().eval()
    before, tensors = everything(fresh), [id(p) for p in fresh.parameters()]
    with pytest.raises((ArtifactError, PlanError)) as caught:
        restore(fresh, folder)
    assert len(str(caught.value)) < 1000
    assert everything(fresh) == before
    assert [id(p) for p in fresh.parameters()] == tensors
    assert plans_of(fresh) == ()


def test_the_undamaged_folder_is_accepted(whole: Path) -> None:
    restore(Residual(), whole)


def _replaced(name: str, module: nn.Module) -> nn.Module:
    model = Residual()
    setattr(model, name, module)
    return model


def _changed(name: str, attribute: str, value: object) -> nn.Module:
    model = Residual()
    setattr(getattr(model, name), attribute, value)
    return model


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Decoder(), "no tensor"),
        (lambda: nn.Sequential(), "no tensor"),
        (lambda: _replaced("inner", nn.Conv2d(8, 16, 3, padding=1)), "inner.* is .* in this model"),
        (
            lambda: _replaced("norm", nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
            "modules, their settings or its other",
        ),
        (lambda: _replaced("extra", nn.ReLU()), "modules, their settings or its other"),
        (lambda: _changed("inner", "stride", (2, 2)), "modules, their settings or its other"),
        (lambda: _changed("inner", "padding", (0, 0)), "modules, their settings or its other"),
        (lambda: _changed("inner", "dilation", (2, 2)), "modules, their settings or its other"),
        (lambda: _changed("norm", "eps", 1.0), "modules, their settings or its other"),
        (lambda: narrowed(Residual), "narrowed already"),
    ],
)
def test_another_architecture_is_refused(make: Callable[[], nn.Module], expected: str, whole: Path) -> None:
    fresh = make()
    before = everything(fresh)
    with pytest.raises(ArtifactError, match=expected):
        restore(fresh, whole)
    assert everything(fresh) == before


def test_what_is_no_model_or_no_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        restore(Residual, whole)  # type: ignore[type-var]
    with pytest.raises(ArtifactError, match=r"there is no plan\.json"):
        restore(Residual(), tmp_path / "nowhere")
    with pytest.raises(ArtifactError):
        restore(Residual(), whole / "plan.json")


def test_a_fault_while_putting_in_is_undone(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("secateur.torch.narrowing.installing._drop_caches", fault)
    fresh = Residual()
    before = everything(fresh)
    with pytest.raises(MemoryError):
        restore(fresh, whole)
    assert everything(fresh) == before


def test_restoring_opens_nothing_outside_its_folder_and_runs_nothing(whole: Path) -> None:
    restore(Residual(), whole)  # what is imported lazily is imported now
    seen: list[str] = []
    watching = [True]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not watching[0]:
            return
        if event in (
            "import",
            "exec",
            "compile",
            "subprocess.Popen",
            "os.system",
            "socket.connect",
            "pickle.find_class",
        ):
            seen.append(f"{event} {args[0]}")
        if event == "open" and not str(args[0]).startswith(str(whole)):
            seen.append(f"open {args[0]}")

    fresh = Residual()
    sys.addaudithook(hook)
    try:
        restore(fresh, whole)
    finally:
        watching[0] = False
    assert seen == []
