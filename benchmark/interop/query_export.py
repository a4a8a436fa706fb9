"""`data export-queries`: a protocol's gallery and queries as JSON lines, for who embeds or ranks elsewhere.

First a line for each gallery picture, in the gallery's order, each picture once, then one for each
query. There are no labels in it. Keys of a gallery line:

- ``gallery``: the picture's name, which is its id in embeddings and rankings; ``path``: its file;
- ``categories``: whose galleries it belongs to, where the dataset has categories.

Keys of a query line:

- ``query``: its id; ``reference``: the reference picture's name; ``path``: its file; ``text``: the
  modification text after the text rule, as a method of this program would read it;
- ``split``, ``protocol``, ``text_mode``, ``category`` ("" where the dataset has none);
- ``reference_ranked``: whether the reference is among the pictures ranked for this query;
- ``subset``: names of its subset without the removed reference, where the dataset has subsets;
- ``stand_in``, ``stand_in_path``: another picture whose global feature stands in for the
  reference's, under protocols that say so (Fashion200k's `spirit`);
- ``queries_digest``: of all queries of the file. Embeddings and rankings that repeat it prove which
  queries they were made for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark.data.protocols import chosen_tasks
from benchmark.dataset import Pictures, Task
from benchmark.errors import UserError
from benchmark.files import atomic_path, format_json
from benchmark.interop.list_checks import subset_candidates
from benchmark.interop.outside import METHOD, open_outside, queries_digest
from benchmark.options import make_options
from benchmark.progress import say


def export_queries(dataset: str, output: Path, split: str = "", **values: Any) -> tuple[int, int]:
    """Write the lines of one protocol, the dataset's default one if none is named.

    ``split`` "" is the one that is evaluated; ``values`` are `RunOptions` fields. Gives the numbers
    of gallery pictures and of queries. The same folder of data gives the same bytes.
    """
    run = open_outside(make_options(method=METHOD, dataset=dataset, **values), split)
    protocols = run.options.protocol or (run.dataset.info.default_protocol,)
    if len(protocols) > 1:
        raise UserError("--protocol: a file holds the queries of one protocol; export them one at a time")
    tasks = chosen_tasks(run.dataset, split or run.dataset.info.evaluation_split, protocols, run.rule)
    pictures = run.dataset.pictures
    gallery, queries = list(gallery_lines(tasks, pictures)), list(query_lines(tasks, pictures))
    with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        for line in (*gallery, *queries):
            stream.write(format_json(line) + "\n")
    missing = sum(not Path(line["path"]).is_file() for line in gallery)
    if missing:
        say(f"{missing:,} of {len(gallery):,} pictures are not here; their paths say where they are looked for")
    return len(gallery), len(queries)


def gallery_lines(tasks: Sequence[Task], pictures: Pictures) -> Iterator[dict[str, Any]]:
    """One line for each picture of any of the tasks' galleries."""
    categories: dict[int, list[str]] = {}
    for task in tasks:
        for picture in task.gallery.tolist():
            categories.setdefault(picture, []).append(task.key.category)
    for picture, names in categories.items():
        line: dict[str, Any] = {"gallery": pictures.names[picture], "path": _path(pictures, picture)}
        yield line | ({"categories": names} if any(names) else {})


def query_lines(tasks: Sequence[Task], pictures: Pictures) -> Iterator[dict[str, Any]]:
    """One line for each query of all tasks of one protocol."""
    digest = queries_digest(tasks, pictures.names)
    for task in tasks:
        for i in range(len(task.queries)):
            yield {**_query_line(task, i, pictures), "queries_digest": digest}


def _query_line(task: Task, i: int, pictures: Pictures) -> dict[str, Any]:
    queries, key = task.queries, task.key
    picture = int(queries.reference_picture[i])
    line: dict[str, Any] = {
        "query": queries.ids[i],
        "reference": pictures.names[picture],
        "path": _path(pictures, picture),
        "text": queries.texts[i],
        "split": key.split,
        "protocol": key.protocol,
        "text_mode": key.text_mode,
        "category": key.category,
        "reference_ranked": bool(queries.reference_in_gallery[i] >= 0) and not task.exclude_reference,
    }
    if queries.subset is not None:
        line["subset"] = [pictures.names[task.gallery[member]] for member in subset_candidates(task, i)]
    if queries.feature_picture is not None:
        stand_in = int(queries.feature_picture[i])
        line |= {"stand_in": pictures.names[stand_in], "stand_in_path": _path(pictures, stand_in)}
    return line


def _path(pictures: Pictures, picture: int) -> str:
    return os.path.abspath(pictures.paths[picture])
