"""Saved and restored: bit for bit, or refused with the fresh model as it was; old or new, never half."""

from __future__ import annotations

import errno
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
from nets import EXAMPLES, Decoder, Recurrent, Residual, Shared
from safetensors.torch import load_file, save_file
from torch import nn

from secateur.errors import ArtifactError, InputError, PlanError, SecateurError
from secateur.io import atomic
from secateur.io.artifact import restore, save
from secateur.torch.apply import apply, plans_of
from secateur.torch.trace import trace

torch.set_num_threads(1)


def narrowed(kind: type[nn.Module], *, seed: int = 0, step: int = 2, model: nn.Module | None = None) -> nn.Module:
    """A model of this kind with every free width cut to about one part in ``step``."""
    torch.manual_seed(seed)
    model = (kind() if model is None else model).eval()
    example = EXAMPLES[kind]
    dtype = next(model.parameters()).dtype
    graph = trace(model, example.to(dtype) if example.is_floating_point() else example)
    plan = graph.plan({w.name: range(0, w.size, step) for w in graph.free}, {"seed": seed})
    return apply(model, plan, verify=False)


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a model holds, for comparing bit for bit: tensors, their kinds, integers, repr."""
    found: dict[str, Any] = {"repr": repr(model)}
    for name, module in model.named_modules():
        for key, value in module.__dict__.items():
            if type(value) in (int, bool, float, tuple) and not key.startswith("_secateur"):
                found[f"{name}.{key}"] = value
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        found[name] = (type(tensor), tensor.dtype, tuple(tensor.shape), data)
    return found


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_restored_is_what_was_saved_bit_for_bit(kind: type[nn.Module], tmp_path: Path) -> None:
    small = narrowed(kind)
    save(small, tmp_path / "small")
    torch.manual_seed(1)
    fresh = kind().eval()
    back = restore(fresh, tmp_path / "small")
    assert back is fresh
    assert everything(back) == everything(small)
    assert torch.equal(back(EXAMPLES[kind]), small(EXAMPLES[kind]))
    assert plans_of(back) == plans_of(small)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_come_from_the_folder(dtype: torch.dtype, tmp_path: Path) -> None:
    small = narrowed(Decoder).to(dtype)
    save(small, tmp_path)
    back = restore(Decoder().eval(), tmp_path)
    assert everything(back) == everything(small)


def test_successive_prunings_are_restored_in_one_go(tmp_path: Path) -> None:
    for kind in EXAMPLES:
        twice = narrowed(kind, model=narrowed(kind))
        assert len(plans_of(twice)) == 2
        save(twice, tmp_path / kind.__name__)
        assert everything(restore(kind().eval(), tmp_path / kind.__name__)) == everything(twice)


def test_what_was_restored_can_be_pruned_trained_and_saved_again(tmp_path: Path) -> None:
    save(narrowed(Residual), tmp_path / "one")
    back = restore(Residual(), tmp_path / "one")
    back(EXAMPLES[Residual]).sum().backward()
    torch.optim.SGD(back.parameters(), lr=0.1).step()
    save(back, tmp_path / "two")
    assert everything(restore(Residual(), tmp_path / "two")) == everything(back)
    again = narrowed(Residual, model=restore(Residual(), tmp_path / "two"))
    save(again, tmp_path / "two")
    assert everything(restore(Residual().eval(), tmp_path / "two")) == everything(again)


def test_the_fresh_model_keeps_what_is_its_own(tmp_path: Path) -> None:
    save(narrowed(Residual), tmp_path)
    fresh = Residual().train()
    fresh.stem.weight.requires_grad_(False)
    back = restore(fresh, tmp_path)
    assert back.training
    assert not back.stem.weight.requires_grad
    assert not back.head.bias.requires_grad
    assert back.back.weight.requires_grad
    assert back.inner.weight.note == "no weight decay"


def test_ties_are_kept_and_stored_once(tmp_path: Path) -> None:
    save(narrowed(Decoder), tmp_path)
    back = restore(Decoder(), tmp_path)
    assert back.unembed.weight is back.embed.weight
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(name.endswith("embed.weight") for name in stored) == 1
    shared = narrowed(Shared)
    save(shared, tmp_path / "shared")
    fresh = restore(Shared(), tmp_path / "shared")
    assert fresh.again is fresh.middle


def test_parameters_that_share_memory_are_stored_once(tmp_path: Path) -> None:
    small = narrowed(Recurrent)
    small.lstm.bias_hh_l0.data = small.lstm.bias_ih_l0.data
    save(small, tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text())["weights"]["aliases"] == {"lstm.bias_hh_l0": "lstm.bias_ih_l0"}
    assert everything(restore(Recurrent().eval(), tmp_path)) == everything(small)


def test_a_model_without_weights_can_be_restored_onto(tmp_path: Path) -> None:
    small = narrowed(Residual)
    save(small, tmp_path)
    with torch.device("meta"):
        fresh = Residual().eval()
    assert everything(restore(fresh, tmp_path)) == everything(small)


def test_the_weights_are_an_ordinary_state_dict(tmp_path: Path) -> None:
    small = narrowed(Residual)
    save(small, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() == small.state_dict().keys()


def test_restoring_runs_no_model_and_draws_no_random_numbers(tmp_path: Path) -> None:
    save(narrowed(Residual), tmp_path)
    fresh = Residual()
    fresh.forward = None  # type: ignore[assignment, method-assign]
    before = torch.get_rng_state()
    restore(fresh, tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_the_restored_model_does_not_lean_on_the_file(tmp_path: Path) -> None:
    small = narrowed(Residual)
    save(small, tmp_path / "small")
    back = restore(Residual().eval(), tmp_path / "small")
    with (tmp_path / "small" / "model.safetensors").open("r+b") as file:
        file.write(b"\0" * os.fstat(file.fileno()).st_size)
    assert everything(back) == everything(small)


# --- what save refuses ------------------------------------------------------------------------------------------------


def test_a_model_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no plan"):
        save(Residual(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_plan_can_be_given(tmp_path: Path) -> None:
    small = narrowed(Residual)
    plans = plans_of(small)
    del small.__dict__["_secateur_plans"]
    save(small, tmp_path, plans[0])
    assert everything(restore(Residual().eval(), tmp_path)) == everything(small)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: setattr(m, "head", nn.Linear(4, 7)), "head.weight is .* in the model"),
        (lambda m: setattr(m, "extra", nn.Linear(2, 2)), "added, removed or replaced"),
        (lambda m: setattr(m, "norm", nn.Identity()), "norm.* is gone in the model"),
        (lambda m: m.to("meta"), "meta device"),
        (lambda m: setattr(m.stem, "weight", nn.Parameter(m.stem.weight.detach().to_sparse())), "only ordinary dense"),
    ],
)
def test_a_model_that_its_plan_does_not_describe_is_refused(
    change: Callable[[Any], object], expected: str, tmp_path: Path
) -> None:
    small = narrowed(Residual)
    change(small)
    with pytest.raises(ArtifactError, match=expected):
        save(small, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_attribute_changed_after_narrowing_is_refused(tmp_path: Path) -> None:
    small = narrowed(Decoder)
    small.num_heads = 1
    with pytest.raises(PlanError, match="num_heads"):
        save(small, tmp_path)


def test_state_that_would_need_pickle_is_refused(tmp_path: Path) -> None:
    class Extra(Residual):
        def get_extra_state(self) -> object:
            return {"anything": 1}

    small = narrowed(Residual, model=Extra())
    with pytest.raises(ArtifactError, match="get_extra_state"):
        save(small, tmp_path)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    small = narrowed(Residual)
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ArtifactError, match="'thesis.tex' and no artefact"):
        save(small, tmp_path)
    (tmp_path / "plan.json").write_text('{"plan": "world domination"}')
    with pytest.raises(ArtifactError, match="left alone"):
        save(small, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["plan.json", "thesis.tex"]
    with pytest.raises(ArtifactError):
        save(small, tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_folder_of_ours_is_written_over_and_notes_in_it_are_kept(tmp_path: Path) -> None:
    save(narrowed(Residual), tmp_path)
    (tmp_path / "README.md").write_text("my notes")
    small = narrowed(Residual, seed=5, step=3)
    save(small, tmp_path)
    assert everything(restore(Residual().eval(), tmp_path)) == everything(small)
    assert sorted(os.listdir(tmp_path)) == ["README.md", "model.safetensors", "plan.json"]


def test_links_in_the_folder_are_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "small"
    save(narrowed(Residual), folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(victim)
    small = narrowed(Residual, seed=3)
    save(small, folder)
    assert victim.read_text() == "precious"
    assert everything(restore(Residual().eval(), folder)) == everything(small)


@pytest.mark.skipif(atomic.fcntl is None, reason="needs POSIX locks")
def test_a_folder_that_is_being_written_is_refused(tmp_path: Path) -> None:
    small = narrowed(Residual)
    save(small, tmp_path)
    with atomic._locked(tmp_path), pytest.raises(ArtifactError, match="another process"):
        save(small, tmp_path)
    save(small, tmp_path)


def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    save(narrowed(Residual), tmp_path)
    modes = {(tmp_path / name).stat().st_mode & 0o777 for name in ("plan.json", "model.safetensors")}
    (tmp_path / "plain").write_text("")
    assert modes == {(tmp_path / "plain").stat().st_mode & 0o777}


# --- interruptions ----------------------------------------------------------------------------------------------------

STEPS = ["mkdir", "open", "fsync", "replace", "save_file", "write_text", "unlink", "rmtree", "chmod"]


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
def test_a_kill_at_any_step_leaves_old_or_new_whole(over: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
            try:
                save(new, folder)
                failed = False
            except ArtifactError as error:
                failed = True
                assert os.strerror(problem) in str(error)
        assert _outcome(folder, {"old": old, "new": new}) in (("old", "new") if failed else ("new",))
        if steps[0] <= fault:
            break
    assert fault >= 10


def test_a_failed_first_save_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = narrowed(Residual)
    with monkeypatch.context() as patch:
        patch.setattr("secateur.io.artifact.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(ArtifactError, match="full"):
            save(small, tmp_path / "small")
    assert os.listdir(tmp_path) == []


# --- what restore refuses ---------------------------------------------------------------------------------------------


def edit_plan(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = json.loads((folder / "plan.json").read_text())
        change(data)
        (folder / "plan.json").write_text(json.dumps(data))

    return damage


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object], *, honest: bool) -> Callable[[Path], None]:
    """Other tensors in the file; ``honest`` also writes their hash into the plan, as an attacker would."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        if honest:
            sha256 = atomic.hash_of(folder / "model.safetensors")
            edit_plan(lambda data: data["weights"].update(sha256=sha256))(folder)

    return damage


