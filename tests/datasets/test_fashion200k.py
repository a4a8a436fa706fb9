"""Fashion200k's loader on a small made-up label set in the official layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmark.datasets import fashion200k
from PIL import Image

from benchmark.data.annotated import count_problems, require_counts
from benchmark.data.folders import locate_root, require_pictures
from benchmark.data.verification import verify_folder
from benchmark.dataset import Dataset, Task
from benchmark.errors import UserError
from benchmark.registry import discover

Line = tuple[str, str]
"""A picture's path without `women/` and its description."""

LABELS: dict[str, list[Line]] = {
    # Out of order on purpose: files are read sorted by name, dress before top.
    "top_test": [
        ("tops/blouses/31/31_0.jpeg", "white silk top"),
        ("tops/blouses/31/31_1.jpeg", "white silk top"),
        ("tops/blouses/32/32_0.jpeg", "black silk top"),
    ],
    "dress_test": [
        ("dresses/casual/21/21_0.jpeg", "red dress"),
        ("dresses/casual/21/21_1.jpeg", "red dress"),
        ("dresses/casual/22/22_0.jpeg", "red long dress"),
        ("dresses/casual/23/23_0.jpeg", "  dolce & gabbana* dress. why?  "),
        ("dresses/casual/24/24_0.jpeg", "red dress"),
        ("dresses/casual/25/25_0.jpeg", "robe à fleurs dress"),
    ],
    "jacket_test": [("jackets/coats/41/41_0.jpeg", "wool coat")],
    "pants_test": [("pants/jeans/51/51_0.jpeg", "blue jeans")],
    "skirt_test": [("skirts/mini/61/61_0.jpeg", "blue skirt")],
    "dress_train": [
        ("dresses/casual/1/1_0.jpeg", "red cotton dress"),
        ("dresses/casual/1/1_1.jpeg", "red cotton dress"),
        ("dresses/casual/2/2_0.jpeg", "blue cotton dress"),
        ("dresses/casual/3/3_0.jpeg", "red silk dress"),
        ("dresses/casual/4/4_0.jpeg", "one of a kind"),
    ],
    "jacket_train": [("jackets/coats/5/5_0.jpeg", "wool coat")],
    "pants_train": [("pants/jeans/6/6_0.jpeg", "blue jeans")],
    "skirt_train": [("skirts/mini/7/7_0.jpeg", "blue & white skirt")],
    "top_train": [("tops/blouses/8/8_0.jpeg", "red cotton top")],
}
# dress 0-5, jacket 6, pants 7, skirt 8, top 9-11
QUERIES = [
    ("dresses/casual/21/21_0.jpeg", "dresses/casual/22/22_0.jpeg"),
    ("dresses/casual/22/22_0.jpeg", "dresses/casual/21/21_1.jpeg"),
    ("tops/blouses/31/31_0.jpeg", "tops/blouses/32/32_0.jpeg"),
    ("tops/blouses/32/32_0.jpeg", "tops/blouses/31/31_1.jpeg"),
    ("dresses/casual/23/23_0.jpeg", "dresses/casual/24/24_0.jpeg"),
    ("dresses/casual/21/21_1.jpeg", "dresses/casual/25/25_0.jpeg"),
]
TEXTS = (
    "replace dress with long",
    "replace long with dress",
    "replace white with black",
    "replace black with white",
    "replace dolce with red",
    "replace red with robe",
)
COUNTS = {"train": {"pictures": 9, "captions": 8, "modifiable": 5}, "test": {"queries": 6, "gallery": 12}}


def label_text(lines: list[Line]) -> str:
    return "".join(f"women/{path}\t-{i}.5\t{caption}\n" for i, (path, caption) in enumerate(lines))


def query_text(pairs: list[tuple[str, str]] = QUERIES) -> str:
    return "".join(f"women/{reference} women/{target}\n" for reference, target in pairs)


