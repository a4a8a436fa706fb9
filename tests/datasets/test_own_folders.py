"""Folders as people have them: links to other disks, pictures by name, a manifest above, only the files that are needed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark.datasets.demo.circo import CircoSizes
from benchmark.datasets.demo.demo_data import Sizes, write_demo
from benchmark.datasets.demo.fashion200k import LabelSizes
from command_line import Command

from benchmark.data.folders import index_by_stem, require_pictures
from benchmark.data.verification import verify_folder
from benchmark.errors import UserError
from benchmark.records.record import read_record
from benchmark.registry import discover

SMALL = Sizes(2, 4, 2, 3, 2, 2)
SIZES: dict[str, Any] = {
    "cirr": SMALL, "fashioniq": SMALL, "shoes": Sizes(3, 4, 0, 0, 3, 3), "fashion200k": LabelSizes(6, 6, 8),
    "circo": CircoSizes(3, 2, 2, 1, 2),
}
FOLDERS = {"cirr": "CIRR", "fashioniq": "fashionIQ", "shoes": "shoes", "fashion200k": "fashion200k", "circo": "CIRCO"}
EVALUATED = {"cirr": "val", "fashioniq": "val", "shoes": "test", "fashion200k": "test", "circo": "val"}
ENDINGS = (".png", ".jpg", ".jpeg")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    for name, sizes in SIZES.items():
        write_demo(name, root / name, sizes, workers=1)
        (root / name / "dataset.json").write_text('{"name": "my-shop"}')
    return root


@pytest.fixture
def own(drawn: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A dataset's name, and a folder of somebody's own data in its layout below ``tmp_path / "data"``."""
    folder = tmp_path / "data" / FOLDERS[request.param]
    shutil.copytree(drawn / request.param, folder)
    return request.param, folder


each_dataset = pytest.mark.parametrize("own", list(SIZES), indirect=True)


def picture_folders(root: Path) -> list[Path]:
    return sorted({path.parent for path in root.rglob("*") if path.suffix in ENDINGS})


def all_found(name: str, data_root: Path) -> None:
    found = verify_folder(discover(), name, data_root)
    assert found.ok and not found.broken, found.as_table()
    assert "more than once" not in found.as_table()


@each_dataset
@pytest.mark.parametrize("depth", ["top", "deepest"])
def test_links_to_folders_are_followed(own: tuple[str, Path], tmp_path: Path, depth: str) -> None:
    name, folder = own
    deepest = picture_folders(folder)
    moved = deepest if depth == "deepest" else sorted({folder / path.relative_to(folder).parts[0] for path in deepest})
    for number, path in enumerate(moved):
        shutil.move(path, tmp_path / f"disk{number}")
        path.symlink_to(tmp_path / f"disk{number}")
    all_found(name, tmp_path / "data")
    moved_whole = tmp_path / "other" / FOLDERS[name]
    moved_whole.parent.mkdir()
    moved_whole.symlink_to(folder)
    all_found(name, moved_whole.parent)


@each_dataset
def test_loops_of_links_end(own: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = own
    for path in picture_folders(folder):
        (path / "up").symlink_to(path.parent)
        (path / "self").symlink_to(path)
        (path / "whole").symlink_to(folder)
    (folder / "back").symlink_to(folder.parent)
    all_found(name, tmp_path / "data")
    assert not index_by_stem([folder, folder]).doubles


def flat(root: Path) -> None:
    for path in sorted((root / "train").rglob("*.png")):
        path.rename(root / "train" / path.name)


def other_ending(root: Path) -> None:
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_suffix(".jpg"))


def elsewhere(root: Path) -> None:
    for path in sorted(root.rglob("*.png")):
        (root / "pictures" / "all" / path.name[:3]).mkdir(parents=True, exist_ok=True)
        path.rename(root / "pictures" / "all" / path.name[:3] / path.name)


def beside(root: Path) -> None:
    for path in sorted(root.rglob("*.png")):
        (root.parent / "images" / "deep").mkdir(parents=True, exist_ok=True)
        path.rename(root.parent / "images" / "deep" / path.name)


@pytest.mark.parametrize("own", ["cirr"], indirect=True)
@pytest.mark.parametrize("harm", [flat, other_ending, elsewhere, beside])
def test_cirr_s_pictures_are_found_by_name(own: tuple[str, Path], harm: Any) -> None:
    _, folder = own
    before = discover().load_dataset("cirr", folder, ("train", "val"))
    content = [path.read_bytes() for path in before.pictures.paths]
    harm(folder)
    after = discover().load_dataset("cirr", folder, ("train", "val"))
    assert [path.read_bytes() for path in after.pictures.paths] == content
    all_found("cirr", folder)


@pytest.mark.parametrize("own", ["cirr"], indirect=True)
def test_a_picture_at_its_place_is_taken_before_others_and_doubles_elsewhere_are_told(own: tuple[str, Path]) -> None:
    _, folder = own
    picture = next((folder / "dev").glob("*.png"))
    (folder / "aaa").mkdir()
    shutil.copy(picture, folder / "aaa" / picture.name)
    dataset = discover().load_dataset("cirr", folder, ("val",))
    assert dataset.pictures.paths[dataset.pictures.names.index(picture.stem)] == picture
    assert dataset.tasks("val", "official", "as-is")[0].notes == ()
    (folder / "bbb").mkdir()
    picture.rename(folder / "bbb" / picture.name)
    dataset = discover().load_dataset("cirr", folder, ("val",))
    assert dataset.pictures.paths[dataset.pictures.names.index(picture.stem)] == folder / "aaa" / picture.name
    (note,) = dataset.tasks("val", "official", "as-is")[0].notes
    assert f"more than once: 1, {picture.stem} first" in note


