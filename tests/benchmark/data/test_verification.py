"""`data verify` on a made-up dataset of two splits: every fault found, placed and weighed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data.annotations import AnnotationFile
from benchmark.data.verification import verify
from benchmark.dataset import (
    Captions,
    Counts,
    Dataset,
    DatasetInfo,
    IntArray,
    Pictures,
    ProtocolInfo,
    Queries,
    Ragged,
    Task,
    TaskKey,
    Triplets,
)
from benchmark.errors import UserError

NAMES = ("t0", "t1", "t2", "v0", "v1", "v2", "v3", "spare")


@dataclass
class Toy:
    """Training on t0 → t1, t1 → t2; validation asks v0 → v1 and v1 → v2 of the gallery v0, v1, v2."""

    root: Path
    pictures: Pictures
    reference: IntArray = field(default_factory=lambda: np.array([0, 1]))
    expected: int = 2
    refused: str = ""
    files: tuple[AnnotationFile, ...] = ()
    info = DatasetInfo("toy", "Toy", "a toy", "none", "get it from nowhere", "")
    label = "toy"
    is_demo = False
    is_official = True
    fingerprint = "0"
    protocols = (
        ProtocolInfo("official", "", ("val", "test"), ("single",)),
        ProtocolInfo("kept", "", ("val",), ("single",)),
    )

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        return Triplets(np.array([0, 1]), np.array([1, 2]), (("a",), ("b",)))

    def split_pictures(self, split: str) -> IntArray:
        return np.array([0, 1, 2]) if split == "train" else np.array([3, 4, 5])

    def training_texts(self) -> tuple[Captions, ...]:
        return (("a",), ("b",))

    def side_texts(self) -> dict[str, tuple[str, ...]]:
        return {}

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        if protocol == self.refused:
            raise UserError("16 gallery names are missing")
        gallery = np.array([3, 4, 5])
        queries = Queries(
            ids=("0", "1"),
            reference_picture=gallery[self.reference],
            reference_in_gallery=self.reference,
            texts=("a", "b"),
            positives=Ragged.of([[1, 2], [2]]),
            group=np.array([0, 1]),
        )
        return (Task(TaskKey("toy", split, protocol, "single"), queries, gallery, True, (1,)),)

    def counts(self) -> tuple[Counts, ...]:
        return Counts("train", "triplets", 2, None), Counts("val", "queries", 2, self.expected)

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        return "none", 0.0

    def annotation_files(self) -> tuple[AnnotationFile, ...]:
        return self.files


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    paths = tuple(tmp_path / f"{name}.png" for name in NAMES)
    for i, path in enumerate(paths):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(path)
    files = []
    for split in ("train", "val"):
        for name in ("cap", "split"):
            file = tmp_path / f"{name}.{split}.json"
            file.write_text("[]")
            files.append(AnnotationFile(split, file))
    return Toy(tmp_path, Pictures(NAMES, paths), files=tuple(files))


def path_of(toy: Toy, name: str) -> Path:
    return toy.pictures.paths[NAMES.index(name)]


def cells(table: str, word: str) -> list[str]:
    """The cells of the table's line whose second cell is the word."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n") if "|" in line]
    return next(row for row in rows if row[1] == word)


def test_a_sound_folder_is_ok(toy: Toy) -> None:
    assert isinstance(toy, Dataset)
    calls: list[tuple[int, int]] = []
    found = verify(toy, lambda done, total: calls.append((done, total)), workers=3)
    assert found.ok
    assert not found.broken
    assert not found.shared
    assert calls == [(i + 1, len(NAMES)) for i in range(len(NAMES))]
    assert [(row.split, row.protocol, row.pictures) for row in found.rows] == [
        ("train", "", 3),
        ("val", "official", 3),
        ("val", "kept", 3),
    ]
    table = found.as_table()
    assert table.rstrip().endswith("OK")
    assert "NOT OK" not in table
    assert ["train", "triplets", "2"] == cells(table, "triplets")[:3]