def write(root: Path, queries: str = "test_queries.txt", pictures: bool = False) -> Path:
    """Write the made-up set; the root."""
    (root / "labels").mkdir(parents=True)
    for name, lines in LABELS.items():
        (root / f"labels/{name}_detect_all.txt").write_text(label_text(lines), encoding="utf-8")
    (root / queries).write_text(query_text(), encoding="utf-8")
    if pictures:
        for number, path in enumerate(path for lines in LABELS.values() for path, _ in lines):
            file = root / "women" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2), (number, 0, 7)).save(file)
    return root


def load(root: Path, splits: tuple[str, ...] = ("train", "test")) -> fashion200k.Fashion200k:
    return fashion200k.load(locate_root(fashion200k.INFO, fashion200k.LAYOUTS, root), splits=splits)


def lines_of(split: str) -> list[Line]:
    """The label lines of a split in the order of its sorted files, cleaned by hand."""
    by_hand = {
        "  dolce & gabbana* dress. why?  ": "dolce andmark gabbanastarmark dressdotmark whyquestionmark",
        "blue & white skirt": "blue andmark white skirt",
    }
    names = [f"{category}_{split}" for category in ("dress", "jacket", "pants", "skirt", "top")]
    return [(f"women/{path}", by_hand.get(caption, caption)) for name in names for path, caption in LABELS[name]]


def only_task(dataset: fashion200k.Fashion200k, protocol: str) -> Task:
    (task,) = dataset.tasks("test", protocol, "template")
    return task


def refusal(root: Path, splits: tuple[str, ...] = ("train", "test")) -> str:
    with pytest.raises(UserError) as caught:
        load(root, splits)
    return str(caught.value)


def test_it_is_declared_for_the_registry_and_keeps_the_contract(tmp_path: Path) -> None:
    assert discover().datasets()["fashion200k"] == fashion200k.INFO
    assert isinstance(load(write(tmp_path)), Dataset)
    assert (fashion200k.INFO.default_protocol, fashion200k.INFO.evaluation_split) == ("tirg", "test")


@pytest.mark.parametrize("protocol", ["tirg", "spirit"])
def test_a_task_is_what_the_files_say(tmp_path: Path, protocol: str) -> None:
    dataset = load(write(tmp_path))
    task, lines = only_task(dataset, protocol), lines_of("test")
    names = [name for name, _ in lines]
    queries = task.queries
    assert str(task.key) == f"fashion200k · test · {protocol} · template"
    assert task.exclude_reference == (protocol == "tirg")
    assert task.cutoffs == ((1, 10, 50) if protocol == "tirg" else (10, 50))
    assert task.labelled
    assert [dataset.pictures.names[i] for i in task.gallery] == names
    assert queries.ids == ("0", "1", "2", "3", "4", "5")
    assert queries.texts == TEXTS
    for i, (reference, target) in enumerate(QUERIES):
        assert queries.reference_in_gallery[i] == names.index(f"women/{reference}")
        assert dataset.pictures.names[queries.reference_picture[i]] == f"women/{reference}"
        wanted = dict(lines)[f"women/{target}"]
        right = [row for row, (_, caption) in enumerate(lines) if caption == wanted]
        assert queries.positives[i].tolist() == right
        assert queries.reference_in_gallery[i] not in right
    assert queries.positives.sizes().tolist() == [1, 3, 1, 2, 3, 1]
    # Queries 0 and 5 ask about two pictures of product 21.
    assert queries.group[0] == queries.group[5]
    assert len(set(queries.group.tolist())) == 5


