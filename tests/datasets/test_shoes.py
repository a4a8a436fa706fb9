"""Shoes' loader on a cut of the real annotations, with either evaluation list and both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark.datasets import shoes
from benchmark.datasets.readers import shoes as shoes_files
from PIL import Image

from benchmark.data.annotated import count_problems, require_counts
from benchmark.data.folders import locate_root, require_pictures
from benchmark.data.verification import verify, verify_folder
from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.registry import discover

CUT = Path(__file__).resolve().parents[1] / "data" / "shoes_cut"
CAPTIONS = "relative_captions_shoes.json"
SPLITS = ("train", "test")
OFFICIAL, VAL = 21, 17  # lengths of the cut's lists


def names(file: str) -> list[str]:
    return (CUT / file).read_text(encoding="utf-8").split()


def entries() -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((CUT / CAPTIONS).read_text(encoding="utf-8"))
    return found


TRAIN_LIST, OFFICIAL_LIST = names("train_im_names.txt"), names("eval_im_names.txt")
VAL_LIST = names("eval_im_names.val-release.txt")


@pytest.fixture(autouse=True)
def _lengths_of_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoes_files, "OFFICIAL_NAMES", OFFICIAL)
    monkeypatch.setattr(shoes_files, "VAL_NAMES", VAL)


def folder_of(name: str) -> str:
    """womens_rain_boots/3 for img_womens_rain_boots_13.jpg."""
    kind, number = name.removeprefix("img_").removesuffix(".jpg").rsplit("_", 1)
    return f"{kind}/{int(number) % 10}"


def write(
    root: Path,
    found: list[dict[str, Any]] | None = None,
    lists: dict[str, list[str]] | None = None,
    pictures: str | None = None,
) -> Path:
    """Write a data folder; ``lists``: file name → names; ``pictures``: the folder that holds their folders."""
    root.mkdir(parents=True, exist_ok=True)
    (root / CAPTIONS).write_text(json.dumps(entries() if found is None else found), encoding="utf-8")
    for file, listed in (lists or both()).items():
        (root / file).write_text("".join(f"{name}\n" for name in listed), encoding="utf-8")
    if pictures is not None:
        for i, name in enumerate(TRAIN_LIST + OFFICIAL_LIST):
            path = root / pictures / folder_of(name) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 3), (i, 7, 7)).save(path)
    return root


def both() -> dict[str, list[str]]:
    return {**official(), "eval_im_names.val-release.txt": VAL_LIST}


def official() -> dict[str, list[str]]:
    return {"train_im_names.txt": TRAIN_LIST, "eval_im_names.txt": OFFICIAL_LIST}


def vals() -> dict[str, list[str]]:
    return {"train_im_names.txt": TRAIN_LIST, "eval_im_names.txt": VAL_LIST}


def write_derived(root: Path, evaluation: list[str]) -> Path:
    """The files that ARTEMIS' script derives, and none of the originals."""
    root.mkdir(parents=True, exist_ok=True)
    for split, listed in (("train", TRAIN_LIST), ("val", evaluation)):
        paths = {name: f"{folder_of(name)}/{name}" for name in listed}
        triplets = [
            {**e, "ImageName": paths[e["ImageName"]], "ReferenceImageName": paths[e["ReferenceImageName"]]}
            for e in entries()
            if e["ImageName"] in paths and e["ReferenceImageName"] in paths
        ]
        (root / f"split.{split}.json").write_text(json.dumps(list(paths.values())))
        (root / f"triplet.{split}.json").write_text(json.dumps(triplets))
    return root


def load(data_root: Path, splits: tuple[str, ...] = SPLITS) -> shoes.Shoes:
    return shoes.load(locate_root(shoes.INFO, shoes.LAYOUTS, data_root), splits=splits)


def refusal(root: Path, splits: tuple[str, ...] = SPLITS) -> str:
    with pytest.raises(UserError) as caught:
        load(root, splits)
    return str(caught.value)


def test_it_is_declared_for_the_registry_and_keeps_the_contract(tmp_path: Path) -> None:
    assert discover().datasets()["shoes"] == shoes.INFO
    assert isinstance(load(write(tmp_path)), Dataset)