@each_dataset
@pytest.mark.parametrize("place", ["root", "above"])
def test_the_manifest_is_found_from_either_data_root(own: tuple[str, Path], tmp_path: Path, place: str) -> None:
    name, folder = own
    if place == "above":
        (folder / "dataset.json").rename(folder.parent / "dataset.json")
    for data_root in (folder, folder.parent):
        found = verify_folder(discover(), name, data_root)
        assert (found.name, found.kind) == ("my-shop", "own")
    arbitrary = folder.rename(folder.with_name("shop of 2031"))
    if place == "above":
        (folder.parent / "dataset.json").rename(arbitrary / "dataset.json")
    for data_root in (arbitrary, arbitrary.parent):
        found = verify_folder(discover(), name, data_root)
        assert (found.name, found.kind) == ("my-shop", "own")
    shutil.copytree(arbitrary, arbitrary.with_name("another"))
    with pytest.raises(UserError, match=r"several of its folders: another, shop of 2031; name one"):
        verify_folder(discover(), name, arbitrary.parent)


@pytest.mark.parametrize("own", ["cirr"], indirect=True)
def test_the_manifest_of_annotations_in_a_folder_of_their_own(own: tuple[str, Path]) -> None:
    """The layout `cirr/captions`: its own folder, the one above and the one above that."""
    _, folder = own
    (folder / "cirr").mkdir()
    for part in ("captions", "image_splits"):
        (folder / part).rename(folder / "cirr" / part)
    for data_root in (folder / "cirr", folder, folder.parent):
        found = verify_folder(discover(), "cirr", data_root)
        assert (found.name, found.kind, found.ok) == ("my-shop", "own", True), data_root


@each_dataset
def test_faults_of_own_data_never_send_for_the_official_files(own: tuple[str, Path]) -> None:
    name, folder = own
    info = discover().datasets()[name]
    split = EVALUATED[name]
    dataset = discover().load_dataset(name, folder, (split,))
    for path in dataset.pictures.paths:
        path.unlink(missing_ok=True)
    with pytest.raises(UserError, match="your own data") as told:
        require_pictures(dataset, dataset.split_pictures(split))
    assert info.obtain not in str(told.value)
    table = verify_folder(discover(), name, folder).as_table()
    assert "NOT OK" in table and info.obtain not in table
    for file in dataset.annotation_files():  # type: ignore[attr-defined]
        if file.split == split and file.path.suffix == ".json":
            file.path.write_text("[{}]")
        elif file.split == split:
            file.path.write_text("\n")
    with pytest.raises(UserError) as told:
        discover().load_dataset(name, folder, (split,))
    assert info.obtain not in str(told.value)


@each_dataset
def test_a_split_is_read_without_the_files_of_the_others(own: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = own
    whole = discover().load_dataset(name, folder, (EVALUATED[name],))
    files = whole.annotation_files()  # type: ignore[attr-defined]
    needed = {file.path for file in files if file.split == EVALUATED[name]}
    for file in files:
        if file.path not in needed:
            file.path.unlink(missing_ok=True)
    left = discover().load_dataset(name, folder, (EVALUATED[name],))
    assert left.fingerprint == whole.fingerprint
    assert np.array_equal(left.split_pictures(EVALUATED[name]), whole.split_pictures(EVALUATED[name]))


@pytest.mark.parametrize("own", ["cirr"], indirect=True)
def test_evaluation_asks_for_no_training_files_and_test1_for_no_others(
    own: tuple[str, Path], command: Command, tmp_path: Path
) -> None:
    _, folder = own
    head = ("--data-root", folder, "--cache", tmp_path / "cache")
    run = command("run", "--method", "sum", "--dataset", "cirr", *head, "--backbone", "tiny", "--weights", "random",
                  "--set", "method.encoder=untouched", "--output", tmp_path / "run")  # fmt: skip
    assert run.status == 0, run.err
    captions = folder / "captions" / "cap.rc2.train.json"
    for content in ("[{}]", "[", ""):
        captions.write_text(content)
        broken = command("evaluate", "--method", "sum", "--checkpoint", tmp_path / "run", *head, "--output", tmp_path / "broken",
                         "--overwrite")  # fmt: skip
        assert broken.status == 0 and "split train is not here, or not as it should be" in broken.err, broken.err
        assert read_record(tmp_path / "broken").results == read_record(tmp_path / "run").results
    for path in [*folder.rglob("*.train.json"), *(folder / "train").rglob("*.png")]:
        path.unlink()
    again = command("evaluate", "--method", "sum", "--checkpoint", tmp_path / "run", *head, "--output", tmp_path / "again")
    assert again.status == 0, again.err
    assert read_record(tmp_path / "again").results == read_record(tmp_path / "run").results
    for path in [*folder.rglob("*.val.json"), *(folder / "dev").rglob("*.png")]:
        path.unlink()
    queries = command("data", "export-queries", "cirr", *head, "--split", "test1", "--output", tmp_path / "queries.jsonl")
    assert queries.status == 0, queries.err
    assert all(json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines())
    server = command("submit", tmp_path / "run", *head)
    assert server.status == 0, server.err