def test_spirits_flaw_takes_the_last_picture_with_the_references_caption(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    task, lines = only_task(dataset, "spirit"), lines_of("test")
    assert only_task(dataset, "tirg").queries.feature_picture is None
    assert task.queries.feature_picture is not None
    for i, (reference, _) in enumerate(QUERIES):
        own = dict(lines)[f"women/{reference}"]
        last = [name for name, caption in lines if caption == own][-1]
        assert dataset.pictures.names[task.queries.feature_picture[i]] == last
    assert dataset.pictures.names[task.queries.feature_picture[0]].endswith("24_0.jpeg")
    assert "last picture with its caption" in task.notes[0]


def test_pictures_lie_below_the_root(tmp_path: Path) -> None:
    dataset = load(write(tmp_path / "fashion200k", pictures=True).parent)
    for split in ("train", "test"):
        require_pictures(dataset, dataset.split_pictures(split))
    assert dataset.root == tmp_path / "fashion200k"
    for name, path in zip(dataset.pictures.names, dataset.pictures.paths, strict=True):
        assert path == tmp_path / "fashion200k" / name


def test_training_texts_and_captions_of_pictures_are_the_training_split_s(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    lines = lines_of("train")
    assert dataset.training_texts() == (("replace with",), *((caption,) for _, caption in lines))
    assert dataset.side_texts() == {name: (caption,) for name, caption in lines}


@pytest.mark.parametrize("pair_sampling", ["", "one-per-image", "one-per-modifiable-image", "five-per-image"])
def test_triplets_are_pictures_of_siblings_and_their_text(tmp_path: Path, pair_sampling: str) -> None:
    dataset = load(write(tmp_path))
    captions = dict(lines_of("train"))
    # Siblings through a shared parent; the one skirt, coat, jeans and "one of a kind" have none.
    red, blue, silk, top = "red cotton dress", "blue cotton dress", "red silk dress", "red cotton top"
    expected = {
        (red, blue): "replace red with blue",
        (red, silk): "replace cotton with silk",
        (red, top): "replace dress with top",
    }
    expected |= {
        (blue, red): "replace blue with red",
        (silk, red): "replace silk with cotton",
        (top, red): "replace top with dress",
    }
    triplets = dataset.train_triplets(2, 7, pair_sampling)
    assert len(triplets) == 9 if pair_sampling in ("", "one-per-image") else 2 <= len(triplets) <= 25
    allowed = set(dataset.split_pictures("train").tolist())
    for reference, target, (text,) in zip(triplets.reference_picture, triplets.target_picture, triplets.captions, strict=True):
        pair = tuple(captions[dataset.pictures.names[i]] for i in (reference, target))
        assert expected[pair] == text
        assert {int(reference), int(target)} <= allowed
    assert len(allowed) == 5
    again = dataset.train_triplets(2, 7, pair_sampling)
    np.testing.assert_array_equal(triplets.target_picture, again.target_picture)
    assert triplets.captions == again.captions


def test_only_five_per_image_shows_the_same_pairs_in_every_epoch(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))

    def targets(pair_sampling: str) -> set[tuple[int, ...]]:
        return {tuple(dataset.train_triplets(epoch, 0, pair_sampling).target_picture.tolist()) for epoch in range(5)}

    assert len(targets("five-per-image")) == 1
    assert len(targets("")) > 1
    assert targets("") == targets("one-per-image")
    with pytest.raises(UserError, match="did you mean five-per-image"):
        dataset.train_triplets(0, 0, "five-per-imag")


def test_a_split_does_not_depend_on_which_others_were_read(tmp_path: Path) -> None:
    root = write(tmp_path)
    alone, both = load(root, ("test",)), load(root, ("test", "train"))
    for dataset in (alone, both):
        names = [dataset.pictures.names[i] for i in dataset.split_pictures("test")]
        assert names == [name for name, _ in lines_of("test")]
    one, other = (only_task(dataset, "spirit").queries for dataset in (alone, both))
    np.testing.assert_array_equal(one.reference_in_gallery, other.reference_in_gallery)
    np.testing.assert_array_equal(one.positives.values, other.positives.values)
    with pytest.raises(UserError, match="split train of fashion200k was not read; read: test"):
        alone.train_triplets(0, 0)


def test_a_picture_labelled_twice_is_two_entries_of_the_gallery(tmp_path: Path) -> None:
    """As the released codes count and rank; the later line is the one that queries name."""
    file = write(tmp_path) / "labels/dress_test_detect_all.txt"
    file.write_text(file.read_text() + "women/dresses/casual/22/22_0.jpeg\t-1\tgreen dress\n")
    dataset = load(tmp_path)
    task = only_task(dataset, "tirg")
    assert len(task.gallery) == 13
    assert task.gallery[2] == task.gallery[6]
    assert task.queries.positives[0].tolist() == [6]
    assert task.queries.reference_in_gallery[1] == 6
    assert task.queries.texts[:2] == ("replace red with green", "replace green with red")
    assert len(dataset.split_pictures("test")) == 12
    assert {c.what: c.found for c in dataset.counts() if c.split == "test"}["gallery"] == 13
    assert "1 gallery entries repeat" in task.notes[0]


@pytest.mark.parametrize("ends", ["\r\n", "\r", "\n\n\n"])
def test_foreign_line_ends_and_final_empty_lines_change_nothing(tmp_path: Path, ends: str) -> None:
    plain, foreign = load(write(tmp_path / "a")), write(tmp_path / "b")
    for file in [*(foreign / "labels").iterdir(), foreign / "test_queries.txt"]:
        text = file.read_text(encoding="utf-8")
        other = text + ends if ends == "\n\n\n" else text.replace("\n", ends)
        file.write_bytes(b"\xef\xbb\xbf" + other.encode())
    one, other = only_task(plain, "spirit"), only_task(load(foreign), "spirit")
    assert one.queries.texts == other.queries.texts
    assert load(foreign).pictures.names == plain.pictures.names
    np.testing.assert_array_equal(one.queries.positives.values, other.queries.positives.values)


def test_queries_may_lie_beside_the_labels(tmp_path: Path) -> None:
    beside = load(write(tmp_path / "a", queries="labels/test_queries.txt"))
    plain = load(write(tmp_path / "b"))
    assert only_task(beside, "tirg").queries.texts == TEXTS
    assert beside.fingerprint == plain.fingerprint
    file = tmp_path / "b/labels/top_test_detect_all.txt"
    file.write_text(file.read_text().replace("black", "grey"))
    assert load(tmp_path / "b").fingerprint != plain.fingerprint


def test_missing_files_are_told_together_and_only_for_the_splits_asked_for(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "labels/pants_train_detect_all.txt").unlink()
    (root / "labels/skirt_test_detect_all.txt").unlink()
    (root / "test_queries.txt").unlink()
    message = refusal(root).split("\n")
    assert len(message) == 3
    assert "labels/pants_train_detect_all.txt: no such file; split train is read from it" in message[0]
    assert "labels/skirt_test_detect_all.txt: no such file" in message[1]
    assert "test_queries.txt: no such file; split test is read from it" in message[2]
    assert "github.com/google/tirg" in message[2]
    assert fashion200k.present_splits(root) == ()
    (root / "labels/pants_train_detect_all.txt").write_text(label_text(LABELS["pants_train"]))
    assert fashion200k.present_splits(root) == ("train",)
    assert len(load(root, ("train",)).annotation_files()) == 11


def test_own_data_need_not_have_all_categories(tmp_path: Path) -> None:
    root = write(tmp_path)
    for category in ("jacket", "pants", "skirt"):
        for split in ("train", "test"):
            (root / f"labels/{category}_{split}_detect_all.txt").unlink()
    (root / "labels/hats_train_detect_all.txt").write_text("women/hats/1/1_0.jpeg\t1\tred cotton hat\n")
    (root / "labels/._dress_train_detect_all.txt").write_bytes(b"\x00\xff")
    (root / "dataset.json").write_text(json.dumps({"name": "mine"}))
    dataset = load(root)
    assert [file.path.name for file in dataset.annotation_files() if file.split == "train"] == [
        "dress_train_detect_all.txt",
        "hats_train_detect_all.txt",
        "top_train_detect_all.txt",
    ]
    assert all(file.found for file in dataset.annotation_files())
    assert "women/hats/1/1_0.jpeg" in dataset.pictures.names


FORM = "must be a path, a detection score and a description, separated by tabs"


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("women/a/1/1_0.jpeg 0.5 red dress", FORM),
        ("women/a/1/1_0.jpeg\t0.5", FORM),
        ("women/a/1/1_0.jpeg\t0.5\t", FORM),
        ("women/a/1/1_0.jpeg\t0.5\tred dress\tmore", FORM),
        ("women/a/1/1_0.jpeg\tred dress\t0.5", FORM),
        ("\t0.5\tred dress", FORM),
        ("/etc/1_0.jpeg\t0.5\tred dress", "path '/etc/1_0.jpeg' is absolute"),
        ("women/../../1_0.jpeg\t0.5\tred dress", "leaves the data folder through '..'"),
        ("", "line 3 is empty"),
    ],
)
def test_a_label_line_of_the_wrong_form_is_one_line(tmp_path: Path, line: str, word: str) -> None:
    file = write(tmp_path) / "labels/dress_train_detect_all.txt"
    text = file.read_text().split("\n")
    file.write_text("\n".join([*text[:2], line, *text[2:]]))
    message = refusal(tmp_path)
    assert message.startswith(f"{file}: line 3")
    assert word in message
    assert "\n" not in message
    assert fashion200k.INFO.obtain in message