@pytest.mark.parametrize("pictures", [".", "attributedata", "womens", "images/womens"])
@pytest.mark.parametrize("parent", [".", "shoes"])
def test_pictures_are_found_by_name_at_any_depth(tmp_path: Path, pictures: str, parent: str) -> None:
    write(tmp_path / parent, pictures=pictures)
    other = tmp_path / parent / pictures / "bags_totes/1/img_bags_totes_1.jpg"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"no picture")
    dataset = load(tmp_path)
    for split in SPLITS:
        require_pictures(dataset, dataset.split_pictures(split))
    for name, path in zip(dataset.pictures.names, dataset.pictures.paths, strict=True):
        assert path.name == name
        assert path.parent.parent.name == name.removeprefix("img_").rsplit("_", 1)[0]
    assert not dataset.warnings


def test_annotations_may_lie_in_the_repositorys_folder(tmp_path: Path) -> None:
    write(tmp_path / "dataset")
    assert load(tmp_path).fingerprint == load(write(tmp_path / "plain")).fingerprint


@pytest.mark.parametrize(
    ("protocol", "lists", "removed"),
    [
        ("official", official, False),
        ("official-noref", official, True),
        ("val", vals, True),
        ("val-list", vals, False),
        ("val-list-noref", vals, True),
        ("official", both, False),
        ("val", both, True),
        ("val-list", both, False),
    ],
)
def test_a_task_is_what_the_annotations_say(
    tmp_path: Path, protocol: str, lists: Callable[[], dict[str, list[str]]], removed: bool
) -> None:
    dataset = load(write(tmp_path, lists=lists()))
    (task,) = dataset.tasks("test", protocol, "capitalised")
    listed = list(OFFICIAL_LIST if protocol.startswith("official") else VAL_LIST)
    rows = []
    for i, entry in enumerate(entries()):
        inside = [entry["ReferenceImageName"] in listed, entry["ImageName"] in listed]
        if any(inside) if protocol == "val" else all(inside):
            rows.append((str(i), entry))
    gallery = list(listed)
    for _, entry in rows:
        gallery += [name for name in (entry["ReferenceImageName"], entry["ImageName"]) if name not in gallery]
    assert len(rows) == (6 if protocol.startswith("val-list") else 9)
    assert len(gallery) == (17 if protocol.startswith("val-list") else 20 if protocol == "val" else 21)
    known, queries = dataset.pictures.names, task.queries
    assert str(task.key) == f"shoes · test · {protocol} · single"
    assert [known[i] for i in task.gallery] == gallery
    assert (task.exclude_reference, task.cutoffs, task.labelled) == (removed, (1, 10, 50), True)
    assert queries.ids == tuple(number for number, _ in rows)
    assert [gallery[i] for i in queries.reference_in_gallery] == [entry["ReferenceImageName"] for _, entry in rows]
    assert [known[i] for i in queries.reference_picture] == [entry["ReferenceImageName"] for _, entry in rows]
    answers = [[gallery[j] for j in queries.positives[i]] for i in range(len(rows))]
    assert answers == [[entry["ImageName"]] for _, entry in rows]
    assert queries.group.tolist() == queries.reference_in_gallery.tolist()
    assert any("ask for their own reference: 1" in note for note in task.notes)


def test_the_image_name_is_the_target(tmp_path: Path) -> None:
    """In the first entry: clogs_512 with "is more of a textured material" asks for clogs_851."""
    dataset = load(write(tmp_path))
    triplets, known = dataset.train_triplets(0, 0), dataset.pictures.names
    row = triplets.captions.index(("is more of a textured material",)) if triplets.captions else -1
    assert known[triplets.reference_picture[row]] == "img_womens_clogs_512.jpg"
    assert known[triplets.target_picture[row]] == "img_womens_clogs_851.jpg"


