"""Ranked lists from outside: files in three formats that are told apart by their content, and what a list must be.

A list is checked alike for scoring and for submission.

- CIRR server JSON: ``{"version": "rc2", "metric": "recall", "12063": ["name", …], …}``, names best
  first; metric ``recall_subset`` for rankings of the subsets;
- TREC run: lines ``query Q0 name rank score tag``, separated by blanks. The rank column orders a
  list, so that it also settles tied scores; scores may not rise where the rank falls, since other
  programs order by them;
- JSON lines: ``{"query": "12063", "ranking": ["name", …]}``, names best first; further keys are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np

from benchmark.data.annotations import Problems
from benchmark.dataset import IntArray, Task
from benchmark.errors import UserError, first_of
from benchmark.files import file_digest
from benchmark.structured_files import DoubledKey, NotWellFormed, parse_json

Metric = Literal["recall", "recall_subset", ""]

VERSION = "rc2"
METRICS: tuple[Metric, ...] = ("recall", "recall_subset")
_COLUMNS = 6


@dataclass(frozen=True)
class RankedLists:
    """Names by query, best first. ``metric``: what a server file says it is for, "" elsewhere."""

    path: Path
    lists: Mapping[str, tuple[str, ...]]
    metric: Metric = ""
    digest: str = ""


def read_ranked_lists(path: Path) -> RankedLists:
    """Read a file in whichever of the formats it is; raises UserError with all its problems."""
    text = _text(path)
    problems = Problems("the README shows the formats of ranked lists")
    metric: Metric = ""
    if not text.lstrip().startswith(("{", "[")):
        lists = _trec_lists(path, text, problems)
    elif _begins_with_a_line_of_json(text):
        lists = _json_lines(path, text, problems)
    else:
        metric, lists = _server_lists(path, text, problems)
    problems.raise_all()
    if not lists:
        raise UserError(f"{path}: holds no ranked lists")
    return RankedLists(path, lists, metric, file_digest(path))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file of ranked lists") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); write the lists as text") from None


def _begins_with_a_line_of_json(text: str) -> bool:
    """Whether the first line is a whole JSON object of a query; a server file is one object of many."""
    try:
        first = parse_json(text.lstrip().split("\n", 1)[0])
    except NotWellFormed:
        return False
    return isinstance(first, dict) and not {"query", "ranking"}.isdisjoint(first)


def _json_lines(path: Path, text: str, problems: Problems) -> dict[str, tuple[str, ...]]:
    lists: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except NotWellFormed as error:
            problems.add(path, f"line {number}: {error}")
            continue
        query, ranking = (entry.get(key) if isinstance(entry, dict) else None for key in ("query", "ranking"))
        if type(query) not in (str, int) or not _are_names(ranking):
            problems.add(path, f'line {number}: not of the form {{"query": "id", "ranking": ["name", …]}}')
        elif str(query) in lists:
            problems.add(path, f"line {number}: a second list for query {query}")
        else:
            lists[str(query)] = tuple(ranking)
    return lists


def _are_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _server_lists(path: Path, text: str, problems: Problems) -> tuple[Metric, dict[str, tuple[str, ...]]]:
    try:
        content = parse_json(text)
    except DoubledKey as error:
        raise UserError(f"{path}: pair {error.key}: a second list; keep one of them") from None
    except NotWellFormed as error:
        raise UserError(f"{path}: {error}; the file may be truncated, write it again") from None
    if not isinstance(content, dict) or content.get("metric") not in METRICS or content.get("version") != VERSION:
        raise UserError(
            f'{path}: neither JSON lines nor CIRR server JSON, which begins {{"version": "{VERSION}", '
            f'"metric": "recall"}} or "recall_subset"'
        )
    lists: dict[str, tuple[str, ...]] = {}
    for key, value in content.items():
        if key in ("version", "metric"):
            continue
        if not _are_names(value):
            problems.add(path, f"pair {key}: not a list of names")
        else:
            lists[key] = tuple(value)
    return content["metric"], lists


def _trec_lists(path: Path, text: str, problems: Problems) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[tuple[int, str, float]]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != _COLUMNS:
            problems.add(path, f"line {number}: {len(columns)} columns, not 'query Q0 name rank score tag'")
            continue
        query, _, name, rank, score, _ = columns
        try:
            found.setdefault(query, []).append((int(rank), name, _finite(score)))
        except ValueError:
            problems.add(path, f"line {number}: rank '{rank}' and score '{score}' must be a whole and a finite number")
    return {query: _ordered(path, query, entries, problems) for query, entries in found.items()}


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _ordered(
    path: Path, query: str, entries: Iterable[tuple[int, str, float]], problems: Problems
) -> tuple[str, ...]:
    """Names by rank; ranks must differ, and no score may be higher than that of a better rank."""
    by_rank = sorted(entries, key=lambda entry: entry[0])
    for (rank, _, score), (next_rank, name, next_score) in zip(by_rank, by_rank[1:], strict=False):
        if rank == next_rank:
            problems.add(path, f"query {query}: rank {rank} stands twice")
            break
        if next_score > score:
            problems.add(path, f"query {query}: {name} at rank {next_rank} scores higher than the name before it")
            break
    return tuple(name for _, name, _ in by_rank)


@dataclass
class ListFaults:
    """What is wrong with the lists of a file, by kind: a line each with the count and the first ten."""

    path: Path
    advice: str
    _queries: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, query: str, name: str = "") -> None:
        self._queries.setdefault(kind, []).append(f"{query} ({name})" if name else query)

    def raise_all(self) -> None:
        """Raise UserError with a line for each kind, if there are any."""
        lines = [
            f"{self.path}: {kind}: {len(queries):,} queries, {first_of(queries)}"
            for kind, queries in self._queries.items()
        ]
        if lines:
            lines[-1] = f"{lines[-1]}; {self.advice}"
            raise UserError.collect(lines)


def removed_reference(task: Task, query: int) -> int:
    """Gallery index of the reference that a query does not rank, -1 where it ranks everything."""
    return int(task.queries.reference_in_gallery[query]) if task.exclude_reference else -1


def subset_candidates(task: Task, query: int) -> list[int]:
    """Gallery indices of a query's subset without its removed reference."""
    assert task.queries.subset is not None
    reference = removed_reference(task, query)
    return [int(member) for member in task.queries.subset[query] if member >= 0 and member != reference]