def test_all_faulty_lines_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path) / "labels/dress_train_detect_all.txt"
    file.write_text(file.read_text() + "no tabs\n" * 1_000)
    (tmp_path / "labels/top_test_detect_all.txt").write_text("/x\t1\tred top\n")
    lines = refusal(tmp_path).split("\n")
    assert lines[0].startswith(f"{file}: line 6: {FORM}")
    assert "1,000 problems in all, the first 10 are shown" in lines[10]
    assert "top_test_detect_all.txt: line 1: path '/x' is absolute" in lines[11]
    # The queries are not compared with labels of which a part is missing.
    assert len(lines) == 12


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("women/dresses/casual/21/21_0.jpeg", "has 1 parts"),
        ("women/dresses/casual/21/21_0.jpeg a b", "has 3 parts"),
        ("women/dresses/casual/9/9_0.jpeg women/dresses/casual/22/22_0.jpeg", "reference 'women/dresses/casual/9/9_0"),
        ("women/dresses/casual/22/22_0.jpeg women/dresses/casual/1/1_0.jpeg", "target 'women/dresses/casual/1/1_0"),
        ("../x.jpeg women/dresses/casual/22/22_0.jpeg", "path '../x.jpeg' leaves the data folder"),
        ("women/dresses/casual/22/22_0.jpeg /x.jpeg", "path '/x.jpeg' is absolute"),
        (
            "women/dresses/casual/21/21_0.jpeg women/dresses/casual/24/24_0.jpeg",
            "reference and target have the same description, 'red dress'",
        ),
    ],
)
def test_a_wrong_query_is_one_line(tmp_path: Path, line: str, word: str) -> None:
    file = write(tmp_path) / "test_queries.txt"
    file.write_text(f"{query_text()}{line}\n")
    message = refusal(tmp_path)
    assert message.startswith(f"{file}: line 7: ")
    assert word in message
    assert "\n" not in message


