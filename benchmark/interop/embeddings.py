"""`evaluate --embeddings`: anybody's query and gallery embeddings under a dataset's protocols.

Rows are found by their ids, so that their order is free. The score is the dot product in float32:
whoever scores by the cosine normalises the rows first.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.data.annotations import Problems
from benchmark.data.protocols import chosen_tasks
from benchmark.dataset import Dataset, Task
from benchmark.errors import UserError, first_of, unknown_name
from benchmark.evaluation.evaluator import EncodedTask, score_in_full
from benchmark.interop.embeddings_file import (
    DIGEST,
    GALLERY,
    QUERIES,
    Embeddings,
    EmbeddingsFile,
    announce,
    read_embeddings,
)
from benchmark.interop.outside import METHOD, OutsideRun, open_outside, queries_digest, with_note, write_outside
from benchmark.options import make_options
from benchmark.progress import say
from benchmark.records.measurement import Outside
from benchmark.records.record import Record

_UNIT = 2e-3
"""How far from one a norm may be: float16 rounds by half of that."""


def evaluate_embeddings(file: Path, dataset: str, name: str = "", **values: Any) -> tuple[Record, Path]:
    """Score a file of embeddings; gives the record and its folder.

    ``name`` is the row's title, by default the file's name; ``values`` are `RunOptions` fields.
    Without a protocol, all are scored that fit the text mode and ask the queries that were embedded.
    Raises UserError with everything that is wrong with the file.
    """
    run = open_outside(make_options(method=METHOD, dataset=dataset, **values))
    tasks = chosen_tasks(run.dataset, run.dataset.info.evaluation_split, run.options.protocol, run.rule)
    found = read_embeddings(file)
    encoded, seen = match(found, embedded_tasks(found, tasks, run), run.dataset), seen_to_be(found)
    say(format_seen(seen))
    tested = []
    for one in encoded:
        announce(file, f"ranking {one.task.key}, {len(one.task.queries):,} queries in a gallery of "
                       f"{len(one.task.gallery):,}, from")  # fmt: skip
        tested.append(score_in_full(None, one))
    return write_outside(run, "embeddings", name or file.stem, tested, found.digests, seen)


def embedded_tasks(file: EmbeddingsFile, tasks: Sequence[Task], run: OutsideRun) -> tuple[Task, ...]:
    """The tasks whose queries the file holds, as far as it says.

    Raises UserError where a protocol that was asked for has other queries, or where nothing says that a
    protocol's stand-in references were embedded: the ids are the same, and the numbers would be of no protocol.
    """
    names, kept, digests = run.dataset.pictures.names, [], {}
    for protocol in dict.fromkeys(task.key.protocol for task in tasks):
        own = [task for task in tasks if task.key.protocol == protocol]
        digests[protocol] = queries_digest(own, names)
        stands_in = any(task.queries.feature_picture is not None for task in own)
        if digests[protocol] == file.queries_digest or not (file.queries_digest or stands_in):
            kept += own
        elif protocol in run.options.protocol:
            export = f"`data export-queries {run.dataset.info.name} --protocol {protocol}`"
            reason = (
                f"its {DIGEST} {file.queries_digest} is of other queries than those of protocol {protocol}, "
                f"{digests[protocol]}; embed those of {export}"
                if file.queries_digest
                else f"nothing in it says that its queries were embedded with the stand-in references of protocol "
                f"{protocol}; add the {DIGEST} that stands in the lines of {export}, from which they must be made"
            )
            raise UserError(f"{file.path}: {reason}")
    if not kept:
        known = ", ".join(f"{protocol} {digest}" for protocol, digest in digests.items())
        raise UserError(
            f"{file.path}: its {DIGEST} {file.queries_digest or '(none)'} is of no protocol that fits the split and "
            f"text mode ({known}); embed the queries of `data export-queries {run.dataset.info.name}`"
        )
    return tuple(kept)


def seen_to_be(file: EmbeddingsFile) -> Outside:
    """What the file holds and says of itself."""
    matrices = file.matrices.values()
    widths, types = {matrix.values.shape[1] for matrix in matrices}, {matrix.dtype for matrix in matrices}
    norms = torch.cat([torch.linalg.vector_norm(matrix.values, dim=1) for matrix in matrices])
    return Outside(
        width=widths.pop() if len(widths) == 1 else None,
        dtype=", ".join(sorted(types)),
        norms=(float(norms.min()), float(norms.max())),
        score="dot product in float32",
        evidence=(
            f"{DIGEST} {file.queries_digest}: the queries embedded are those asked"
            if file.queries_digest
            else "the file does not say which queries were embedded",
        ),
    )


def format_seen(seen: Outside) -> str:
    """One line of what is scored, and how."""
    low, high = seen.norms or (0.0, 0.0)
    if max(abs(low - 1), abs(high - 1)) < _UNIT:
        norms = "of unit norm, so that this is the cosine"
    else:
        norms = f"of norms {low:.4g} to {high:.4g}, so that this is not the cosine"
    rounded = " rounded to float32" if "float64" in seen.dtype or "float128" in seen.dtype else ""
    width = f" of width {seen.width:,}" if seen.width is not None else ""
    return f"embeddings{width}, {seen.dtype}{rounded}, scored by their {seen.score}; rows are {norms}"


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
    different: dict[str, None] = {}
    for name in sorted(categories):
        queries, gallery = file.serving(QUERIES, name), file.serving(GALLERY, name)
        if queries is not None and gallery is not None and queries.values.shape[1] != gallery.values.shape[1]:
            both = f"'{queries.key}' {queries.values.shape[1]}, '{gallery.key}' {gallery.values.shape[1]}"
            different[f"widths differ: {both}"] = None
    for text in different:
        problems.add(file.path, text)
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
    shown = _gallery_names(task, names)
    pictures = _rows(gallery, shown)
    # A picture that the labels name twice is two entries of a gallery, and equals no other picture.
    rows = {name: pictures[i] for i, name in enumerate(shown)}
    found = Counter(hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest() for row in rows.values())
    equal = sum(count for count in found.values() if count > 1)
    note = f"{equal:,} of {len(rows):,} gallery embeddings equal another picture's" if equal else ""
    return EncodedTask(with_note(task, note), _rows(queries, task.queries.ids), pictures)


def _rows(matrix: Embeddings, ids: Sequence[str]) -> Tensor:
    """The rows of these ids in their order; no copy where the file has that very order."""
    if matrix.ids == tuple(ids):
        return matrix.values
    position = {name: row for row, name in enumerate(matrix.ids)}
    return matrix.values[torch.tensor([position[name] for name in ids])]
