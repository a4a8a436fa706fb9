"""FashionIQ's loader on a cut of the real annotations, in every layout in circulation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark.datasets import fashioniq
from PIL import Image

from benchmark.data.annotated import count_problems, require_counts
from benchmark.data.folders import locate_root, require_pictures
from benchmark.data.partial import without_missing
from benchmark.data.verification import verify, verify_folder
from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.registry import discover
from benchmark.text_rules import text_rule

CUT = Path(__file__).resolve().parents[1] / "data" / "fashioniq_cut"
SPLITS = ("train", "val", "test")
CATEGORIES = ("dress", "shirt", "toptee")
PROTOCOLS = ("original", "original-noref", "val", "val-noref")

Annotations = dict[tuple[str, str], tuple[list[dict[str, Any]], list[str]]]


def annotations() -> Annotations:
    """Entries and image list by category and split: dress and shirt are the cut, toptee is made from shirt.

    One picture of every list of shirt keeps its name, so that it belongs to two categories.
    """
    found: Annotations = {}
    for split in SPLITS:
        for category in ("dress", "shirt"):
            found[category, split] = (
                json.loads((CUT / f"captions/cap.{category}.{split}.json").read_text(encoding="utf-8")),
                json.loads((CUT / f"image_splits/split.{category}.{split}.json").read_text(encoding="utf-8")),
            )
        entries, names = found["shirt", split]
        renamed = {name: name if i == 0 else f"T{name[1:]}" for i, name in enumerate(names)}
        keys = [key for key in ("candidate", "target") if key in entries[0]]
        tops = [{**entry, **{key: renamed[entry[key]] for key in keys}} for entry in entries]
        found["toptee", split] = tops, list(renamed.values())
    return found


# name → (captions folder, image list folder, folder of a picture by category, ending, data root as a user gives it)
LAYOUTS: dict[str, tuple[str, str, Callable[[str], str], str, str]] = {
    "official": ("fashion-iq/captions", "fashion-iq/image_splits", lambda c: "fashion-iq/images", ".jpg", "."),
    "clip4cir": ("fashionIQ_dataset/captions", "fashionIQ_dataset/image_splits",
                 lambda c: "fashionIQ_dataset/images", ".png", "."),
    "inner": ("x/captions", "x/image_splits", lambda c: "x/images", ".jpeg", "x"),
    "pic2word": ("fashion-iq/json", "fashion-iq/image_splits", lambda c: "fashion-iq/images", ".png", "."),
    "covr": ("annotation/fashion-iq", "annotation/fashion-iq", lambda c: "datasets/fashion-iq/images", ".png", "."),
    "covr inner": ("annotation/fashion-iq", "annotation/fashion-iq",
                   lambda c: "datasets/fashion-iq/images", ".png", "annotation"),
    "dqu-cir": ("FashionIQ/captions", "FashionIQ/image_splits",
                lambda c: f"FashionIQ/resized_image/{c}", ".jpg", "."),
    "val": ("fashion_iq/captions", "fashion_iq/image_splits", lambda c: f"fashion_iq/image_data/{c}", ".JPG", "."),
    "by category": ("fashionIQ/captions", "fashionIQ/image_splits",
                    lambda c: f"fashionIQ/images/{c}", ".jpg", "."),
    "img": ("y/captions", "y/image_splits", lambda c: "y/img", ".jpg", "y"),
    "resized": ("y/captions", "y/image_splits", lambda c: "y/resized_images", ".jpg", "y"),
    "flat": ("y", "y", lambda c: "y", ".jpg", "y"),
    "elsewhere": ("y/captions", "y/image_splits", lambda c: "y/pictures/all of them", ".png", "y"),
}


def write(base: Path, layout: str = "official", found: Annotations | None = None, pictures: bool = False) -> Path:
    """Write the annotations in a layout; the data root that a user would give."""
    captions, lists, pictured, ending, data_root = LAYOUTS[layout]
    for (category, split), (entries, names) in (found or annotations()).items():
        for folder, name, content in ((captions, "cap", entries), (lists, "split", names)):
            (base / folder).mkdir(parents=True, exist_ok=True)
            (base / folder / f"{name}.{category}.{split}.json").write_text(json.dumps(content), encoding="utf-8")
        for i, name in enumerate(names if pictures else []):
            path = base / pictured(category) / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (3, 2 + i % 3), (CATEGORIES.index(category), SPLITS.index(split), i)).save(path)
    return base / data_root


def load(data_root: Path, splits: tuple[str, ...] = SPLITS) -> fashioniq.FashionIQ:
    return fashioniq.load(locate_root(fashioniq.INFO, fashioniq.LAYOUTS, data_root), splits=splits)


def own(root: Path, **manifest: object) -> None:
    (root / "fashion-iq/dataset.json").write_text(json.dumps({"name": "mine", **manifest}), encoding="utf-8")


def refusal(tmp_path: Path, found: Annotations, splits: tuple[str, ...] = ("val",)) -> str:
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, found=found), splits)
    return str(caught.value)


def test_it_is_declared_for_the_registry_and_keeps_the_contract(tmp_path: Path) -> None:
    assert discover().datasets()["fashioniq"] == fashioniq.INFO
    assert isinstance(load(write(tmp_path)), Dataset)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_dataset_and_finds_every_picture(tmp_path: Path, layout: str) -> None:
    dataset = load(write(tmp_path / "a", layout, pictures=True))
    plain = load(write(tmp_path / "b"))
    assert dataset.pictures.names == plain.pictures.names
    assert dataset.fingerprint == plain.fingerprint
    assert fashioniq.present_splits(dataset.root) == SPLITS
    for split in SPLITS:
        require_pictures(dataset, dataset.split_pictures(split))
    for name, path in zip(dataset.pictures.names, dataset.pictures.paths, strict=True):
        assert path.stem == name


def expected_texts(captions: list[str], rule: str) -> list[str]:
    """The texts of an entry, written anew from the papers' releases."""
    if rule == "per-caption":
        cut = [caption.split(";", 1)[0].strip() for caption in captions]
        for sign, word in ((".", "dotmark"), ("?", "questionmark"), ("&", "andmark"), ("*", "starmark")):
            cut = [caption.replace(sign, word) for caption in cut]
        return [caption for caption in cut if caption]
    one, two = captions
    if rule == "file-order":
        return [one + " <and> " + two]
    if rule == "both-orders":
        return [one + " <and> " + two, two + " <and> " + one]
    one, two = one.strip(".?, "), two.strip(".?, ")
    return [one[:1].upper() + one[1:].lower() + " and " + two]


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("rule", ["joined", "per-caption", "both-orders", "file-order"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_task_is_what_the_annotations_say(tmp_path: Path, split: str, rule: str, protocol: str) -> None:
    dataset = load(write(tmp_path))
    if split == "test" and protocol.startswith("val"):
        with pytest.raises(UserError, match="defined for val, not for test"):
            dataset.tasks(split, protocol, rule)
        return
    found, names = annotations(), dataset.pictures.names
    tasks = dataset.tasks(split, protocol, rule)
    assert [task.key.category for task in tasks] == list(CATEGORIES)
    for task in tasks:
        entries, listed = found[task.key.category, split]
        if protocol.startswith("val"):
            used = {entry[key] for entry in entries for key in ("candidate", "target")}
            assert len(used) < len(listed)
            listed = [name for name in listed if name in used]
        assert str(task.key) == f"fashioniq · {split} · {protocol} · {text_rule(rule).mode} · {task.key.category}"
        assert [names[i] for i in task.gallery] == listed
        assert task.cutoffs == (10, 50)
        assert task.exclude_reference == protocol.endswith("noref")
        assert task.labelled == (split == "val")
        rows = []
        for line, entry in enumerate(entries):
            texts = expected_texts(entry["captions"], rule)
            for i, text in enumerate(texts):
                name = f"{task.key.category}/{line}" + (f"/{i}" if len(texts) == 2 else "")
                rows.append((name, text, entry["candidate"], entry.get("target")))
        queries = task.queries
        assert queries.ids == tuple(row[0] for row in rows)
        assert len(set(queries.ids)) == len(rows)
        assert queries.texts == tuple(row[1] for row in rows)
        assert [listed[i] for i in queries.reference_in_gallery] == [row[2] for row in rows]
        assert [names[i] for i in queries.reference_picture] == [row[2] for row in rows]
        answers = [[listed[j] for j in queries.positives[i]] for i in range(len(rows))]
        assert answers == [[row[3]] if split == "val" else [] for row in rows]
        same = [[a[2] == b[2] for b in rows] for a in rows]
        assert (queries.group[:, None] == queries.group[None, :]).tolist() == same


def test_texts_checked_by_hand(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    of = {rule: dataset.tasks("val", "original", rule) for rule in ("joined", "per-caption", "both-orders")}
    dress, shirt = (of["joined"][i].queries for i in (0, 1))
    assert dress.texts[2] == "Is a plain white feminine t shirt and is a tan shirt"
    assert shirt.texts[4] == "Is blue with sea turtles and Desired item is dark blue with sea creatures pictured"
    assert shirt.texts[7] == " and is grey with a design on the back"
    assert of["per-caption"][1].queries.texts[-1] == "is grey with a design on the back"
    assert of["per-caption"][1].queries.ids[-2:] == ("shirt/6/1", "shirt/7")
    assert of["per-caption"][0].queries.texts[5] == "is a tan shirtdotmark"
    assert of["both-orders"][1].queries.ids[-2:] == ("shirt/7/0", "shirt/7/1")
    assert of["both-orders"][1].queries.texts[-1] == "is grey with a design on the back <and> "
    assert [len(task.queries) for task in of["per-caption"]] == [16, 15, 15]
    assert [len(task.queries) for task in of["both-orders"]] == [16, 16, 16]


def test_a_caption_that_is_empty_comes_second_as_well() -> None:
    joined = text_rule("joined")
    assert joined.queries(("is Long. ", "")) == ("Is long and ",)
    assert joined.queries(("", "")) == (" and ",)
    assert text_rule("per-caption").queries((" ", "; only an aside")) == ()
    assert text_rule("per-caption").entries(("short & red; ok", "why?")) == (
        ("short andmark red",),
        ("whyquestionmark",),
    )


def test_training_takes_all_categories_together(tmp_path: Path) -> None:
    found = annotations()
    dataset = load(write(tmp_path))
    triplets = dataset.train_triplets(epoch=3, seed=5, pair_sampling="any")
    names = dataset.pictures.names
    entries = [entry for category in CATEGORIES for entry in found[category, "train"][0]]
    assert [names[i] for i in triplets.reference_picture] == [entry["candidate"] for entry in entries]
    assert [names[i] for i in triplets.target_picture] == [entry["target"] for entry in entries]
    assert triplets.captions == dataset.training_texts() == tuple(tuple(e["captions"]) for e in entries)
    used = {entry[key] for entry in entries for key in ("candidate", "target")}
    listed = dict.fromkeys(name for c in CATEGORIES for name in found[c, "train"][1])
    assert set(names[i] for i in dataset.split_pictures("train")) == used < set(listed)
    assert not dataset.side_texts()


def test_a_split_does_not_depend_on_which_others_were_read(tmp_path: Path) -> None:
    root, found = write(tmp_path), annotations()
    one, other = load(root, ("val",)), load(root, ("test", "val", "train"))
    listed = list(dict.fromkeys(name for category in CATEGORIES for name in found[category, "val"][1]))
    for dataset in (one, other):
        assert [dataset.pictures.names[i] for i in dataset.split_pictures("val")] == listed
    for a, b in zip(*(d.tasks("val", "val", "joined") for d in (one, other)), strict=True):
        assert a.queries.reference_in_gallery.tolist() == b.queries.reference_in_gallery.tolist()
        assert a.queries.group.tolist() == b.queries.group.tolist()


def test_a_picture_of_two_categories_is_one_picture(tmp_path: Path) -> None:
    found = annotations()
    dataset = load(write(tmp_path))
    shared = found["shirt", "val"][1][0]
    assert dataset.pictures.names.count(shared) == 1
    shirt, toptee = dataset.tasks("val", "original", "joined")[1:]
    assert shirt.gallery[0] == toptee.gallery[0] == dataset.pictures.names.index(shared)
    both = sum(len(found[category, "val"][1]) for category in CATEGORIES) - 1
    assert len(dataset.split_pictures("val")) == both


@pytest.mark.parametrize("kept", ["captions", "image_splits", "neither"])
def test_a_missing_category_is_named(tmp_path: Path, kept: str) -> None:
    root = write(tmp_path)
    for folder, name in (("captions", "cap"), ("image_splits", "split")):
        if folder != kept:
            (tmp_path / f"fashion-iq/{folder}/{name}.toptee.val.json").unlink()
    with pytest.raises(UserError, match="no such file; category toptee of split val is read from it") as caught:
        load(root)
    assert str(caught.value).count("no such file") == (2 if kept == "neither" else 1)
    assert fashioniq.INFO.obtain in str(caught.value)
    assert fashioniq.present_splits(root / "fashion-iq") == ("train", "test")
    some = fashioniq.load(root / "fashion-iq", splits=("val",), categories=("dress", "shirt"))
    assert [task.key.category for task in some.tasks("val", "val", "joined")] == ["dress", "shirt"]


def test_own_data_may_have_fewer_categories(tmp_path: Path) -> None:
    root = write(tmp_path, found={key: value for key, value in annotations().items() if key[0] == "shirt"})
    own(root, counts={"val": {"shirt queries": 8, "shirt gallery": 20, "shirt VAL gallery": 14}})
    dataset = load(root)
    assert (dataset.label, dataset.is_official) == ("mine", False)
    assert [str(task.key) for task in dataset.tasks("val", "original", "joined")] == [
        "mine · val · original · joined · shirt"
    ]
    require_counts(dataset)
    (tmp_path / "fashion-iq/image_splits/split.shirt.val.json").unlink()
    with pytest.raises(UserError, match=r"split\.shirt\.val\.json: no such file"):
        load(root)


def test_names_that_are_unknown_are_refused(tmp_path: Path) -> None:
    dataset = load(write(tmp_path), ("val",))
    for arguments, word in (
        (("val", "orginal", "joined"), "did you mean original"),
        (("vall", "original", "joined"), "did you mean val"),
        (("train", "original", "joined"), "defined for val and test, not for train"),
        (("val", "original", "as-is"), "gives mode single; use joined or per-caption or both-orders or file-order"),
        (("val", "original", "joint"), "did you mean joined"),
        (("test", "original", "joined"), "split test of fashioniq was not read; read: val"),
    ):
        with pytest.raises(UserError, match=word):
            dataset.tasks(*arguments)
    with pytest.raises(UserError, match="did you mean val"):
        load(tmp_path, ("vall",))
    with pytest.raises(UserError, match="did you mean dress"):
        fashioniq.load(tmp_path / "fashion-iq", splits=("val",), categories=("dresses",))


def test_no_data_there_names_the_file_and_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "cap.all.val.json").write_text("[]")
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    for word in (str(tmp_path), "captions/cap.dress.val.json", "fashionIQ_dataset", "(Pic2Word)", "issue 18"):
        assert word in str(caught.value)


def test_the_files_of_all_categories_at_once_are_ignored(tmp_path: Path) -> None:
    root = write(tmp_path, "covr")
    plain = load(root).fingerprint
    (root / "annotation/fashion-iq/cap.all.val.json").write_text("not even JSON")
    assert load(root).fingerprint == plain


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda entry: entry.pop(key)


def change(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda entry: entry.update(values)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (drop("target"), "key 'target' is missing"),
        (drop("candidate"), "key 'candidate' is missing"),
        (drop("captions"), "key 'captions' is missing"),
        (change(target=7), "'target' is 7, not a text"),
        (change(captions="is green"), "'captions' is 'is green', not a list"),
        (change(captions=["is green"]), "'captions' is ['is green'], not a list of 2 texts"),
        (change(captions=["a", "b", "c"]), "not a list of 2 texts"),
        (change(captions=["is green", None]), "not a list of 2 texts"),
        (change(candidate="B00NOBODY0"), "candidate 'B00NOBODY0' is not in the image list"),
        (change(target="../../etc/passwd"), "target '../../etc/passwd' is not in the image list"),
        (lambda entry: entry.update(target=entry["candidate"]), "candidate and target are both"),
    ],
)
def test_a_wrong_entry_is_one_line_with_file_and_entry(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object], word: str
) -> None:
    found = annotations()
    spoil(found["shirt", "val"][0][4])
    message = refusal(tmp_path, found)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path}/fashion-iq/captions/cap.shirt.val.json: entry 4: ")
    assert word in message
    assert fashioniq.INFO.obtain in message


