"""`--subset FILE`: an evaluation of listed queries alone (a label file such as CIRCUS'), against the whole gallery.

Ranks are found as ever, and the listed queries' are kept. Their protocol is called `<protocol>-subset-<name>`, so
that no column holds both; the file's digest belongs to a record's identity.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmark.dataset import IntArray, Task
from benchmark.errors import UserError, first_of
from benchmark.evaluation.evaluator import TaskResult
from benchmark.evaluation.ranking import Ranks
from benchmark.files import file_digest
from benchmark.structured_files import read_json, read_text


@dataclass(frozen=True)
class QuerySubset:
    """``name``: the file's, without its ending; ``ids``: of the queries that are kept."""

    path: Path
    name: str
    digest: str
    ids: frozenset[str]

    def require_known(self, tasks: Sequence[Task]) -> None:
        """Raises UserError where a listed query is none of the tasks'."""
        known = {query for task in tasks for query in task.queries.ids}
        unknown = sorted(self.ids - known)
        if unknown:
            raise UserError(
                f"--subset {self.path}: {len(unknown):,} of its {len(self.ids):,} ids are no query of "
                f"{tasks[0].key} ({first_of(unknown, 3)}); list ids as `data export-queries` writes them"
            )

    def restrict(self, results: Sequence[TaskResult]) -> list[TaskResult]:
        """Of each result the listed queries; a task without any is left out."""
        kept = [(result, np.flatnonzero([q in self.ids for q in result.task.queries.ids])) for result in results]
        return [self._of(result, index) for result, index in kept if len(index)]

    def _of(self, result: TaskResult, index: IntArray) -> TaskResult:
        task = result.task
        note = f"{len(index):,} of {len(task.queries):,} queries, those listed in {self.name} ({self.digest[:12]})"
        return TaskResult(
            task=replace(
                task,
                key=replace(task.key, protocol=f"{task.key.protocol}-subset-{self.name}"),
                queries=task.queries.take(index),
                notes=(*task.notes, note),
                texts_cut=0,  # counted over all queries; of these it is not known
            ),
            ranks=_of_queries(result.ranks, index),
            top=_taken(result.top, index),
            picture=None if result.picture is None else _of_queries(result.picture, index),
            text=None if result.text is None else _of_queries(result.text, index),
            prompt_rank=_taken(result.prompt_rank, index),
        )


def _of_queries(ranks: Ranks, index: IntArray) -> Ranks:
    subset_rank, places = _taken(ranks.subset_rank, index), ranks.positive_ranks.take(index)
    return Ranks(ranks.rank[index], ranks.ties[index], subset_rank, places)


def _taken(column: IntArray | None, index: IntArray) -> IntArray | None:
    return None if column is None else column[index]


def read_query_subset(file: str) -> QuerySubset:
    """Ids from a text file, one a line (# begins a remark), or from a JSON list.

    Raises UserError where there are none, or where the file is neither.
    """
    path = Path(file).expanduser()
    if path.suffix == ".json":
        listed = read_json(path)
        if not isinstance(listed, list) or not all(isinstance(each, str | int) for each in listed):
            raise UserError(f'--subset {path}: no list of query ids; write ["id", …], or a text file with one a line')
        ids = [str(each) for each in listed]
    else:
        lines = (line.partition("#")[0].strip() for line in read_text(path).splitlines())
        ids = [line for line in lines if line]
    if not ids:
        raise UserError(f"--subset {path}: lists no query; write one id a line")
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", path.stem).strip("-._")[:40] or "listed"
    return QuerySubset(path, name, file_digest(path), frozenset(ids))