def test_texts_checked_by_hand(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    texts = {rule: dataset.tasks("test", "official", rule)[0].queries.texts
             for rule in ("capitalised", "as-is", "punctuation-words")}
    assert shoes.INFO.text_rule == "capitalised"
    assert "Is a tan cowboy boot with green accents" in texts["capitalised"]
    assert "is a tan cowboy boot with green accents" in texts["as-is"]
    assert all(text[:1].isupper() for text in texts["capitalised"])
    found = entries()
    found[-1]["RelativeCaption"] = " Is IDENTICAL. "
    (task,) = load(write(tmp_path, found)).tasks("test", "official", "capitalised")
    assert task.queries.texts[-1] == "Is identical"
    with pytest.raises(UserError, match="gives mode joined; use as-is or capitalised or punctuation-words"):
        dataset.tasks("test", "official", "joined")


def test_training_is_static_and_keeps_pairs_of_one_picture(tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    triplets, known = dataset.train_triplets(epoch=3, seed=5, pair_sampling="any"), dataset.pictures.names
    wanted = [e for e in entries() if e["ImageName"] in TRAIN_LIST]
    assert [known[i] for i in triplets.reference_picture] == [e["ReferenceImageName"] for e in wanted]
    assert [known[i] for i in triplets.target_picture] == [e["ImageName"] for e in wanted]
    assert triplets.captions == dataset.training_texts() == tuple((e["RelativeCaption"],) for e in wanted)
    assert int((triplets.reference_picture == triplets.target_picture).sum()) == 1
    used = {e[key] for e in wanted for key in ("ImageName", "ReferenceImageName")}
    assert [known[i] for i in dataset.split_pictures("train")] == [n for n in TRAIN_LIST if n in used]


def test_a_split_does_not_depend_on_which_others_were_read(tmp_path: Path) -> None:
    root = write(tmp_path)
    one, other = load(root, ("test",)), load(root, ("test", "train"))
    for dataset in (one, other):
        assert [dataset.pictures.names[i] for i in dataset.split_pictures("test")] == OFFICIAL_LIST
    first, second = (d.tasks("test", "val", "as-is")[0].queries for d in (one, other))
    assert first.reference_in_gallery.tolist() == second.reference_in_gallery.tolist()
    assert first.ids == second.ids


def test_vals_list_alone_cannot_give_the_official_gallery(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, lists=vals()))
    assert len(dataset.split_pictures("test")) == 20
    for protocol in ("official", "official-noref"):
        with pytest.raises(UserError) as caught:
            dataset.tasks("test", protocol, "capitalised")
        for word in (f"protocol {protocol}", "1 gallery names are missing", "fashion-retrieval", "--protocol val"):
            assert word in str(caught.value)
    assert [p.splits for p in dataset.protocols] == [("test",)] * 5


def test_the_official_list_alone_cannot_give_vals_gallery(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, lists=official()))
    assert [p.name for p in dataset.protocols if p.splits] == ["official", "official-noref"]
    for protocol in ("val", "val-list", "val-list-noref"):
        with pytest.raises(UserError, match=f"protocol {protocol} needs the evaluation list of VAL's release"):
            dataset.tasks("test", protocol, "capitalised")


def test_a_list_of_another_length_is_the_official_one_and_wrong(tmp_path: Path) -> None:
    used = {e[key] for e in entries() for key in ("ImageName", "ReferenceImageName")}
    spare = next(name for name in OFFICIAL_LIST if name not in used)
    short = {**official(), "eval_im_names.txt": [n for n in OFFICIAL_LIST if n != spare]}
    dataset = load(write(tmp_path, lists=short))
    assert {c.what: c.found for c in dataset.counts()}["gallery"] == 20
    with pytest.raises(UserError, match="test has 20 gallery, 4,658 are published"):
        require_counts(dataset)


def test_lists_are_told_apart_by_length_not_by_name(tmp_path: Path) -> None:
    lists = {"train_im_names.txt": TRAIN_LIST, "eval_im_names.txt": VAL_LIST, "eval_im_names.full.txt": OFFICIAL_LIST}
    dataset = load(write(tmp_path, lists=lists))
    found = {p.name: len(dataset.tasks("test", p.name, "as-is")[0].gallery) for p in dataset.protocols}
    assert found == {"official": 21, "official-noref": 21, "val": 20, "val-list": 17, "val-list-noref": 17}


def test_final_empty_lines_foreign_line_ends_and_marks_are_read(tmp_path: Path) -> None:
    root = write(tmp_path)
    plain = load(root).tasks("test", "official", "as-is")[0]
    for file in tmp_path.glob("*.txt"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b" \r\n") + b"\r\n\r\n")
    other = load(root).tasks("test", "official", "as-is")[0]
    assert other.gallery.tolist() == plain.gallery.tolist()
    assert other.queries.ids == plain.queries.ids


def test_boots_are_not_rain_boots(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, pictures="."))
    for name, path in zip(dataset.pictures.names, dataset.pictures.paths, strict=True):
        assert ("rain_boots" in name) == path.parts[-3].endswith("rain_boots")