def edit_both(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Other tensors, their hash and their table: a folder that agrees with itself."""

    def damage(folder: Path) -> None:
        edit_weights(change, honest=True)(folder)
        tensors = load_file(folder / "model.safetensors")
        codes = {torch.float32: "F32", torch.int64: "I64", torch.float64: "F64"}
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


NAN = b'{"format_version": 1, "x": NaN}'
W = "model.safetensors"
BAD: dict[str, Callable[[Path], object]] = {
    "an empty folder": lambda f: [p.unlink() for p in f.iterdir()],
    "no plan": lambda f: (f / "plan.json").unlink(),
    "no weights": lambda f: (f / W).unlink(),
    "an empty plan": overwrite("plan.json", lambda b: b""),
    "a truncated plan": overwrite("plan.json", lambda b: b[: len(b) // 2]),
    "a plan with NaN": overwrite("plan.json", lambda b: NAN),
    "a plan with an index that is NaN": overwrite("plan.json", lambda b: b.replace(b'"inner.out_channels": [0', b'"inner.out_channels": [NaN')),
    "a plan with a key twice": overwrite("plan.json", lambda b: b.replace(b'"format":', b'"format": "secateur", "format":', 1)),
    "a plan of another encoding": overwrite("plan.json", lambda b: b.decode().encode("utf-16")),
    "a pickle as plan": overwrite("plan.json", lambda b: b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94."),
    "a plan of 65 megabytes": overwrite("plan.json", lambda b: b + b" " * (65 * 2**20)),
    "a plan nested without end": overwrite("plan.json", lambda b: b"[" * 10**5),
    "an unknown version": edit_plan(lambda d: d.update(format_version=2)),
    "an unknown version inside": edit_plan(lambda d: first(d).update(format_version=99)),
    "no plans": edit_plan(lambda d: d.update(plans=[])),
    "an index out of range": edit_plan(lambda d: first(d)["kept"].update({"inner.out_channels": [0, 2, 4, 6, 8, 12]})),
    "a negative index": edit_plan(lambda d: first(d)["kept"].update({"inner.out_channels": [-1, 2, 4, 6, 8, 10]})),
    "a duplicate index": edit_plan(lambda d: first(d)["kept"].update({"inner.out_channels": [0, 2, 4, 4, 8, 10]})),
    "unsorted indices": edit_plan(lambda d: first(d)["kept"].update({"inner.out_channels": [2, 0, 4, 6, 8, 10]})),
    "nothing kept": edit_plan(lambda d: first(d)["kept"].update({"inner.out_channels": []})),
    "one index less": edit_plan(lambda d: (first(d)["kept"]["inner.out_channels"].pop(), first(d)["sizes"].update({"inner.out_channels": 5}))),
    "an unknown width": edit_plan(lambda d: (first(d)["kept"].update(ghost=[0]), first(d)["layouts"].update({"ghost.weight": [["ghost", 2]]}), first(d)["sizes"].update(ghost=1))),
    "a width forgotten": edit_plan(lambda d: first(d)["kept"].pop("inner.out_channels")),
    "another fingerprint": edit_plan(lambda d: first(d).update(fingerprint="0" * 64)),
    "an unknown tensor": edit_plan(lambda d: first(d)["layouts"].update({"ghost.weight": [3]})),
    "a tensor of another shape": edit_plan(widen),
    "a tensor of another rank": edit_plan(lambda d: first(d)["layouts"].update({"inner.bias": [["inner.out_channels", 12], 1]})),
    "the plan applied twice": edit_plan(lambda d: d["plans"].append(first(d))),
    "an edit that finds another value": edit_plan(lambda d: first(d)["edits"].append({"module": "stem", "path": "groups", "old": 2, "new": 1})),
    "an edit of an unknown module": edit_plan(lambda d: first(d)["edits"].append({"module": "ghost", "path": "groups", "old": 1, "new": 2})),
    "an edit of an unknown attribute": edit_plan(lambda d: first(d)["edits"].append({"module": "stem", "path": "ghost", "old": 1, "new": 2})),
    "an edit inside a class": edit_plan(lambda d: first(d)["edits"].append({"module": "", "path": "forward.x", "old": 1, "new": 2})),
    "an edit inside a module": edit_plan(lambda d: first(d)["edits"].append({"module": "", "path": "stem.groups", "old": 1, "new": 2})),
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
    "a dtype that the table does not list": edit_weights(lambda t: t.update({"head.bias": t["head.bias"].double()}), honest=True),
    "a header of no JSON": header(b"not json"),
    "a header that overlaps": header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    "a header beyond its data": header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'),
    "a header of an unknown dtype": header(b'{"a":{"dtype":"PY","shape":[],"data_offsets":[0,0]}}'),
}  # fmt: skip


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


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Decoder(), "no tensor"),
        (lambda: nn.Sequential(), "no tensor"),
        (lambda: _replaced("inner", nn.Conv2d(8, 16, 3, padding=1)), "inner.* is .* in this model"),
        (lambda: _replaced("norm", nn.InstanceNorm2d(8, affine=True, track_running_stats=True)), "modules or its other"),
        (lambda: _replaced("extra", nn.ReLU()), "modules or its other"),
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
    with pytest.raises(InputError, match="torch.nn.Module"):
        restore(Residual, whole)  # type: ignore[type-var]
    with pytest.raises(ArtifactError, match=r"there is no plan\.json"):
        restore(Residual(), tmp_path / "nowhere")
    with pytest.raises(ArtifactError):
        restore(Residual(), whole / "plan.json")


def test_a_fault_while_putting_in_is_undone(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("secateur.io.artifact.install", fault)
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
        if event in ("import", "exec", "compile", "subprocess.Popen", "os.system", "socket.connect", "pickle.find_class"):
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


def test_every_error_of_the_folder_is_ours() -> None:
    assert issubclass(ArtifactError, SecateurError)
    assert issubclass(PlanError, SecateurError)


# --- the host's config ------------------------------------------------------------------------------------------------


def test_a_hugging_face_model_is_rebuilt_from_its_own_config(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from secateur.cli.models import import_torchvision

    import_torchvision()
    from transformers import AutoConfig, AutoModel, BertConfig

    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, vocab_size=30)
    model = AutoModel.from_config(config).eval()
    ids = torch.arange(6)[None]
    graph = trace(model, {"input_ids": ids})
    small = apply(model, graph.plan({w.name: range(0, w.size, 2) for w in graph.free}), verify=False)
    save(small, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_attention_heads"] == 4
    fresh = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path)).eval()
    back = restore(fresh, tmp_path)
    assert torch.equal(back(ids).last_hidden_state, small(ids).last_hidden_state)
    assert sum(p.numel() for p in back.parameters()) < sum(p.numel() for p in model.parameters())


def test_sizes_in_the_config_are_written_as_they_were(tmp_path: Path) -> None:
    class Host(Config := type("HostConfig", (), {})):  # type: ignore[misc]
        def __init__(self) -> None:
            self.num_heads = 4

        def to_json_string(self) -> str:
            return json.dumps(vars(self))

    class WithConfig(Decoder):
        def __init__(self) -> None:
            super().__init__()
            self.config = Host()

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            self.num_heads = self.config.num_heads
            return super().forward(ids)

    small = narrowed(Decoder, model=WithConfig())
    save(small, tmp_path)
    assert small.config.num_heads == 2
    assert json.loads((tmp_path / "config.json").read_text()) == {"num_heads": 4}
    assert restore(WithConfig().eval(), tmp_path).config.num_heads == 2
