"""Datasets without their missing pictures: what is left of tasks, against a plain recomputation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmark.datasets import cirr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmark.data.dataset_choice import EVALUATED, open_dataset
from benchmark.data.partial import PartialDataset, missing_pictures, remaining_task, without_missing
from benchmark.data.wrapped import missing_names
from benchmark.dataset import Counts, Dataset, Queries, Ragged, Task, TaskKey
from benchmark.options import make_options
from benchmark.registry import discover

CUT = Path(__file__).resolve().parents[2] / "data" / "cirr_cut"
PICTURES = 12


def task(rng: np.random.Generator, labelled: bool) -> Task:
    """A task with galleries that lack some references, several positives, subsets and stand-ins."""
    gallery = rng.permutation(PICTURES)[:8]
    queries, position = 6, {int(p): i for i, p in enumerate(gallery)}
    picture = rng.integers(PICTURES, size=queries)
    sets = [rng.choice(8, size=rng.integers(1, 4), replace=False).tolist() if labelled else [] for _ in range(queries)]
    return Task(
        key=TaskKey("x", "val", "official", "single"),
        queries=Queries(
            ids=tuple("abcdef"),
            reference_picture=picture,
            reference_in_gallery=np.array([position.get(int(p), -1) for p in picture]),
            texts=tuple("ABCDEF"),
            positives=Ragged.of(sets),
            group=picture,
            subset=rng.integers(8, size=(queries, 3)),
            feature_picture=rng.integers(PICTURES, size=queries),
        ),
        gallery=gallery,
        exclude_reference=True,
        cutoffs=(1,),
        labelled=labelled,
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, PICTURES - 1), max_size=6), st.booleans())
def test_what_remains_is_what_a_plain_filter_leaves(seed: int, missing: list[int], labelled: bool) -> None:
    whole = task(np.random.default_rng(seed), labelled)
    gone = np.isin(np.arange(PICTURES), missing)
    left = remaining_task(whole, gone)
    queries, old = left.queries, whole.queries
    assert left.gallery.tolist() == [p for p in whole.gallery.tolist() if p not in missing]
    assert old.feature_picture is not None
    assert old.subset is not None
    wanted = []
    for i in range(len(old)):
        answers = [p for p in whole.gallery[old.positives[i]].tolist() if p not in missing]
        if old.reference_picture[i] not in missing and old.feature_picture[i] not in missing and (answers or not labelled):
            reference = whole.gallery[old.reference_in_gallery[i]] if old.reference_in_gallery[i] >= 0 else None
            subset = [p if p not in missing else None for p in whole.gallery[old.subset[i]].tolist()]
            wanted.append((old.ids[i], old.texts[i], old.reference_picture[i], reference, answers, subset))
    assert queries.subset is not None
    found = []
    for i in range(len(queries)):
        reference = left.gallery[queries.reference_in_gallery[i]] if queries.reference_in_gallery[i] >= 0 else None
        subset = [left.gallery[j] if j >= 0 else None for j in queries.subset[i]]
        answers = left.gallery[queries.positives[i]].tolist()
        found.append((queries.ids[i], queries.texts[i], queries.reference_picture[i], reference, answers, subset))
    assert found == wanted


@pytest.fixture
def dataset() -> Dataset:
    """CIRR's cut, whose pictures are not there."""
    return cirr.load(CUT, splits=("val",))


def with_counts(dataset: Dataset, right: bool) -> Dataset:
    """The dataset with counts that are as expected, or not."""

    class Counted(cirr.CIRR):
        def counts(self) -> tuple[Counts, ...]:
            return tuple(replace(c, expected=c.found if right else c.found + 1) for c in super().counts())

    dataset.__class__ = Counted
    return dataset


def test_a_whole_dataset_stays_itself(dataset: Dataset, tmp_path: Path) -> None:
    whole = with_counts(dataset, right=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    whole.pictures = replace(whole.pictures, paths=(tmp_path / "one.png",) * len(whole.pictures))
    assert not len(missing_pictures(whole, ("val",)))
    assert without_missing(whole, ("val",)) is whole


def test_a_picture_that_cannot_be_read_is_as_good_as_missing(dataset: Dataset, tmp_path: Path) -> None:
    whole = with_counts(dataset, right=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "one.png").read_bytes()[:30])
    paths = [tmp_path / "one.png"] * len(whole.pictures)
    paths[3] = tmp_path / "cut.png"
    whole.pictures = replace(whole.pictures, paths=tuple(paths))
    assert missing_pictures(whole, ("val",)).tolist() == [3]
    left = without_missing(whole, ("val",))
    assert isinstance(left, PartialDataset) and left.missing == (whole.pictures.names[3],)


def test_wrong_counts_alone_make_it_partial(dataset: Dataset) -> None:
    wrong = with_counts(dataset, right=False)
    left = PartialDataset(wrong, np.array([], dtype=np.int64))
    (task,) = left.tasks("val", "official", "as-is")
    assert task.key.protocol == "official-partial"
    assert len(task.queries) == 17
    assert "val has 17 queries, 18 are expected" in task.notes


def test_a_missing_picture_goes_from_tasks_lists_and_names(dataset: Dataset) -> None:
    whole = with_counts(dataset, right=True)
    (before,) = whole.tasks("val", "official", "as-is")
    target = int(before.gallery[before.queries.positives.values[0]])
    left = PartialDataset(whole, np.array([target]))
    (after,) = left.tasks("val", "official", "as-is")
    lost = [
        i
        for i in range(17)
        if target in (before.queries.reference_picture[i], before.gallery[before.queries.positives[i][0]])
    ]
    assert isinstance(left, Dataset)
    assert left.missing == (whole.pictures.names[target],)
    assert len(after.queries) == 17 - len(lost) < 17
    assert after.key.protocol == "official-partial"
    scored = f"{17 - len(lost)} of 17 queries and 17 of 18 gallery pictures are scored"
    assert f"pictures are missing: {scored}" in after.notes
    assert target not in left.split_pictures("val")
    assert left.fingerprint != whole.fingerprint
    assert left.protocols == whole.protocols


def test_all_pictures_of_the_cut_are_missing(dataset: Dataset) -> None:
    assert missing_pictures(dataset, ("val",)).tolist() == list(range(18))


@pytest.mark.parametrize("needed", [("train", EVALUATED), (EVALUATED,)], ids=["a training run", "an evaluation"])
def test_pictures_of_splits_that_are_not_needed_are_not_looked_for(
    small_cirr: Path, tmp_path: Path, needed: tuple[str, ...]
) -> None:
    data = shutil.copytree(small_cirr, tmp_path / "cirr")
    pictures = json.loads((data / "image_splits" / "split.rc2.train.json").read_text())
    name, path = next(iter(pictures.items()))
    (data / path).write_bytes((data / path).read_bytes()[:30])
    options = make_options(method="sum", dataset="cirr", data_root=data, allow_missing=True)
    opened = open_dataset(discover(), options, needed, ("train", EVALUATED))
    assert missing_names(opened) == ((name,) if "train" in needed else ())
