"""`--limit`: queries keep their right answers, subsets and references; features of all that is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.data.partial import limited_task
from benchmark.dataset import Task
from benchmark.options import make_options
from benchmark.pipeline.planning import make_plan
from benchmark.registry import discover


@pytest.fixture(scope="module")
def task(small_cirr: Path) -> Task:
    return discover().load_dataset("cirr", small_cirr, ("val",)).tasks("val", "official", "as-is")[0]


@pytest.mark.parametrize("limit", [1, 5, 24, 1000, 10**12])
def test_a_limited_task_asks_the_same_questions(task: Task, limit: int) -> None:
    cut = limited_task(task, limit)
    n = min(limit, len(task.queries))
    assert cut.queries.ids == task.queries.ids[:n] and cut.queries.texts == task.queries.texts[:n]
    assert len(cut.gallery) >= min(limit, len(task.gallery))
    for i in range(n):
        assert cut.gallery[cut.queries.positives[i]].tolist() == task.gallery[task.queries.positives[i]].tolist()
        assert cut.gallery[cut.queries.reference_in_gallery[i]] == task.gallery[task.queries.reference_in_gallery[i]]
        assert cut.queries.subset is not None and task.queries.subset is not None
        assert cut.gallery[cut.queries.subset[i]].tolist() == task.gallery[task.queries.subset[i]].tolist()


def test_a_reference_outside_the_gallery_stays_outside(task: Task) -> None:
    outside = replace(task.queries, reference_in_gallery=np.full(len(task.queries), -1, dtype=np.int64))
    cut = limited_task(replace(task, queries=outside), 3)
    assert cut.queries.reference_in_gallery.tolist() == [-1, -1, -1]


def test_every_picture_of_the_tasks_is_among_the_split_s(small_cirr: Path) -> None:
    plan = make_plan(make_options(method="sum", dataset="cirr", data_root=str(small_cirr), limit=3))
    pictures = set(plan.dataset.split_pictures("val").tolist())
    for limited in plan.tasks:
        assert {*limited.gallery.tolist(), *limited.queries.reference_picture.tolist()} <= pictures
    triplets = plan.dataset.train_triplets(0, 0)
    assert len(triplets) == 3
    assert {*triplets.reference_picture.tolist(), *triplets.target_picture.tolist()} <= set(plan.dataset.split_pictures("train").tolist())
    assert plan.dataset.fingerprint.endswith("-limit-3")


def test_a_recipe_s_batch_shrinks_with_the_data(small_cirr: Path) -> None:
    plan = make_plan(make_options(method="spirit", dataset="cirr", data_root=str(small_cirr), limit=40))
    assert [planned.settings.batch_size for planned in plan.stages] == [20, 20]
    chosen = make_options(method="spirit", dataset="cirr", data_root=str(small_cirr), limit=40, batch_size=10)
    assert [planned.settings.batch_size for planned in make_plan(chosen).stages] == [20, 10]