def test_both_faults_of_a_query_are_told(tmp_path: Path) -> None:
    file = write(tmp_path) / "test_queries.txt"
    file.write_text("women/none.jpeg women/neither.jpeg\n")
    lines = refusal(tmp_path).split("\n")
    assert "reference 'women/none.jpeg' is not in the test labels" in lines[0]
    assert "target 'women/neither.jpeg' is not in the test labels" in lines[1]


@pytest.mark.parametrize("name", ["labels/dress_train_detect_all.txt", "test_queries.txt"])
@pytest.mark.parametrize(
    ("content", "word"),
    [(b"robe \xe0 fleurs", "not UTF-8 text (byte 5)"), (b"", "has no lines"), (b"\n\n", "has no lines")],
)
def test_foreign_encodings_and_empty_files_are_one_line(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    file = write(tmp_path) / name
    file.write_bytes(content)
    message = refusal(tmp_path)
    assert message.startswith(f"{file}: ")
    assert word in message
    assert "\n" not in message


def test_names_that_are_unknown_are_refused(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: dataset.tasks("test", "tirgg", "template"), "did you mean tirg"),
        (lambda: dataset.tasks("tset", "tirg", "template"), "did you mean test"),
        (lambda: dataset.tasks("train", "tirg", "template"), "defined for test, not for train"),
        (lambda: dataset.tasks("test", "tirg", "joined"), "gives mode joined"),
        (lambda: load(tmp_path, ("tset",)), "did you mean test"),
    ]
    for call, word in refused:
        with pytest.raises(UserError, match=word):
            call()


