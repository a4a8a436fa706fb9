"""`evaluate --rankings`: anybody's ranked lists under a dataset's protocol, for models without embeddings.

The rank of a query is the place of the first positive in its list. Lists may end at the largest
cut-off: where no positive is listed the rank is the gallery's size, a miss at every cut-off, so
that all metrics at the cut-offs are exact. Lists carry no ties: their order is taken as it is.

Subset metrics come from lists that hold all members of every query's subset, or from a file of
their own; where neither is there they are left out, and the result says so.

Notation: Q queries, G gallery pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.dataset import IntArray, Ragged, Task
from benchmark.errors import UserError
from benchmark.evaluation.evaluator import TaskResult
from benchmark.evaluation.per_query import TOP
from benchmark.evaluation.ranking import Ranks
from benchmark.interop.list_checks import ListFaults, check_queries, subset_candidates, subset_lists
from benchmark.interop.list_protocol import advice, checked_gallery_lists, choose_protocol
from benchmark.interop.outside import METHOD, open_outside, with_note, write_outside
from benchmark.interop.ranked_lists import Metric, RankedLists, read_ranked_lists
from benchmark.options import make_options
from benchmark.progress import say
from benchmark.records.measurement import DOUBTFUL, Outside
from benchmark.records.record import Record

_NO_SUBSET = "no subset recall: not every list holds all members of its subset; give them with --subset-rankings"


def evaluate_rankings(
    file: Path, dataset: str, subset_file: Path | None = None, name: str = "", **values: Any
) -> tuple[Record, Path]:
    """Score a file of ranked lists; gives the record and its folder.

    A list is made under one protocol (whether the reference is ranked, which gallery): the one that is
    named, or the only one that fits. ``name`` is the row's title, by default the file's name; ``values``
    are `RunOptions` fields. Raises UserError with everything that is wrong with a file.
    """
    run = open_outside(make_options(method=METHOD, dataset=dataset, **values))
    lists, subsets, digests = read_both(file, subset_file)
    choice = choose_protocol(lists, run)
    doubts = f"{DOUBTFUL}{'; '.join(choice.doubts)}" if choice.doubts else ""
    evidence = (*choice.evidence, doubts) if doubts else choice.evidence
    for line in evidence:
        say(line)
    tested = score_lists([with_note(task, doubts) for task in choice.tasks], run.dataset.pictures.names, lists, subsets)
    return write_outside(run, "rankings", name or file.stem, tested, digests, Outside(evidence=evidence))


def read_both(file: Path, subset_file: Path | None) -> tuple[RankedLists, RankedLists | None, dict[str, str]]:
    """Lists of the gallery, lists of the subsets where there are any, and the files' digests by name."""
    lists = _read_for(file, "recall", "--rankings")
    if subset_file is None:
        return lists, None, {file.name: lists.digest}
    subsets = _read_for(subset_file, "recall_subset", "--subset-rankings")
    name = subset_file.name if subset_file.name != file.name else f"subset-{subset_file.name}"
    return lists, subsets, {file.name: lists.digest, name: subsets.digest}


def _read_for(file: Path, metric: Metric, option: str) -> RankedLists:
    found = read_ranked_lists(file)
    if found.metric not in ("", metric):
        raise UserError(f"{file}: a server file of metric '{found.metric}'; {option} takes one of '{metric}'")
    return found


def score_lists(
    tasks: Sequence[Task], names: Sequence[str], lists: RankedLists, subsets: RankedLists | None
) -> list[TaskResult]:
    """Check the lists of all tasks, then score them; ``names`` are the dataset's picture names."""
    main, by_subset = checked_lists(tasks, names, lists, subsets)
    return [_score(task, found, members) for task, found, members in zip(tasks, main, by_subset, strict=True)]


def checked_lists(
    tasks: Sequence[Task], names: Sequence[str], lists: RankedLists, subsets: RankedLists | None
) -> tuple[list[list[IntArray]], list[list[IntArray] | None]]:
    """Gallery indices of every task's lists, and of its subsets' lists; raises UserError with all faults."""
    main = checked_gallery_lists(tasks, names, lists)
    if subsets is None:
        return main, [None] * len(tasks)
    if any(task.queries.subset is None for task in tasks):
        raise UserError(f"{subsets.path}: {tasks[0].key} ranks no subsets; leave --subset-rankings out")
    faults = ListFaults(subsets.path, advice(tasks))
    check_queries(subsets.lists, tasks, faults)
    of_subsets: list[list[IntArray] | None] = [subset_lists(subsets.lists, task, names, faults) for task in tasks]
    faults.raise_all()
    return main, of_subsets


def _score(task: Task, lists: list[IntArray], subsets: list[IntArray] | None) -> TaskResult:
    subset_rank = None if task.queries.subset is None else _subset_ranks(task, lists, subsets)
    noted = with_note(task, _NO_SUBSET if subset_rank is None and task.queries.subset is not None else "")
    top = np.full((len(lists), min(TOP, len(task.gallery))), -1, dtype=np.int64)
    for row, ranked in zip(top, lists, strict=True):
        row[: len(ranked)] = ranked[: len(row)]
    return TaskResult(noted, list_ranks(task, lists, subset_rank), top)


def list_ranks(task: Task, lists: Sequence[IntArray], subset_rank: IntArray | None) -> Ranks:
    """Ranks from lists of gallery indices; a positive that is not listed has rank G."""
    positives = task.queries.positives
    places = np.full(len(positives.values), len(task.gallery), dtype=np.int64)
    rank = np.zeros(len(positives), dtype=np.int64)
    for i, ranked in enumerate(lists):
        mine = slice(positives.offsets[i], positives.offsets[i + 1])
        place = {int(picture): number for number, picture in enumerate(ranked, 1)}
        found = [place.get(int(picture), len(task.gallery)) for picture in positives.values[mine]]
        places[mine] = found
        rank[i] = min(found, default=0)
    return Ranks(rank, np.zeros_like(rank), subset_rank, Ragged(positives.offsets, places))


def _subset_ranks(task: Task, lists: list[IntArray], subsets: list[IntArray] | None) -> IntArray | None:
    """Rank of the best positive among the members (Q,); None where the lists do not tell it.

    A positive that a file of subsets does not list stands behind all other candidates.
    """
    rank = np.zeros(len(lists), dtype=np.int64)
    for i, ranked in enumerate(lists):
        candidates = set(subset_candidates(task, i))
        if subsets is None and not candidates.issubset(ranked.tolist()):
            return None
        positives = set(task.queries.positives[i].tolist())
        order = [int(m) for m in (ranked if subsets is None else subsets[i]) if int(m) in candidates]
        last = 1 + len(candidates - positives)
        rank[i] = next((place for place, m in enumerate(order, 1) if m in positives), last) if positives else 0
    return rank
