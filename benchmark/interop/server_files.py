"""The two files of CIRR's official test server: what they must be, and how they are written.

The best 50 pictures of every pair of test1, and the best 3 of its subset: names without folder or
ending, best first, the reference left out (annotation version rc2). Nothing is written unless
both files are right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.dataset import Dataset, Task
from benchmark.errors import UserError
from benchmark.files import atomic_write_json, atomic_write_text, read_json
from benchmark.interop.list_checks import (
    ListFaults,
    check_queries,
    gallery_lists,
    removed_reference,
    subset_candidates,
    subset_lists,
)
from benchmark.interop.ranked_lists import VERSION

DATASET, SPLIT, PROTOCOL = "cirr", "test1", "official"
FOLDER, MANIFEST = "submission", "submission.json"
SERVERS = ("http://cirr.cecs.anu.edu.au", "https://cirr.junjie.au")
RECALL_FILE, SUBSET_FILE = "cirr-test1-recall.json", "cirr-test1-recall_subset.json"
LARGEST_FILE = 5_000_000

Lists = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class ServerLists:
    """Names by pair, best first: of the whole gallery, and of the subsets."""

    recall: Lists
    recall_subset: Lists

    def cut(self, task: Task) -> ServerLists:
        """The same lists, cut to the lengths that the server expects."""
        longest, of_subset = max(task.cutoffs), max(task.subset_cutoffs)
        return ServerLists(
            {query: ranking[:longest] for query, ranking in self.recall.items()},
            {query: ranking[:of_subset] for query, ranking in self.recall_subset.items()},
        )


@dataclass(frozen=True)
class Submission:
    """What was written for the server: the column its numbers belong to, and the files' sha256 by name."""

    dataset: str
    is_official: bool
    text_mode: str
    weights_from: str
    queries: int
    gallery: int
    files: dict[str, str]
    split: str = SPLIT
    protocol: str = PROTOCOL


def check_lists(lists: ServerLists, task: Task, names: Sequence[str]) -> None:
    """Raise UserError where a file would be wrong, with all faults of both files.

    Faults are a missing or unknown pair, a repeated name, the reference, a name outside of the
    gallery or of the subset, and a list that is not exactly as long as the server expects.
    ``names`` are the dataset's picture names.
    """
    problems = []
    for file, found in ((RECALL_FILE, lists.recall), (SUBSET_FILE, lists.recall_subset)):
        faults = ListFaults(Path(file), "nothing was written")
        check_queries(found, [task], faults)
        (gallery_lists if file == RECALL_FILE else subset_lists)(found, task, names, faults)
        for number, query in enumerate(task.queries.ids):
            longest = _gallery_length(task, number) if file == RECALL_FILE else _subset_length(task, number)
            if len(found.get(query, ())) > longest:
                faults.add(f"lists longer than {longest} names", query)
        try:
            faults.raise_all()
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError.collect(problems)


def _gallery_length(task: Task, query: int) -> int:
    return min(max(task.cutoffs), len(task.gallery) - (removed_reference(task, query) >= 0))


def _subset_length(task: Task, query: int) -> int:
    return min(max(task.subset_cutoffs), len(subset_candidates(task, query)))


def write_submission(
    folder: Path, lists: ServerLists, task: Task, dataset: Dataset, weights_from: str
) -> Submission:
    """Check and write both files, and beside them what they are; gives the latter.

    Raises UserError, before anything is written, where a file is wrong or not under 5 MB.
    """
    check_lists(lists, task, dataset.pictures.names)
    texts = {
        RECALL_FILE: _text("recall", lists.recall, task.queries.ids),
        SUBSET_FILE: _text("recall_subset", lists.recall_subset, task.queries.ids),
    }
    for file, text in texts.items():
        if len(text.encode()) >= LARGEST_FILE:
            raise UserError(
                f"{file}: would have {len(text.encode()):,} bytes, and the server takes less than 5 MB; "
                "check the pictures' names"
            )
    written = Submission(
        dataset=dataset.label,
        is_official=dataset.is_official,
        text_mode=task.key.text_mode,
        weights_from=weights_from,
        queries=len(task.queries),
        gallery=len(task.gallery),
        files={file: hashlib.sha256(text.encode()).hexdigest() for file, text in texts.items()},
    )
    (folder / MANIFEST).unlink(missing_ok=True)
    for file, text in texts.items():
        atomic_write_text(folder / file, text)
    atomic_write_json(folder / MANIFEST, asdict(written))
    return written


def _text(metric: str, lists: Lists, order: Sequence[str]) -> str:
    content: dict[str, Any] = {"version": VERSION, "metric": metric}
    return json.dumps(content | {query: list(lists[query]) for query in order}, separators=(",", ":"))


def read_submission(folder: Path) -> Submission:
    """What was written into a folder; raises UserError where it holds no whole submission."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no submission was written here; write one with `submit`, or name its --output")
    try:
        return Submission(**read_json(path))
    except TypeError:
        raise UserError(f"{path}: not written by `submit`; write the submission again") from None