@pytest.mark.parametrize("evaluation", [OFFICIAL_LIST, VAL_LIST])
def test_derived_files_give_the_same_where_the_originals_are_missing(tmp_path: Path, evaluation: list[str]) -> None:
    dataset = load(write_derived(tmp_path / "a", evaluation))
    lists = official() if evaluation is OFFICIAL_LIST else vals()
    plain = load(write(tmp_path / "b", lists=lists))
    protocol = "official" if evaluation is OFFICIAL_LIST else "val-list"
    one, other = (d.tasks("test", protocol, "as-is")[0] for d in (dataset, plain))
    assert one.queries.texts == other.queries.texts
    assert one.queries.reference_in_gallery.tolist() == other.queries.reference_in_gallery.tolist()
    assert one.queries.positives.values.tolist() == other.queries.positives.values.tolist()
    assert one.queries.ids == tuple(str(i) for i in range(len(one.queries)))
    assert any("derived triplet.val.json" in note for note in one.notes)
    assert not any("derived" in note for note in other.notes)
    assert [dataset.pictures.names[i] for i in one.gallery] == evaluation
    assert dataset.training_texts() == plain.training_texts()


def test_derived_files_cannot_give_vals_queries(tmp_path: Path) -> None:
    dataset = load(write_derived(tmp_path, VAL_LIST))
    with pytest.raises(UserError, match="protocol val needs relative_captions_shoes.json"):
        dataset.tasks("test", "val", "as-is")
    assert [p.name for p in dataset.protocols if p.splits] == [
        "official", "official-noref", "val-list", "val-list-noref"
    ]


def test_originals_go_before_derived_files(tmp_path: Path) -> None:
    write_derived(tmp_path, VAL_LIST)
    for file in tmp_path.glob("*.json"):
        file.write_text("not even JSON")
    dataset = load(write(tmp_path, lists=official()))
    assert [file.path.name for file in dataset.annotation_files()] == [
        CAPTIONS, "train_im_names.txt", CAPTIONS, "eval_im_names.txt"
    ]


def test_captions_of_single_pictures_are_optional(tmp_path: Path) -> None:
    root = write(tmp_path)
    dataset = load(root)
    assert dataset.side_texts() == {}
    captions = [{"ImageName": TRAIN_LIST[0], "Caption": text} for text in ("black heels", "high heels")]
    (root / "captions_shoes.json").write_text(json.dumps(captions))
    assert load(root).side_texts() == {TRAIN_LIST[0]: ("black heels", "high heels")}
    assert load(root).fingerprint == dataset.fingerprint
    (root / "captions_shoes.json").write_text(json.dumps([{"ImageName": 7}]))
    with pytest.raises(UserError, match="entry 0: 'ImageName' is 7, not a text"):
        load(root).side_texts()


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (CAPTIONS, "split train is read from it"),
        ("train_im_names.txt", "split train is read from it"),
        ("eval_im_names.txt", "split test is read from it"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, gone: str, said: str) -> None:
    root = write(tmp_path, lists=official())
    (root / gone).unlink()
    message = str(pytest.raises(UserError, shoes.load, root, splits=SPLITS).value)
    assert f"{root / gone}: no such file; {said}" in message
    assert shoes.INFO.obtain in message
    if gone != CAPTIONS:
        left = ("test",) if gone.startswith("train") else ("train",)
        assert shoes.present_splits(root) == left
        assert load(root, left).counts()


@pytest.mark.parametrize("broken", ["train_im_names.txt", "eval_im_names.txt"])
def test_what_an_unreadable_list_would_name_is_no_problem_of_the_captions(tmp_path: Path, broken: str) -> None:
    root = write(tmp_path, lists=official())
    (root / broken).write_bytes(b"\xff\xfe not UTF-8")
    message = str(pytest.raises(UserError, shoes.load, root, splits=SPLITS).value)
    assert message.startswith(f"{root / broken}: not UTF-8 text") and "\n" not in message


def test_names_that_are_unknown_are_refused(tmp_path: Path) -> None:
    dataset = load(write(tmp_path), ("test",))
    for arguments, word in (
        (("test", "oficial", "as-is"), "did you mean official"),
        (("tests", "official", "as-is"), "did you mean test"),
        (("train", "official", "as-is"), "defined for test, not for train"),
    ):
        with pytest.raises(UserError, match=word):
            dataset.tasks(*arguments)
    with pytest.raises(UserError, match="split train of shoes was not read; read: test"):
        dataset.train_triplets(0, 0)
    with pytest.raises(UserError, match="unknown split of shoes"):
        load(tmp_path, ("val",))