def test_a_repeated_pair_names_the_first(tmp_path: Path) -> None:
    found = annotations()
    entries = found["dress", "val"][0]
    entries[6] |= {key: entries[1][key] for key in ("candidate", "target")}
    assert "entry 6: the same candidate and target as entry 1" in refusal(tmp_path, found)
    test = annotations()
    test["dress", "test"][0].append(dict(test["dress", "test"][0][0]))
    assert len(load(write(tmp_path / "b", found=test)).tasks("test", "original", "joined")[0].queries) == 5


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("/etc/passwd", "is absolute"),
        ("../B00006M009", "'..'"),
        ("a/B00006M009", "a plain name is expected"),
        ("", "names no file"),
        (6009, "the name is 6009, not a text"),
        (None, "the name is None, not a text"),
    ],
)
def test_names_that_are_no_names_are_refused(tmp_path: Path, name: object, word: str) -> None:
    found = annotations()
    names: list[Any] = found["toptee", "val"][1]
    names.append(name)
    message = refusal(tmp_path, found)
    assert message.startswith(f"{tmp_path}/fashion-iq/image_splits/split.toptee.val.json: entry 20: ")
    assert word in message


def test_a_name_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    found = annotations()
    found["dress", "val"][1].append(found["dress", "val"][1][3])
    assert "entry 20: 'B" in (message := refusal(tmp_path, found))
    assert "is entry 3 already" in message


