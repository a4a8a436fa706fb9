"""`evaluate --embeddings`: anybody's query and gallery embeddings under a dataset's protocols.

Rows are found by their ids, so that their order is free. The score is the dot product in float32:
whoever scores by the cosine normalises the rows first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.data.annotations import Problems
from benchmark.data.protocols import chosen_tasks
from benchmark.dataset import Dataset, Task
from benchmark.errors import first_of, unknown_name
from benchmark.evaluation.evaluator import EncodedTask, score_in_full
from benchmark.interop.embeddings_file import GALLERY, QUERIES, Embeddings, EmbeddingsFile, read_embeddings
from benchmark.interop.outside import METHOD, open_outside, with_note, write_outside
from benchmark.options import make_options
from benchmark.records.record import Record


def evaluate_embeddings(file: Path, dataset: str, name: str = "", **values: Any) -> tuple[Record, Path]:
    """Score a file of embeddings; gives the record and its folder.

    ``name`` is the row's title, by default the file's name; ``values`` are `RunOptions` fields.
    Without a protocol, all are scored that fit the text mode and show each query its reference as
    it is. Raises UserError with everything that is wrong with the file.
    """
    run = open_outside(make_options(method=METHOD, dataset=dataset, **values))
    tasks = chosen_tasks(run.dataset, run.dataset.info.evaluation_split, run.options.protocol, run.rule)
    if not run.options.protocol:
        tasks = tuple(task for task in tasks if task.queries.feature_picture is None)
    found = read_embeddings(file)
    tested = [score_in_full(None, encoded) for encoded in match(found, tasks, run.dataset)]
    return write_outside(run, "embeddings", name or file.stem, tested, found.digests)


def match(file: EmbeddingsFile, tasks: Sequence[Task], dataset: Dataset) -> list[EncodedTask]:
    """Rows of a file as the encodings of tasks of one split.

    A gallery may hold further pictures of the split (another protocol's), queries none but the
    tasks'. Raises UserError with counts and the first ten of what is missing or unknown.
    """
    names = dataset.pictures.names
    problems = Problems(
        f"ids are those of `data export-queries {dataset.info.name}`, here split {tasks[0].key.split}, "
        f"text mode {tasks[0].key.text_mode}"
    )
    categories = {task.key.category for task in tasks}
    for key in file.matrices:
        prefix = key.rpartition("/")[0]
        if prefix and prefix not in categories:
            problems.add(file.path, f"'{key}': {unknown_name('category', prefix, categories - {''})}")
    split = [names[i] for i in dataset.split_pictures(tasks[0].key.split)]
    _check_ids(file, QUERIES, [(task, task.queries.ids) for task in tasks], (), problems)
    _check_ids(file, GALLERY, [(task, _gallery_names(task, names)) for task in tasks], split, problems)
    matched = {(file.serving(QUERIES, name), file.serving(GALLERY, name)): None for name in sorted(categories)}
    for queries, gallery in matched:
        if queries is not None and gallery is not None and queries.values.shape[1] != gallery.values.shape[1]:
            widths = f"'{queries.key}' {queries.values.shape[1]}, '{gallery.key}' {gallery.values.shape[1]}"
            problems.add(file.path, f"widths differ: {widths}")
    problems.raise_all()
    return [_encoded(file, task, names) for task in tasks]


def _gallery_names(task: Task, names: Sequence[str]) -> list[str]:
    return [names[i] for i in task.gallery]


def _check_ids(
    file: EmbeddingsFile,
    entry: str,
    wanted: Sequence[tuple[Task, Sequence[str]]],
    allowed: Collection[str],
    problems: Problems,
) -> None:
    """Every wanted id must be there, and no other than those and the allowed ones."""
    by_matrix: dict[str, dict[str, None]] = {}
    absent: dict[str, None] = {}
    for task, ids in wanted:
        category = task.key.category
        matrix = file.serving(entry, category)
        if matrix is None:
            absent[f"neither '{entry}' nor '{category}/{entry}'" if category else f"no '{entry}'"] = None
        else:
            by_matrix.setdefault(matrix.key, {}).update(dict.fromkeys(ids))
    for names in absent:
        problems.add(file.path, f"holds {names}")
    for key, ids_wanted in by_matrix.items():
        there = dict.fromkeys(file.matrices[key].ids)
        missing = [name for name in ids_wanted if name not in there]
        known = {*ids_wanted, *allowed}
        unknown = [name for name in there if name not in known]
        if missing:
            problems.add(
                file.path, f"'{key}' lacks {len(missing):,} of {len(ids_wanted):,} ids: {first_of(missing)}"
            )
        if unknown:
            problems.add(file.path, f"'{key}' has {len(unknown):,} unknown ids: {first_of(unknown)}")


def _encoded(file: EmbeddingsFile, task: Task, names: Sequence[str]) -> EncodedTask:
    queries, gallery = (file.serving(entry, task.key.category) for entry in (QUERIES, GALLERY))
    assert queries is not None and gallery is not None
    pictures = _rows(gallery, _gallery_names(task, names))
    different = len({hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in pictures.numpy()})
    equal = len(pictures) - different
    note = f"{equal:,} of {len(pictures):,} gallery embeddings equal another picture's" if equal else ""
    return EncodedTask(with_note(task, note), _rows(queries, task.queries.ids), pictures)


def _rows(matrix: Embeddings, ids: Sequence[str]) -> Tensor:
    """The rows of these ids in their order; no copy where the file has that very order."""
    if matrix.ids == tuple(ids):
        return matrix.values
    position = {name: row for row, name in enumerate(matrix.ids)}
    return matrix.values[torch.tensor([position[name] for name in ids])]