def test_no_data_there_names_the_file_and_the_layouts(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert "\n" not in message
    for word in ("shoes not found", f"no {CAPTIONS} ", "train_im_names.txt", "(ARTEMIS, SPIRIT)", "DQU-CIR"):
        assert word in message


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda entry: entry.pop(key)


def change(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda entry: entry.update(values)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (drop("ImageName"), "key 'ImageName' is missing"),
        (drop("ReferenceImageName"), "key 'ReferenceImageName' is missing"),
        (drop("RelativeCaption"), "key 'RelativeCaption' is missing"),
        (change(ImageName=7), "'ImageName' is 7, not a text"),
        (change(RelativeCaption=None), "'RelativeCaption' is None, not a text"),
        (change(RelativeCaption="  "), "RelativeCaption is empty"),
        (change(ImageName="/etc/passwd"), "ImageName: path '/etc/passwd' is absolute"),
        (change(ReferenceImageName="../x.jpg"), "ReferenceImageName: path '../x.jpg' leaves the data folder"),
        (change(ImageName="womens_boots/1/x.jpg"), "is a path; a plain name is expected"),
        (change(ImageName="img_womens_boots_0.jpg"), "'img_womens_boots_0.jpg', is not in train_im_names.txt"),
        (change(ImageName=OFFICIAL_LIST[0]), f"'{OFFICIAL_LIST[0]}', is not in train_im_names.txt"),
        (change(ImageName="a.jpg", ReferenceImageName="b.jpg"), "'a.jpg' is in no image list"),
    ],
)
def test_a_wrong_entry_is_told_with_file_and_entry(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object], word: str
) -> None:
    found: list[dict[str, Any]] = list(entries())
    number = next(i for i, e in enumerate(found) if e["ReferenceImageName"] in TRAIN_LIST[3:])
    spoil(found[number])
    lines = refusal(write(tmp_path, found)).split("\n")
    assert all(line.startswith(f"{tmp_path / CAPTIONS}: entry {number}: ") for line in lines)
    assert any(word in line for line in lines)
    assert shoes.INFO.obtain in lines[-1]


def test_a_query_with_one_picture_outside_the_official_list_is_refused(tmp_path: Path) -> None:
    found: list[dict[str, Any]] = list(entries())
    number = next(i for i, e in enumerate(found) if e["ReferenceImageName"] in OFFICIAL_LIST)
    found[number]["ImageName"] = "img_womens_boots_0.jpg"
    word = "one of its pictures, 'img_womens_boots_0.jpg', is not in eval_im_names.txt"
    assert word in refusal(write(tmp_path, found, official()), ("test",))


def test_a_repeated_pair_names_the_first(tmp_path: Path) -> None:
    found = entries()
    found.append({**found[2], "RelativeCaption": "is another"})
    assert "entry 16: the same pictures as entry 2" in refusal(write(tmp_path, found))


@pytest.mark.parametrize("file", ["train_im_names.txt", "eval_im_names.txt"])
@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda text: text + text.split()[0] + "\n", " already"),
        (lambda text: "../" + text, "line 1: path '../"),
        (lambda text: "/etc/" + text, "line 1: path '/etc/"),
        (lambda text: "a/" + text, "line 1: name 'a/"),
        (lambda text: text.replace("\n", "\n\n", 1), "line 2 is empty"),
        (lambda text: "\n", "names no picture"),
        (lambda text: text.replace("img", "\xefmg"), "not UTF-8 text"),
    ],
)
def test_a_wrong_list_is_told_with_file_and_line(
    tmp_path: Path, file: str, spoil: Callable[[str], str], word: str
) -> None:
    root = write(tmp_path, lists=official())
    (root / file).write_bytes(spoil((root / file).read_text()).encode("latin-1"))
    lines = [line for line in refusal(root).split("\n") if line.startswith(str(root / file))]
    assert any(word in line for line in lines), lines


@pytest.mark.parametrize(
    ("path", "word"),
    [("../x.jpg", "leaves the data folder"), ("/x.jpg", "is absolute"), (7, "the path is 7, not a text")],
)
def test_wrong_paths_in_derived_lists_are_told(tmp_path: Path, path: object, word: str) -> None:
    root = write_derived(tmp_path, OFFICIAL_LIST)
    listed = json.loads((root / "split.val.json").read_text())
    (root / "split.val.json").write_text(json.dumps([*listed, path]))
    assert f"split.val.json: entry 21: {'' if path == 7 else 'path'}" in (message := refusal(root))
    assert word in message


