"""What the lists of a file must be, alike for scoring and for submission: every query once, known names, none twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmark.dataset import IntArray, Task
from benchmark.errors import UserError, first_of
from benchmark.interop.ranked_lists import shortened


@dataclass
class ListFaults:
    """What is wrong with the lists of a file, by kind: a line each with the count and the first ten."""

    path: Path
    advice: str
    _queries: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, query: str, name: str = "") -> None:
        shown = f"{shortened(query)} ({shortened(name)})" if name else shortened(query)
        self._queries.setdefault(kind, []).append(shown)

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