def test_no_data_there_names_the_files_and_the_layout(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert "\n" not in message
    for word in (str(tmp_path), "labels/dress_train_detect_all.txt", "women/", "google/tirg", "xthan/fashion-200k"):
        assert word in message


def test_counts_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    assert (dataset.label, dataset.is_official, dataset.is_demo) == ("fashion200k", True, False)
    found = {(c.split, c.what): (c.found, c.expected) for c in dataset.counts()}
    assert found == {
        ("train", "pictures"): (9, 172_049),
        ("train", "captions"): (8, 53_099),
        ("train", "modifiable"): (5, 106_464),
        ("test", "queries"): (6, 33_480),
        ("test", "gallery"): (12, 29_789),
    }
    with pytest.raises(UserError, match="test has 12 gallery, 29,789 are published"):
        require_counts(dataset)


def test_a_manifest_names_the_folder_and_its_counts(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "dataset.json").write_text(json.dumps({"name": "mine", "drawn": True, "counts": COUNTS}))
    dataset = load(root)
    assert (dataset.label, dataset.is_official, dataset.is_demo) == ("mine", False, True)
    assert str(only_task(dataset, "tirg").key) == "mine · test · tirg · template"
    require_counts(dataset)
    (root / "dataset.json").write_text(json.dumps({"name": "mine", "counts": {"test": {"gallery": 13}}}))
    (problem,) = count_problems(load(root))
    assert "test has 12 gallery, 13 are stated in dataset.json" in problem


def test_the_criterion_is_the_mean_of_two_recalls(tmp_path: Path) -> None:
    name, value = load(write(tmp_path)).criterion({"": {"R@1": 1.0, "R@10": 60.0, "R@50": 70.0}})
    assert (name, value) == ("(R@10 + R@50)/2", 65.0)


def test_the_folder_is_verified_whole(tmp_path: Path) -> None:
    root = write(tmp_path, pictures=True)
    (root / "dataset.json").write_text(json.dumps({"name": "mine", "counts": COUNTS}))
    found = verify_folder(discover(), "fashion200k", root)
    assert found.ok, found.as_table()
    assert [(row.split, row.protocol, row.queries, row.gallery, row.self_targets) for row in found.rows] == [
        ("train", "", 9, 0, 0),
        ("test", "tirg", 6, 12, 0),
        ("test", "spirit", 6, 12, 0),
    ]
    (root / "women/dresses/casual/25/25_0.jpeg").unlink()
    (root / "women/dresses/casual/4/4_0.jpeg").unlink()
    found = verify_folder(discover(), "fashion200k", root)
    assert not found.ok
    assert [(row.protocol, row.missing) for row in found.rows] == [("", 0), ("tirg", 1), ("spirit", 1)]