@pytest.mark.parametrize(
    ("content", "word"),
    [(lambda text: text[:200], "the file may be truncated"), (lambda text: "{}", "must be a JSON list"),
     (lambda text: "[]", "is empty"), (lambda text: text.replace("is", "\xefs"), "not UTF-8")],
)
def test_truncated_and_foreign_captions_are_told(tmp_path: Path, content: Callable[[str], str], word: str) -> None:
    root = write(tmp_path)
    (root / CAPTIONS).write_bytes(content((root / CAPTIONS).read_text()).encode("latin-1"))
    message = refusal(root)
    assert message.startswith(str(root / CAPTIONS))
    assert "\n" not in message
    assert word in message


def test_a_picture_that_is_there_twice_is_told(tmp_path: Path) -> None:
    root = write(tmp_path, pictures="womens")
    name = OFFICIAL_LIST[3]
    copy = root / "attributedata" / folder_of(name) / name
    copy.parent.mkdir(parents=True)
    Image.new("RGB", (1, 1)).save(copy)
    dataset = load(root)
    assert dataset.pictures.paths[dataset.pictures.names.index(name)] == copy
    assert f"more than once: 1, {name} first" in dataset.warnings[0]
    assert dataset.warnings[0] in dataset.tasks("test", "official", "as-is")[0].notes


def test_counts_are_compared_with_the_published_ones_or_the_manifests(tmp_path: Path) -> None:
    root = write(tmp_path)
    dataset = load(root)
    assert {(c.split, c.what): (c.found, c.expected) for c in dataset.counts()} == {
        ("train", "triplets"): (7, 8_990),
        ("train", "pictures"): (15, 10_000),
        ("test", "queries"): (9, 1_761),
        ("test", "gallery"): (21, 4_658),
        ("test", "val queries"): (9, 1_761),
        ("test", "val gallery"): (20, 4_642),
        ("test", "val-list queries"): (6, 1_732),
        ("test", "val-list gallery"): (17, 4_621),
    }
    counts = {"train": {"triplets": 7}, "test": {"queries": 9, "gallery": 22}}
    (root / "dataset.json").write_text(json.dumps({"name": "mine", "drawn": True, "counts": counts}))
    own = load(root)
    assert (own.label, own.is_official, own.is_demo) == ("mine", False, True)
    (problem,) = count_problems(own)
    assert "test has 21 gallery, 22 are stated in dataset.json" in problem
    assert str(own.tasks("test", "official", "as-is")[0].key) == "mine · test · official · single"


def test_own_data_of_any_size_has_the_official_protocols(tmp_path: Path) -> None:
    """Its plain evaluation list is the gallery even if it happens to be as long as VAL's."""
    root = write(tmp_path, [e for e in entries() if e["ImageName"] in VAL_LIST + TRAIN_LIST][:9], vals())
    found = [e for e in entries() if {e["ImageName"], e["ReferenceImageName"]} <= {*VAL_LIST, *TRAIN_LIST}]
    (root / CAPTIONS).write_text(json.dumps(found))
    (root / "dataset.json").write_text(json.dumps({"name": "mine"}))
    dataset = load(root)
    assert [p.name for p in dataset.protocols if p.splits] == ["official", "official-noref"]
    (task,) = dataset.tasks("test", "official", "capitalised")
    assert len(task.gallery) == 17
    require_counts(dataset)


def test_the_criterion_is_spirits(tmp_path: Path) -> None:
    name, value = load(write(tmp_path)).criterion({"": {"R@1": 1.0, "R@10": 60.0, "R@50": 30.0}})
    assert (name, value) == ("(R@10 + R@50)/2", 45.0)


def test_the_folder_is_verified_whole(tmp_path: Path) -> None:
    root = write(tmp_path, pictures=".")
    (root / "dataset.json").write_text(json.dumps({"name": "mine"}))
    found = verify(load(root), workers=2)
    assert found.ok, found.as_table()
    assert [(r.split, r.protocol, r.queries, r.gallery, r.self_targets) for r in found.rows] == [
        ("train", "", 7, 0, 1),
        ("test", "official", 9, 21, 1),
        ("test", "official-noref", 9, 21, 1),
        ("test", "val", 9, 20, 1),
        ("test", "val-list", 6, 17, 1),
        ("test", "val-list-noref", 6, 17, 1),
    ]


def test_verification_with_vals_list_alone_says_what_is_missing(tmp_path: Path) -> None:
    root = write(tmp_path, lists=vals(), pictures=".")
    found = verify_folder(discover(), "shoes", root)
    assert not found.ok
    assert len(found.refused) == 2
    assert "1 gallery names are missing" in found.refused[0]
    assert "fashion-retrieval" in found.refused[0]
