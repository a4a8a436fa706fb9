"""Which annotation files are the official ones: told by digest, else by the published counts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark.datasets.cirr import CIRR, load

from benchmark.data.annotated import checked_files
from benchmark.data.partial import LimitedDataset
from benchmark.data.verification import verify
from benchmark.files import file_digest
from benchmark.pipeline.reporting import data_identity
from benchmark.registry import discover

CAPTIONS, LIST = "captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"


@pytest.fixture
def folder(small_cirr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a manifest, which is held to be official, whose files and counts are the published ones."""
    copy = Path(shutil.copytree(small_cirr, tmp_path / "cirr"))
    (copy / "dataset.json").unlink()
    digests = {Path(name).name: file_digest(copy / name) for name in (CAPTIONS, LIST)}
    monkeypatch.setattr(CIRR, "info", replace(CIRR.info, official_files=digests))
    counts = {count.what: count.found for count in load(copy, splits=("val",)).counts()}
    monkeypatch.setattr(CIRR, "published", {**CIRR.published, "val": counts})
    return copy


def test_a_file_of_the_listed_digest_is_the_official_one(folder: Path) -> None:
    dataset = load(folder, splits=("val",))
    assert checked_files(dataset) == {"cap.rc2.val.json": "digest", "split.rc2.val.json": "digest"}
    assert data_identity(dataset).checked == dataset.checked
    cut = LimitedDataset(dataset, 3, dataset.tasks("val", "official", "as-is"))
    assert checked_files(cut) == dataset.checked


def test_a_changed_file_differs_even_where_its_counts_do_not(folder: Path) -> None:
    captions = folder / CAPTIONS
    captions.write_text(captions.read_text(encoding="utf-8").replace("{", "{ ", 1), encoding="utf-8")
    dataset = load(folder, splits=("val",))
    assert dataset.checked["cap.rc2.val.json"] == "differs"
    assert data_identity(dataset).different == ["cap.rc2.val.json"]
    found = verify(dataset)
    told = {Path(file["path"]).name: file["official"] for file in found.as_json()["files"]}
    assert told["cap.rc2.val.json"] == "differs" and told["split.rc2.val.json"] == "digest"
    assert told["cap.rc2.train.json"] is None  # that split was not read
    lines = {line.split("|")[2].split("/")[-1].strip(): line for line in found.as_table().splitlines() if ".json" in line}
    assert "found, not the official file" in lines["cap.rc2.val.json"]
    assert "the official file" in lines["split.rc2.val.json"] and "not" not in lines["split.rc2.val.json"]


def test_a_file_that_is_not_listed_is_told_by_its_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"split.rc2.val.json": CIRR.info.official_files["split.rc2.val.json"]}
    monkeypatch.setattr(CIRR, "info", replace(CIRR.info, official_files=listed))
    assert load(folder, splits=("val",)).checked == {"cap.rc2.val.json": "counts", "split.rc2.val.json": "digest"}
    monkeypatch.setattr(CIRR, "published", {**CIRR.published, "val": {"queries": 4}})
    assert load(folder, splits=("val",)).checked["cap.rc2.val.json"] == "differs"


def test_demo_data_and_somebody_s_own_are_not_held_against_official_files(small_cirr: Path) -> None:
    dataset = load(small_cirr, splits=("val",))
    assert checked_files(dataset) == {} and data_identity(dataset).checked == {}


@pytest.mark.parametrize(("name", "count"), [("cirr", 5), ("fashioniq", 18), ("shoes", 4), ("fashion200k", 0), ("circo", 2)])
def test_the_digests_known_are_facts_of_the_datasets(name: str, count: int) -> None:
    digests = discover().datasets()[name].official_files
    assert len(digests) == count == len(set(digests.values()))
    assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in digests.values())