def test_names_stay_texts_and_keep_their_pictures(tmp_path: Path) -> None:
    """Spreadsheets and loose parsers turn the first into a number, the second into nothing."""
    found = annotations()
    found["dress", "val"][1].extend(["0006009", "null", "1e5"])
    dataset = load(write(tmp_path, found=found, pictures=True))
    for name in ("0006009", "null", "1e5"):
        assert dataset.pictures.paths[dataset.pictures.names.index(name)].name == f"{name}.jpg"


@pytest.mark.parametrize("name", ["captions/cap.dress.val.json", "image_splits/split.dress.val.json"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (lambda text: text[: len(text) // 2], "the file may be truncated"),
        (lambda text: "{}", "must be a JSON list"),
        (lambda text: "[]", "must be a JSON list"),
        (lambda text: "", "not valid JSON"),
        (lambda text: text.replace("B0", "\xe90"), "not UTF-8"),
    ],
)
def test_truncated_and_foreign_files_are_one_line(
    tmp_path: Path, name: str, content: Callable[[str], str], word: str
) -> None:
    root = write(tmp_path)
    file = tmp_path / "fashion-iq" / name
    file.write_bytes(content(file.read_text(encoding="utf-8")).encode("latin-1"))
    with pytest.raises(UserError) as caught:
        load(root, ("val",))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(file))
    assert word in str(caught.value)


def test_foreign_line_ends_are_read(tmp_path: Path) -> None:
    root = write(tmp_path)
    plain = load(root).tasks("val", "original", "joined")[0].queries
    for file in tmp_path.rglob("*.json"):
        text = json.dumps(json.loads(file.read_text()), indent=1)
        file.write_bytes(text.replace("\n", "\r\n").encode())
    assert load(root).tasks("val", "original", "joined")[0].queries.texts == plain.texts


def test_problems_of_all_files_come_in_one_go(tmp_path: Path) -> None:
    found = annotations()
    del found["dress", "train"][0][1]["captions"]
    del found["shirt", "val"][0][2]["target"]
    found["toptee", "test"][0][3]["candidate"] = "nobody"
    message = refusal(tmp_path, found, SPLITS)
    assert len(message.split("\n")) == 3
    for word in ("cap.dress.train.json: entry 1", "cap.shirt.val.json: entry 2", "cap.toptee.test.json: entry 3"):
        assert word in message


def test_counts_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    found = {(c.split, c.what): (c.found, c.expected) for c in dataset.counts()}
    assert found["val", "shirt queries"] == (8, 2_038)
    assert found["val", "shirt VAL gallery"] == (14, 3_089)
    assert found["val", "shirt per-caption queries"] == (15, 4_075)
    assert found["train", "dress per-caption triplets"] == (14, 11_970)
    assert found["test", "toptee gallery"] == (9, 5_374)
    assert len(found) == 3 * (3 + 4 + 2) == len(count_problems(dataset))
    with pytest.raises(UserError, match="val has 8 dress queries, 2,017 are published"):
        require_counts(dataset)


def test_missing_pictures_are_an_error_with_a_count(tmp_path: Path) -> None:
    root, found = write(tmp_path, pictures=True), annotations()
    own(root)
    gone = found["dress", "val"][1][:2]
    for name in gone:
        (tmp_path / f"fashion-iq/images/{name}.jpg").unlink()
    dataset = load(root)
    require_pictures(dataset, dataset.split_pictures("train"))
    with pytest.raises(UserError, match="2 of 59 pictures needed are missing or empty") as caught:
        require_pictures(dataset, dataset.split_pictures("val"))
    assert f"{gone[0]}.jpg: no such picture" in str(caught.value)
    left = without_missing(dataset, ("train", "val"))
    assert getattr(left, "missing", None) == tuple(gone)
    for task in left.tasks("val", "original", "joined"):
        assert task.key.protocol == "original-partial"
        assert any("dress: pictures are missing" in note for note in task.notes)
    assert len(left.tasks("val", "original", "joined")[0].gallery) == 18


def test_of_a_double_the_jpg_is_taken_and_said(tmp_path: Path) -> None:
    root, found = write(tmp_path, pictures=True), annotations()
    name = found["dress", "val"][1][4]
    for ending in (".png", ".jpeg"):
        Image.new("RGB", (5, 5)).save(tmp_path / f"fashion-iq/images/{name}{ending}")
    dataset = load(root)
    assert dataset.pictures.paths[dataset.pictures.names.index(name)].suffix == ".jpg"
    (warning,) = dataset.warnings
    assert f"pictures that are there more than once: 1, {name} first; the .jpg is taken" in warning
    assert warning in dataset.tasks("val", "original", "joined")[0].notes


def test_full_size_pictures_are_not_mixed_with_resized_copies(tmp_path: Path) -> None:
    root, found = write(tmp_path, pictures=True), annotations()
    copies = tmp_path / "fashion-iq/resized_image"
    copies.mkdir()
    for name in found["dress", "val"][1]:
        Image.new("RGB", (2, 2)).save(copies / f"{name}.jpg")
    gone = found["dress", "val"][1][0]
    (tmp_path / f"fashion-iq/images/{gone}.jpg").unlink()
    dataset = load(root)
    assert {path.parent.name for path in dataset.pictures.paths} == {"images"}
    assert not dataset.pictures.paths[dataset.pictures.names.index(gone)].exists()


@pytest.mark.parametrize("drawn", [False, True])
def test_squashed_copies_are_warned_of(tmp_path: Path, drawn: bool) -> None:
    root = write(tmp_path, pictures=True)
    own(root, drawn=drawn)
    assert not load(root).warnings
    for path in tmp_path.rglob("*.jpg"):
        Image.new("RGB", (16, 16)).save(path)
    warnings = load(root).warnings
    assert len(warnings) == (0 if drawn else 1)
    assert drawn or "all looked at are 16x16" in warnings[0]


def test_the_criterion_is_the_mean_over_categories(tmp_path: Path) -> None:
    metrics = {"dress": {"R@10": 10.0, "R@50": 30.0}, "shirt": {"R@10": 20.0, "R@50": 60.0},
               "toptee": {"R@10": 0.0, "R@50": 0.0}}
    name, value = load(write(tmp_path), ("val",)).criterion(metrics)
    assert name == "(R@10 + R@50)/2, mean of the categories"
    assert value == pytest.approx(20.0)


def test_the_folder_is_verified_whole(tmp_path: Path) -> None:
    root = write(tmp_path, pictures=True)
    own(root)
    found = verify(load(root), workers=2)
    assert found.ok, found.as_table()
    rows = [(row.split, row.protocol, row.category, row.queries, row.gallery) for row in found.rows]
    assert rows[0] == ("train", "", "", 21, 0)
    assert ("val", "original", "dress", 8, 20) in rows
    assert ("test", "original-noref", "toptee", 4, 9) in rows
    assert len(rows) == 1 + 3 * (2 * 2 + 2)
    assert len(found.files) == 18


def test_an_incomplete_category_fails_and_hides_no_other_split(tmp_path: Path) -> None:
    root = write(tmp_path, pictures=True)
    (tmp_path / "fashion-iq/captions/cap.toptee.val.json").unlink()
    found = verify_folder(discover(), "fashioniq", root)
    assert not found.ok
    assert {row.split for row in found.rows} == {"train", "test"}
    assert [file.path.name for file in found.half_there] == ["cap.toptee.val.json"]
