"""Reading data folders: every fault told with file and entry, all in one error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmark.data.annotated import read_manifest
from benchmark.data.annotations import Problems, read_names, read_records, safe_relative
from benchmark.data.folders import Layouts, PictureFolder, index_by_stem, locate_root, picture_problems
from benchmark.dataset import DatasetInfo, Pictures
from benchmark.errors import UserError

INFO = DatasetInfo("toy", "Toy", "a toy", "none", "get it from nowhere", "", folders=("toy", "TOY_dataset"))
COUNTABLE = {"train": ("triplets",), "val": ("queries", "gallery")}


def told(problems: Problems) -> str:
    with pytest.raises(UserError) as caught:
        problems.raise_all()
    return str(caught.value)


def records_told(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    problems = Problems("get it again")
    read_records(path, {"pairid": int, "caption": str}, problems)
    return told(problems)


def test_records_are_numbered_and_other_keys_ignored(tmp_path: Path) -> None:
    path = tmp_path / "cap.json"
    path.write_text(json.dumps([{"pairid": 1, "caption": "", "more": None}, {"pairid": 2, "caption": "é"}]))
    problems = Problems("")
    records = read_records(path, {"pairid": int, "caption": str}, problems)
    assert [(number, record["caption"]) for number, record in records] == [(0, ""), (1, "é")]
    problems.raise_all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"pairid": 1, "capt', ["not valid JSON at line 1", "truncated"]),
        (b'[{"pairid": 1, "caption": "\xe9"}]', ["not UTF-8"]),
        ('{"pairid": 1}', ["must be a JSON list"]),
        ("[]", ["is empty"]),
        ("[3]", ["entry 0", "must be an object with keys pairid, caption"]),
        ('[{"pairid": 1, "caption": "a"}, {"pairid": 2}]', ["entry 1", "key 'caption' is missing"]),
        ('[{"pairid": true, "caption": "a"}]', ["entry 0", "'pairid' is True, not a whole number"]),
        ('[{"pairid": 1, "caption": ["a"]}]', ["entry 0", "'caption' is ['a'], not a text"]),
    ],
)
def test_a_faulty_file_is_one_line_with_file_and_entry(tmp_path: Path, content: str | bytes, words: list[str]) -> None:
    path = tmp_path / "cap.json"
    message = records_told(path, content)
    assert "\n" not in message
    assert message.startswith(str(path))
    for word in (*words, "get it again"):
        assert word in message


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    problems = Problems("")
    assert read_records(tmp_path / "no.json", {}, problems) == []
    assert told(problems) == f"{tmp_path / 'no.json'}: no such file"


def test_many_problems_are_counted_and_ten_shown_per_file(tmp_path: Path) -> None:
    lines = records_told(tmp_path / "cap.json", json.dumps([{"pairid": i} for i in range(1234)])).split("\n")
    assert len(lines) == 11
    assert "entry 9:" in lines[9]
    assert "1,234 problems in all, the first 10 are shown; get it again" in lines[10]


def test_problems_of_several_files_come_together(tmp_path: Path) -> None:
    problems = Problems("advice")
    problems.add(tmp_path / "a", "entry 0: wrong")
    problems.add(tmp_path / "b", "entry 1: wrong")
    assert len(problems) == 2
    assert told(problems).split("\n") == [
        f"{tmp_path / 'a'}: entry 0: wrong",
        f"{tmp_path / 'b'}: entry 1: wrong; advice",
    ]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("final", [0, 1, 3])
def test_names_survive_foreign_line_ends_and_final_empty_lines(tmp_path: Path, ends: str, final: int) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(("\ufeff" + ends.join(["a.jpg", "b c.jpg ", "d\u2028e.jpg"]) + ends * final).encode())
    problems = Problems("")
    assert read_names(path, problems) == ["a.jpg", "b c.jpg", "d\u2028e.jpg"]
    problems.raise_all()


def test_empty_lines_within_and_wrong_encodings_are_told(tmp_path: Path) -> None:
    path, other = tmp_path / "names.txt", tmp_path / "other.txt"
    path.write_text("a\n\nb\n")
    other.write_bytes("é".encode("latin-1"))
    problems = Problems("")
    assert read_names(path, problems) == ["a", "b"]
    assert read_names(other, problems) == [] == read_names(tmp_path / "no.txt", problems)
    message = told(problems)
    assert "line 2 is empty" in message
    assert "not UTF-8" in message
    assert "no such file" in message


def test_relative_paths_are_cleaned() -> None:
    assert safe_relative("./dev//a..b.png") == "dev/a..b.png"
    assert safe_relative("train/34/x.png") == "train/34/x.png"


CLIMBING = ("/etc/passwd", "../x.png", "./dev/../../x.png", "dev/..", "..\\x.png", "C:\\x.png", "\\\\host\\x")
NAMELESS = ("", ".", "./", "a\0b")


@pytest.mark.parametrize("path", [*CLIMBING, *NAMELESS])
def test_paths_out_of_the_data_folder_are_refused(path: str) -> None:
    with pytest.raises(UserError):
        safe_relative(path)


def test_manifest(tmp_path: Path) -> None:
    assert read_manifest(None, "toy", COUNTABLE) is None
    (tmp_path / "dataset.json").write_text('{"name": "mine", "counts": {"val": {"queries": 3}}, "by": "me"}')
    manifest = read_manifest(tmp_path / "dataset.json", "toy", COUNTABLE)
    assert manifest is not None
    assert (manifest.name, manifest.drawn, manifest.counts) == ("mine", False, {"val": {"queries": 3}})


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('{"name": "toy"}', "not 'toy'"),
        ('{"name": "a|b"}', "a|b"),
        ('{"name": "../up"}', "../up"),
        ('{"name": ""}', "'name' is ''"),
        ('{"drawn": true}', "key 'name' is missing"),
        ('{"name": "x", "drawn": 1}', "'drawn' is 1, not true or false"),
        ('{"name": "x", "counts": []}', "'counts' must be an object"),
        ('{"name": "x", "counts": {"dev": {}}}', "'counts' has 'dev'; known, each an object: train, val"),
        ('{"name": "x", "counts": {"val": {"querys": 3}}}', "has 'querys'; known: queries, gallery"),
        ('{"name": "x", "counts": {"val": {"queries": "3"}}}', "'queries' is '3', not a whole number"),
        ("[]", "must be an object"),
        ("{", "not valid JSON"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path / "dataset.json", "toy", COUNTABLE)
    assert word in str(caught.value)
    assert str(tmp_path / "dataset.json") in str(caught.value)


def test_the_root_is_the_folder_itself_or_a_usual_sub_folder(tmp_path: Path) -> None:
    layouts = Layouts(("captions/cap.json", "cap.json"), ("captions/ + images/", "flat"))
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError) as caught:
        locate_root(INFO, layouts, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(tmp_path), "captions/cap.json", "TOY_dataset", "captions/ + images/; flat", INFO.obtain):
        assert word in message
    nested = tmp_path / "TOY_dataset" / "captions"
    nested.mkdir(parents=True)
    (nested / "cap.json").write_text("[]")
    assert locate_root(INFO, layouts, tmp_path) == tmp_path / "TOY_dataset"
    assert locate_root(INFO, layouts, tmp_path / "TOY_dataset") == tmp_path / "TOY_dataset"
    with pytest.raises(UserError, match="no such folder"):
        locate_root(INFO, layouts, tmp_path / "absent")


def test_pictures_are_found_under_the_first_root_that_has_them(tmp_path: Path) -> None:
    for place in ("one/dev/a.png", "two/dev/a.png", "two/dev/b.png", "two/train/3/c.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"x")
    folder = PictureFolder([tmp_path / "one" / ".", tmp_path / "one", tmp_path / "one" / ".." / "two"])
    assert folder.roots == (tmp_path / "one", tmp_path / "two")
    assert folder.resolve("dev/a.png") == tmp_path / "one/dev/a.png"
    assert folder.resolve("dev/b.png") == tmp_path / "two/dev/b.png"
    assert folder.resolve("train/3/c.png") == tmp_path / "two/train/3/c.png"
    assert folder.resolve("train/3/gone.png") == tmp_path / "two/train/3/gone.png"
    assert folder.resolve("test1/gone.png") == tmp_path / "one/test1/gone.png"


def test_stems_are_found_at_any_depth_whatever_the_ending(tmp_path: Path) -> None:
    for place in ("x/a.png", "y/z/a.jpg", "y/b.JPEG", "y/c.txt", "B00006M009.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"x")
    index = index_by_stem([tmp_path])
    assert index.paths == {
        "a": tmp_path / "y/z/a.jpg",
        "b": tmp_path / "y/b.JPEG",
        "B00006M009": tmp_path / "B00006M009.png",
    }
    assert index.doubles == {"a"}


def test_missing_and_empty_pictures_are_told_for_those_asked_for(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{i}.png" for i in range(4))
    paths[0].write_bytes(b"x")
    paths[1].write_bytes(b"")
    pictures = Pictures(("a", "b", "c", "d"), paths)
    assert picture_problems(pictures, np.array([0])) == []
    assert picture_problems(pictures, np.array([0, 1, 3])) == [
        f"{paths[1]}: the picture is empty (0 bytes)",
        f"{paths[3]}: no such picture",
    ]