def test_broken_pictures_are_told_with_who_needs_them(toy: Toy) -> None:
    path_of(toy, "t1").unlink()
    path_of(toy, "v0").write_bytes(b"")
    path_of(toy, "v2").write_bytes(path_of(toy, "v1").read_bytes()[:-30])
    path_of(toy, "spare").write_bytes(b"<html>not found</html>")
    found = verify(toy, workers=1)
    assert not found.ok
    assert {p.name: (p.kind, p.needed_by) for p in found.broken} == {
        "t1": ("missing", ("train triplet ×2",)),
        "v0": (
            "empty",
            (
                "val · official gallery ×1",
                "val · official query ×1",
                "val · kept gallery ×1",
                "val · kept query ×1",
            ),
        ),
        "v2": ("unreadable", ("val · official gallery ×1", "val · kept gallery ×1")),
        "spare": ("unreadable", ()),
    }
    assert [(r.missing, r.empty, r.unreadable, r.ok) for r in found.rows] == [
        (1, 0, 0, False),
        (0, 1, 1, False),
        (0, 1, 1, False),
    ]
    table = found.as_table()
    for path in map(lambda name: path_of(toy, name), ("t1", "v0", "v2", "spare")):
        assert str(path) in table
    assert "missing, empty or unreadable pictures: 4, of them needed: 3" in table
    assert "needed by: no query, gallery or triplet" in table
    assert "NOT OK; get it from nowhere" in table


def test_a_broken_picture_that_nothing_needs_is_no_failure(toy: Toy) -> None:
    path_of(toy, "spare").unlink()
    found = verify(toy)
    assert found.ok
    assert [picture.name for picture in found.broken] == ["spare"]


def test_the_same_content_in_two_splits_is_told(toy: Toy) -> None:
    for name in ("v1", "v0", "spare"):
        path_of(toy, name).write_bytes(path_of(toy, "t2").read_bytes())
    found = verify(toy)
    assert found.shared == (("train: t2", "val: v0", "val: v1"),)
    assert found.ok
    assert "the same picture: train: t2, val: v0, val: v1" in found.as_table()


def test_the_same_content_within_a_split_is_not_shared(toy: Toy) -> None:
    path_of(toy, "v1").write_bytes(path_of(toy, "v0").read_bytes())
    assert verify(toy).shared == ()


def test_queries_that_ask_for_their_reference_are_counted_once_each(toy: Toy) -> None:
    found = verify(replace(toy, reference=np.array([2, 2])))
    assert [row.self_targets for row in found.rows] == [0, 2, 2]
    assert "val · official: 2 with their reference as target" in found.as_table()


def test_differing_counts_fail(toy: Toy) -> None:
    found = verify(replace(toy, expected=4181))
    assert not found.ok
    assert [c.what for c in found.wrong_counts] == ["queries"]
    assert cells(found.as_table(), "queries")[2:] == ["2", "4,181", "differs"]


def test_files_half_there_fail_and_absent_splits_do_not(toy: Toy) -> None:
    absent = tuple(AnnotationFile("test", toy.root / f"{name}.test.json") for name in ("cap", "split"))
    found = verify(replace(toy, files=(*toy.files, *absent)))
    assert found.ok
    assert found.absent_splits == ("test",)
    assert "split test is not here" in found.as_table()
    absent[0].path.write_text("[]")
    found = verify(replace(toy, files=(*toy.files, *absent)))
    assert not found.ok
    assert found.half_there == (absent[1],)
    assert f"{absent[1].path}: no such file" in found.as_table()


def test_a_protocol_that_cannot_be_built_is_told_beside_the_others(toy: Toy) -> None:
    found = verify(replace(toy, refused="kept"))
    assert not found.ok
    assert [row.protocol for row in found.rows] == ["", "official"]
    assert "val · kept: 16 gallery names are missing" in found.as_table()


def test_json_holds_everything(toy: Toy) -> None:
    path_of(toy, "v0").unlink()
    found = json.loads(json.dumps(verify(toy).as_json()))
    assert found["ok"] is False
    assert found["dataset"] == "toy"
    assert found["kind"] == "official"
    assert [row["ok"] for row in found["protocols"]] == [True, False, False]
    assert found["broken_pictures"][0]["name"] == "v0"
    assert all(file["found"] for file in found["files"])
