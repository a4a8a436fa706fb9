"""CIRR's loader on a cut of the real validation annotations, in every layout in circulation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark.datasets import cirr
from PIL import Image

from benchmark.data.annotated import count_problems, require_counts
from benchmark.data.folders import locate_root, require_pictures
from benchmark.data.verification import verify, verify_folder
from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.registry import discover

CUT = Path(__file__).resolve().parents[1] / "data" / "cirr_cut"
SPLITS = ("train", "val", "test1")
PREFIX = {"train": "train", "val": "dev", "test1": "test1"}
COUNTS = {"train": {"triplets": 17, "pictures": 18}, "val": {"queries": 17, "gallery": 18, "sets": 3}}

Annotations = dict[str, tuple[list[dict[str, Any]], dict[str, str]]]


def annotations() -> Annotations:
    """Captions and image list of each split: val is the cut, the others are made from it."""
    captions = (CUT / "captions/cap.rc2.val.json").read_text(encoding="utf-8")
    images = (CUT / "image_splits/split.rc2.val.json").read_text(encoding="utf-8")
    found: Annotations = {}
    for split in SPLITS:
        renamed = captions.replace('"dev-', f'"{PREFIX[split]}-')
        entries: list[dict[str, Any]] = json.loads(renamed)
        paths: dict[str, str] = json.loads(images.replace("dev", PREFIX[split]))
        if split == "train":
            paths = {name: path.replace("train/", f"train/{i % 3}/") for i, (name, path) in enumerate(paths.items())}
        if split == "test1":
            for entry in entries:
                del entry["target_hard"], entry["target_soft"], entry["img_set"]["target_rank"]
        found[split] = (entries, paths)
    return found


# name → (captions folder, image list folder, folder of a split's pictures, data root as a user gives it)
LAYOUTS: dict[str, tuple[str, str, Callable[[str], str], str]] = {
    "official repository": (
        "data/cirr/captions",
        "data/cirr/image_splits",
        lambda s: "data/cirr/img_raw",
        ".",
    ),
    "official folder": (
        "data/cirr/captions",
        "data/cirr/image_splits",
        lambda s: "data/cirr/img_raw",
        "data",
    ),
    "clip4cir parent": (
        "cirr_dataset/cirr/captions",
        "cirr_dataset/cirr/image_splits",
        lambda s: "cirr_dataset",
        ".",
    ),
    "clip4cir": ("x/cirr/captions", "x/cirr/image_splits", lambda s: "x", "x"),
    "clip4cir inner": ("x/cirr/captions", "x/cirr/image_splits", lambda s: "x", "x/cirr"),
    "pic2word": ("data/CIRR/captions", "data/CIRR/image_splits", lambda s: "data/CIRR", "."),
    "pic2word folder": ("data/CIRR/captions", "data/CIRR/image_splits", lambda s: "data/CIRR", "data/CIRR"),
    "dqu-cir": (
        "data/CIRR/captions/captions",
        "data/CIRR/captions/image_splits",
        lambda s: "data/CIRR/images" if s == "train" else "data/CIRR",
        ".",
    ),
    "dqu-cir folder": (
        "data/CIRR/captions/captions",
        "data/CIRR/captions/image_splits",
        lambda s: "data/CIRR/images" if s == "train" else "data/CIRR",
        "data",
    ),
    "covr": ("annotation/cirr", "datasets/CIRR/image_splits", lambda s: "datasets/CIRR/images", "."),
    "covr flat": ("annotation/cirr", "annotation/cirr", lambda s: "datasets/CIRR/images", "."),
    "covr inner": ("annotation/cirr", "annotation/cirr", lambda s: "datasets/CIRR/images", "annotation/cirr"),
    "covr dataset": (
        "datasets/CIRR/captions",
        "datasets/CIRR/image_splits",
        lambda s: "datasets/CIRR/images",
        ".",
    ),
    "flat": ("mine/cirr", "mine/cirr", lambda s: "mine/cirr", "mine"),
    "plain": ("cirr/captions", "cirr/image_splits", lambda s: "cirr", "."),
}


def write(base: Path, layout: str = "plain", found: Annotations | None = None, pictures: bool = False) -> Path:
    """Write the annotations in a layout; the data root that a user would give."""
    captions, lists, roots, data_root = LAYOUTS[layout]
    for number, (split, (entries, images)) in enumerate((found or annotations()).items()):
        for folder, name, content in (
            (captions, f"cap.rc2.{split}", entries),
            (lists, f"split.rc2.{split}", images),
        ):
            (base / folder).mkdir(parents=True, exist_ok=True)
            (base / folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        if pictures:
            for i, path in enumerate(images.values()):
                file = base / roots(split) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (2, 2), (number, i, 7)).save(file)
    return base / data_root


def load(data_root: Path, splits: tuple[str, ...] = SPLITS) -> cirr.CIRR:
    return cirr.load(locate_root(cirr.INFO, cirr.LAYOUTS, data_root), splits=splits)


def refusal(tmp_path: Path, found: Annotations, split: str = "val") -> str:
    """The one-line error that wrong annotations give."""
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, found={split: found[split]}), (split,))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_declared_for_the_registry_and_keeps_the_contract(tmp_path: Path) -> None:
    assert discover().datasets()["cirr"] == cirr.INFO
    assert isinstance(load(write(tmp_path)), Dataset)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_dataset_and_finds_every_picture(tmp_path: Path, layout: str) -> None:
    dataset = load(write(tmp_path / "a", layout, pictures=True))
    plain = load(write(tmp_path / "b"))
    assert dataset.pictures.names == plain.pictures.names
    assert dataset.fingerprint == plain.fingerprint
    assert cirr.present_splits(dataset.root) == SPLITS
    for split in SPLITS:
        require_pictures(dataset, dataset.split_pictures(split))
    for name, path in zip(dataset.pictures.names, dataset.pictures.paths, strict=True):
        assert path.stem == name


@pytest.mark.parametrize("split", ["val", "test1"])
def test_a_task_is_what_the_annotations_say(tmp_path: Path, split: str) -> None:
    entries, images = annotations()[split]
    dataset = load(write(tmp_path))
    (task,) = dataset.tasks(split, "official", "as-is")
    queries, order, names = task.queries, list(images), dataset.pictures.names
    assert str(task.key) == f"cirr · {split} · official · single"
    assert task.exclude_reference
    assert task.labelled == (split == "val")
    assert (task.cutoffs, task.subset_cutoffs) == ((1, 5, 10, 50), (1, 2, 3))
    assert [names[i] for i in task.gallery] == order
    assert len(queries) == len(entries) == 17
    for i, entry in enumerate(entries):
        assert queries.ids[i] == str(entry["pairid"])
        assert queries.texts[i] == entry["caption"]
        assert queries.reference_in_gallery[i] == order.index(entry["reference"])
        assert names[queries.reference_picture[i]] == entry["reference"]
        assert queries.group[i] == entry["img_set"]["id"]
        assert queries.subset is not None
        assert queries.subset[i].tolist() == [order.index(name) for name in entry["img_set"]["members"]]
        wanted = [order.index(entry["target_hard"])] if split == "val" else []
        assert queries.positives[i].tolist() == wanted


def test_training_is_static_and_its_pictures_come_first(tmp_path: Path) -> None:
    entries, images = annotations()["train"]
    dataset = load(write(tmp_path))
    triplets = dataset.train_triplets(epoch=3, seed=5, pair_sampling="any")
    names = dataset.pictures.names
    assert names[: len(images)] == tuple(images)
    assert len(names) == 3 * len(images)
    assert [names[i] for i in triplets.reference_picture] == [entry["reference"] for entry in entries]
    assert [names[i] for i in triplets.target_picture] == [entry["target_hard"] for entry in entries]
    assert triplets.captions == dataset.training_texts() == tuple((entry["caption"],) for entry in entries)
    used = {entry[key] for entry in entries for key in ("reference", "target_hard")}
    assert [names[i] for i in dataset.split_pictures("train")] == [name for name in images if name in used]


def test_a_split_does_not_depend_on_which_others_were_read(tmp_path: Path) -> None:
    root = write(tmp_path)
    alone, all_splits = load(root, ("val",)), load(root, ("test1", "val", "train"))
    for dataset in (alone, all_splits):
        names = [dataset.pictures.names[i] for i in dataset.split_pictures("val")]
        assert names == list(annotations()["val"][1])
    one, other = (d.tasks("val", "official", "as-is")[0].queries for d in (alone, all_splits))
    np.testing.assert_array_equal(one.reference_in_gallery, other.reference_in_gallery)
    np.testing.assert_array_equal(one.positives.values, other.positives.values)


def test_ranks_and_soft_targets_are_ignored(tmp_path: Path) -> None:
    found = annotations()
    plain = load(write(tmp_path / "a", found=found)).tasks("val", "official", "as-is")[0].queries
    for entry in found["val"][0]:
        entry["img_set"] |= {"reference_rank": 99, "target_rank": None}
        entry["target_soft"] = "nonsense"
    other = load(write(tmp_path / "b", found=found)).tasks("val", "official", "as-is")[0].queries
    np.testing.assert_array_equal(plain.positives.values, other.positives.values)
    np.testing.assert_array_equal(plain.subset, other.subset)


def test_a_picture_that_two_splits_list_stands_in_the_table_once(tmp_path: Path) -> None:
    found = annotations()
    name, path = next(iter(found["val"][1].items()))
    found["train"][1][name] = path
    dataset = load(write(tmp_path / "a", found=found))
    assert dataset.pictures.names.count(name) == 1
    (task,) = dataset.tasks("val", "official", "as-is")
    assert [dataset.pictures.names[i] for i in task.gallery] == list(found["val"][1])
    found["train"][1][name] = "./train/other.png"
    with pytest.raises(UserError, match="another split's list"):
        load(write(tmp_path / "b", found=found))


def test_only_splits_asked_for_need_their_files(tmp_path: Path) -> None:
    root = write(tmp_path, found={"val": annotations()["val"]})
    dataset = load(root, ("val",))
    assert cirr.present_splits(dataset.root) == ("val",)
    assert [file.found for file in dataset.annotation_files()] == [False, False, True, True, False, False]
    with pytest.raises(UserError) as caught:
        load(root, ("val", "test1"))
    message = str(caught.value).split("\n")
    assert "cap.rc2.test1.json: no such file; split test1 is read from it" in message[0]
    assert "split.rc2.test1.json: no such file" in message[1]
    assert cirr.INFO.obtain in message[1]
    with pytest.raises(UserError, match="split test1 of cirr was not read; read: val"):
        dataset.tasks("test1", "official", "as-is")


def test_names_that_are_unknown_are_refused(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    with pytest.raises(UserError, match="did you mean official"):
        dataset.tasks("val", "oficial", "as-is")
    with pytest.raises(UserError, match="did you mean test1"):
        dataset.tasks("test", "official", "as-is")
    with pytest.raises(UserError, match="defined for val and test1, not for train"):
        dataset.tasks("train", "official", "as-is")
    with pytest.raises(UserError, match="gives mode joined"):
        dataset.tasks("val", "official", "joined")
    with pytest.raises(UserError, match="did you mean val"):
        load(tmp_path, ("vall",))


def test_no_data_there_names_the_file_and_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(tmp_path), "captions/cap.rc2.val.json", "cirr_dataset", "(CoVR)", "lil.nlp.cornell.edu"):
        assert word in message


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda entry: entry.pop(key)


def change(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda entry: entry.update(values)


def change_set(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda entry: entry["img_set"].update(values)


def repeat_member(entry: dict[str, Any]) -> None:
    members = entry["img_set"]["members"]
    spare = [m for m in members if m not in (entry["reference"], entry["target_hard"])]
    members[members.index(spare[0])] = spare[1]


def leave_out(key: str) -> Callable[[dict[str, Any]], object]:
    """Replace a member by a picture of another set."""

    def apply(entry: dict[str, Any]) -> None:
        members = entry["img_set"]["members"]
        others = (name for name in annotations()["val"][1] if name not in members)
        members[members.index(entry[key])] = next(others)

    return apply


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (drop("pairid"), "key 'pairid' is missing"),
        (drop("reference"), "key 'reference' is missing"),
        (drop("target_hard"), "key 'target_hard' is missing"),
        (drop("caption"), "key 'caption' is missing"),
        (drop("img_set"), "key 'img_set' is missing"),
        (change(pairid="7"), "'pairid' is '7', not a whole number"),
        (change(caption=None), "'caption' is None, not a text"),
        (change(img_set=[]), "'img_set' is [], not an object"),
        (change_set(id=None), "img_set.id is None, not a whole number"),
        (change_set(members=None), "img_set.members is not a list of names"),
        (change_set(members=[1, 2, 3, 4, 5, 6]), "img_set.members is not a list of names"),
        (repeat_member, "img_set.members has 6 names, 5 different, not 6"),
        (leave_out("reference"), "is not among img_set.members"),
        (leave_out("target_hard"), "is not among img_set.members"),
        (lambda entry: entry.update(target_hard=entry["reference"]), "reference and target_hard are both"),
    ],
)
def test_a_wrong_entry_is_one_line_with_file_and_entry(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object], word: str
) -> None:
    found = annotations()
    spoil(found["val"][0][4])
    message = refusal(tmp_path, found)
    assert message.startswith(str(tmp_path / "cirr/captions/cap.rc2.val.json"))
    assert "entry 4" in message
    assert word in message
    assert cirr.INFO.obtain in message


def test_a_repeated_pairid_names_the_first(tmp_path: Path) -> None:
    found = annotations()
    found["val"][0][9]["pairid"] = first = found["val"][0][2]["pairid"]
    assert f"entry 9 (pairid {first}): the same pairid as entry 2" in refusal(tmp_path, found)


def test_a_name_that_is_not_listed_is_told_for_every_role(tmp_path: Path) -> None:
    found = annotations()
    entries, images = found["val"]
    gone = [entries[0]["target_hard"], entries[-1]["reference"]]
    for name in gone:
        del images[name]
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, found={"val": found["val"]}), ("val",))
    lines = str(caught.value).split("\n")
    named = [[e["reference"], e["target_hard"], *e["img_set"]["members"]] for e in entries]
    wanted = sum(names.count(name) for names in named for name in gone)
    assert f"target_hard '{gone[0]}' is not in the image list" in lines[0]
    assert wanted > 10
    assert f"{wanted} problems in all, the first 10 are shown" in lines[-1]


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/etc/x.png", "is absolute"),
        ("./dev/../../x.png", "'..'"),
        ("", "names no file"),
        (3, "the path is 3, not a text"),
    ],
)
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, path: object, word: str) -> None:
    found = annotations()
    found["train"] = ([], {})
    images: dict[str, Any] = found["val"][1]
    images["dev-spare"] = path
    message = refusal(tmp_path, found)
    assert message.startswith(str(tmp_path / "cirr/image_splits/split.rc2.val.json"))
    assert "entry 18 (dev-spare)" in message
    assert word in message


@pytest.mark.parametrize("name", ["captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (lambda text: text[: len(text) // 2], "the file may be truncated"),
        (lambda text: "7", "must be a JSON"),
        (lambda text: "", "not valid JSON"),
        (lambda text: text.replace("dev", "d\xe9v"), "not UTF-8"),
    ],
)
def test_truncated_and_foreign_files_are_one_line(
    tmp_path: Path, name: str, content: Callable[[str], str], word: str
) -> None:
    root = write(tmp_path)
    file = tmp_path / "cirr" / name
    file.write_bytes(content(file.read_text(encoding="utf-8")).encode("latin-1"))
    with pytest.raises(UserError) as caught:
        load(root, ("val",))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(file))
    assert word in message


def test_problems_of_all_files_come_in_one_go(tmp_path: Path) -> None:
    found = annotations()
    del found["train"][0][1]["caption"]
    del found["val"][0][2]["caption"]
    found["test1"][0][3]["reference"] = "nobody"
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, found=found))
    message = str(caught.value)
    assert "cap.rc2.train.json: entry 1" in message
    assert "cap.rc2.val.json: entry 2" in message
    assert "reference 'nobody' is not in the image list" in message


def test_counts_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    dataset = load(write(tmp_path), ("train", "val"))
    assert (dataset.label, dataset.is_official, dataset.is_demo) == ("cirr", True, False)
    found = {(c.split, c.what): (c.found, c.expected) for c in dataset.counts()}
    assert found == {
        ("train", "triplets"): (17, 28_225),
        ("train", "pictures"): (18, 16_939),
        ("val", "queries"): (17, 4_181),
        ("val", "gallery"): (18, 2_297),
        ("val", "sets"): (3, 503),
    }
    with pytest.raises(UserError, match="val has 17 queries, 4,181 are published"):
        require_counts(dataset)


@pytest.mark.parametrize("layout", ["plain", "clip4cir", "dqu-cir folder"])
def test_a_manifest_names_the_folder_and_its_counts(tmp_path: Path, layout: str) -> None:
    data_root = write(tmp_path, layout)
    root = locate_root(cirr.INFO, cirr.LAYOUTS, data_root)
    (root / "dataset.json").write_text(json.dumps({"name": "mine", "drawn": True, "counts": COUNTS}))
    dataset = load(data_root)
    assert (dataset.label, dataset.is_official, dataset.is_demo) == ("mine", False, True)
    assert str(dataset.tasks("val", "official", "as-is")[0].key) == "mine · val · official · single"
    require_counts(dataset)
    assert {c.expected for c in dataset.counts() if c.split == "test1"} == {None}
    other = {"name": "mine", "counts": {"val": {"gallery": 19}}}
    (root / "dataset.json").write_text(json.dumps(other))
    (problem,) = count_problems(load(data_root))
    assert "val has 18 gallery, 19 are stated in dataset.json" in problem


def test_missing_and_empty_pictures_stop_what_needs_them_only(tmp_path: Path) -> None:
    root = write(tmp_path, pictures=True)
    (gone, empty, *_) = (tmp_path / "cirr/test1").iterdir()
    gone.unlink()
    empty.write_bytes(b"")
    dataset = load(root)
    require_pictures(dataset, dataset.split_pictures("val"))
    with pytest.raises(UserError) as caught:
        require_pictures(dataset, dataset.split_pictures("test1"))
    assert f"{gone}: no such picture" in str(caught.value)
    assert f"{empty}: the picture is empty" in str(caught.value)
    assert "2 of 18 pictures needed are missing or empty" in str(caught.value)


def test_the_criterion_is_spirits(tmp_path: Path) -> None:
    name, value = load(write(tmp_path)).criterion({"": {"R@1": 1.0, "R@5": 60.0, "R_subset@1": 30.0}})
    assert (name, value) == ("(R@5 + R_subset@1)/2", 45.0)


def test_the_folder_is_verified_whole(tmp_path: Path) -> None:
    data_root = write(tmp_path, pictures=True)
    (tmp_path / "cirr/dataset.json").write_text(json.dumps({"name": "mine", "counts": COUNTS}))
    found = verify(load(data_root), workers=2)
    assert found.ok, found.as_table()
    assert [(row.split, row.queries, row.gallery) for row in found.rows] == [
        ("train", 17, 0),
        ("val", 17, 18),
        ("test1", 17, 18),
    ]
    assert all(file.found for file in found.files)
    assert not found.shared


def test_a_split_that_is_half_there_fails_and_hides_no_other(tmp_path: Path) -> None:
    data_root = write(tmp_path, pictures=True)
    (tmp_path / "cirr/dataset.json").write_text(json.dumps({"name": "mine", "counts": COUNTS}))
    (tmp_path / "cirr/image_splits/split.rc2.test1.json").unlink()
    found = verify_folder(discover(), "cirr", data_root)
    assert not found.ok
    assert [row.split for row in found.rows] == ["train", "val"]
    assert [file.path.name for file in found.half_there] == ["split.rc2.test1.json"]
    for split in ("train", "val"):
        (tmp_path / f"cirr/image_splits/split.rc2.{split}.json").unlink()
    found = verify_folder(discover(), "cirr", data_root)
    assert not found.ok
    assert not found.rows
    assert len(found.half_there) == 3
    assert "split.rc2.val.json: no such file" in found.as_table()