def check_queries(lists: Mapping[str, object], tasks: Sequence[Task], faults: ListFaults) -> None:
    """Every query of the tasks must have a list, and no other."""
    known = {name for task in tasks for name in task.queries.ids}
    for name in lists:
        if name not in known:
            faults.add("unknown queries", name)
    for task in tasks:
        for name in task.queries.ids:
            if name not in lists:
                faults.add("no list for queries", name)


def gallery_lists(
    lists: Mapping[str, Sequence[str]], task: Task, names: Sequence[str], faults: ListFaults
) -> list[IntArray]:
    """Lists of a task's gallery as gallery indices (n,), query by query; faulty ones come out empty.

    ``names`` are the dataset's picture names.
    """
    position = {names[picture]: i for i, picture in enumerate(task.gallery)}
    wanted = max(task.cutoffs)
    found = []
    for i, query in enumerate(task.queries.ids):
        rankable = len(position) - (removed_reference(task, i) >= 0)
        found.append(_indices(lists, task, i, query, position, min(wanted, rankable), faults, "gallery"))
    return found


def subset_lists(
    lists: Mapping[str, Sequence[str]], task: Task, names: Sequence[str], faults: ListFaults
) -> list[IntArray]:
    """The same for lists of the subsets' members."""
    wanted = max(task.subset_cutoffs)
    assert task.queries.subset is not None
    found = []
    for i, query in enumerate(task.queries.ids):
        members = {names[task.gallery[m]]: int(m) for m in task.queries.subset[i] if m >= 0}
        length = min(wanted, len(subset_candidates(task, i)))
        found.append(_indices(lists, task, i, query, members, length, faults, "subset"))
    return found


def _indices(
    lists: Mapping[str, Sequence[str]],
    task: Task,
    number: int,
    query: str,
    position: Mapping[str, int],
    length: int,
    faults: ListFaults,
    place: str,
) -> IntArray:
    """One list as indices; every kind of fault is told once per list."""
    ranking = lists.get(query)
    if ranking is None:
        return np.zeros(0, dtype=np.int64)
    unknown = [name for name in ranking if name not in position]
    indices = np.array([position[name] for name in ranking if name in position], dtype=np.int64)
    reference = removed_reference(task, number)
    if unknown:
        faults.add(f"names that are not in the {place}", query, unknown[0])
    if len(set(ranking)) < len(ranking):
        faults.add("a name stands twice", query, next(n for i, n in enumerate(ranking) if n in ranking[:i]))
    if reference >= 0 and reference in indices:
        name = next(n for n in ranking if position.get(n) == reference)
        faults.add("the reference is ranked, which this protocol removes", query, name)
    if len(ranking) < length:
        faults.add(f"lists shorter than {length} names", query, f"{len(ranking)} names")
    return indices
