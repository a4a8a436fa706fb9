"""Weights files and what is refused; files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import UserError, full_disk_advice
from benchmark.files import atomic_write_json, atomic_write_text, folder_lock
from benchmark.training.resumable_state import ResumableState
from benchmark.weights.checkpoints import (
    EarlierStage,
    WeightsHeader,
    read_header,
    read_weights,
    save_weights,
)

ME = {"name": "me"}

HEADER = WeightsHeader(
    method="small", stage="s", dataset="cirr", method_settings={"grids": [2, 3]}, training_settings={"epochs": 1},
    backbone={"name": "tiny"}, width=64, seed=3, prepared={"words": ["a", "ü"]},
    earlier=[EarlierStage("first", {"epochs": 2}, 5, 40, {})],
)  # fmt: skip


def test_weights_and_header_come_back(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = {"a": shared, "b": shared.T, "n": torch.tensor(3)}
    digest = save_weights(tmp_path / "w.safetensors", state, HEADER)
    assert len(digest) == 64 and read_header(tmp_path / "w.safetensors") == HEADER
    back = read_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert os.listdir(tmp_path) == ["w.safetensors"]


def with_header(path: Path, values: Any) -> Path:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path, metadata={"benchmark": values if isinstance(values, str) else json.dumps(values)})
    return path


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({**asdict(HEADER), "format": "cir-benchmark weights 9"}, "format 'cir-benchmark weights 9', this version reads"),
        ({"format": HEADER.format}, "its header: entry 'method': .*it is damaged"),
        ({**asdict(HEADER), "colour": 1}, "its header: entry 'colour' is not known here; it is damaged"),
        ([1, 2], "not a checkpoint of this program"),
        ("{", "not a checkpoint of this program"),
    ],
)
def test_other_headers_are_refused(tmp_path: Path, values: Any, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        read_header(with_header(tmp_path / "w.safetensors", values))
    assert len(str(error.value).splitlines()) == 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match="no such checkpoint"):
        read_header(file)
    for content in (b"", b"not weights at all", (1 << 60).to_bytes(8, "little") + b"{}"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="not a readable safetensors file"):
            read_header(file)
    save_weights(file, {"a": torch.zeros(1000)}, HEADER)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        read_header(file)


def test_a_state_that_could_run_code_is_not_loaded(tmp_path: Path) -> None:
    states = ResumableState(tmp_path, ME)
    states.save({"x": replace(HEADER, seed=1)}, 1)
    with pytest.raises(UserError, match="no state of this program .*[Ww]eights.*; delete .* and run again"):
        states.load()


def test_only_the_newest_state_stays_and_a_crash_in_between_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = ResumableState(tmp_path, ME)
    for update in (1, 2):
        states.save({"update": update}, update)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resume-00000002.pt", "resume.json"]
    monkeypatch.setattr("benchmark.training.resumable_state.atomic_write_json", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        states.save({"update": 3}, 3)
    assert states.load() == {"update": 2}
    states.clear()
    assert not list(tmp_path.iterdir()) and not states.exists()


def test_a_crash_while_the_same_update_is_saved_again_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch's last update is saved before its validation and after it."""
    states = ResumableState(tmp_path, ME)
    for score in (1, 2, 3):
        states.save({"score": score}, 7)
        assert states.load() == {"score": score}
        with monkeypatch.context() as crash:
            crash.setattr("benchmark.training.resumable_state.atomic_write_json", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                states.save({"score": -1}, 7)
        assert states.load() == {"score": score}


def to_full_disk(folder: Path, name: str) -> None:
    """Writing this name's temporary file ends as on a full disk."""
    (folder / f".{os.getpid()}.partial.{name}").symlink_to("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", ["text", "state"])
def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path, kind: str) -> None:
    name = {"text": "a.json", "state": "resume-00000002.pt"}[kind]
    writers = {
        "text": lambda: atomic_write_json(tmp_path / name, ["x" * 100_000]),
        "state": lambda: ResumableState(tmp_path, ME).save({"a": torch.zeros(100_000)}, 2),
    }
    if kind != "state":
        (tmp_path / name).write_text("old")
    to_full_disk(tmp_path, name)
    with pytest.raises(UserError, match=f"{name}: the disk is full"):
        writers[kind]()
    assert [p.name for p in tmp_path.iterdir()] == ([name] if kind != "state" else [])
    if kind != "state":
        assert (tmp_path / name).read_text() == "old"


def test_what_libraries_make_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match="w.safetensors: the disk is full"):
        save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, HEADER)
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904
    except RuntimeError as error:
        assert full_disk_advice(error)
    assert not full_disk_advice(RuntimeError("another"))


def test_a_full_disk_at_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="the disk is full"):
        atomic_write_text(tmp_path / "a.txt", "x")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run", "one"):
        with pytest.raises(UserError, match="in use by another run"), folder_lock(tmp_path / "run", "two"):
            pass
    with folder_lock(tmp_path / "run", "three"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_state_before(tmp_path: Path) -> None:
    states = ResumableState(tmp_path, ME)
    states.save({"update": 1}, 1)
    to_full_disk(tmp_path, "resume-00000002.pt")
    with pytest.raises(UserError, match="the disk is full"):
        states.save({"update": 2, "a": torch.zeros(100_000)}, 2)
    assert states.load() == {"update": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resume-00000001.pt", "resume.json"]


def test_other_settings_are_told_old_value_and_new(tmp_path: Path) -> None:
    """In the names that the user writes, three at most."""
    def identity(**changed: Any) -> dict[str, Any]:
        settings = {"learning_rate": 0.1, "epochs": 3, "betas": [0.9, 0.99], "warmup": 0.0, **changed}
        return {"stages": [{"stage": "encoders", "settings": {"epochs": 1}}, {"stage": "spirit", "settings": settings}],
                "method": {"name": "spirit", "settings": {"grids": [2, 3]}}, "seed": 0}  # fmt: skip

    ResumableState(tmp_path, identity()).save({}, 1)
    with pytest.raises(UserError) as error:
        ResumableState(tmp_path, identity(learning_rate=0.2)).load()
    assert "made with other settings: spirit.learning_rate was 0.1, now 0.2; run with the settings as they were" in str(error.value)
    with pytest.raises(UserError, match="and 1 more; run with"):
        ResumableState(tmp_path, identity(learning_rate=0.2, epochs=4, betas=[0.8, 0.9], warmup=0.5)).load()
    with pytest.raises(UserError, match=r"spirit.decay was not there, now 1"):
        ResumableState(tmp_path, identity(decay=1)).load()


def test_an_authors_file_points_to_import(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.save({"epoch": 1, "CLIP": {"a": torch.zeros(1)}}, tmp_path / "tuned_clip_best.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("tuned_clip_best.pt", "old.pt", "other.safetensors"):
        with pytest.raises(UserError, match=f"{name}: .*`import --method NAME FILE`") as told:
            read_header(tmp_path / name)
        assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("key", ["file", "bytes", "sha256", "identity"])
@pytest.mark.parametrize("value", [None, "x", -1, {"a": []}, "../../elsewhere.pt"])
def test_a_damaged_pointer_is_told_and_leads_nowhere_else(key: str, value: Any, tmp_path: Path) -> None:
    states = ResumableState(tmp_path, ME)
    states.save({"x": torch.zeros(1)}, 1)
    pointer = json.loads((tmp_path / "resume.json").read_text())
    (tmp_path / "resume.json").write_text(json.dumps({**pointer, key: value}))
    with pytest.raises(UserError) as told:
        states.load()
    assert len(str(told.value).splitlines()) == 1 and str(tmp_path) in str(told.value)
