"""Official test servers: their files, what these must be, and the numbers that came back.

CIRR's takes the best 50 pictures of every pair of test1, and the best 3 of its subset: names without folder or ending,
best first, the reference left out (annotation version rc2). CIRCO's takes one file, the ids of the best 50 pictures of
every query of test as numbers; the reference may be among them. Nothing is written unless all files are right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark.data.annotations import Problems, type_problem
from benchmark.dataset import Dataset, Task
from benchmark.errors import UserError, unknown_name
from benchmark.evaluation.metrics import components
from benchmark.files import atomic_write_json, atomic_write_text, folder_lock
from benchmark.interop.list_checks import (
    ListFaults,
    check_queries,
    gallery_lists,
    removed_reference,
    subset_candidates,
    subset_lists,
)
from benchmark.interop.ranked_lists import VERSION
from benchmark.pipeline.reporting import TABLE
from benchmark.records.record import Record, Result, read_record, replace_record
from benchmark.records.tables import run_table
from benchmark.structured_files import SMALL, read_json, typed

FOLDER, MANIFEST = "submission", "submission.json"
RECALL_FILE, SUBSET_FILE = "cirr-test1-recall.json", "cirr-test1-recall_subset.json"
LARGEST_FILE = 5_000_000

Lists = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class HiddenSplitServer:
    """Where a dataset's hidden ``split`` is scored.

    ``files``: name of the one of the gallery's lists, and of the one of the subsets' where there is one. ``families``:
    what it returns, by growing cut-off; ``average``: what papers make of it. ``protocols``: which it can score, the
    first by default. ``content``: what a file holds, of which lists ("recall", "recall_subset").
    """

    dataset: str
    title: str
    split: str
    protocols: tuple[str, ...]
    addresses: tuple[str, ...]
    files: tuple[str, ...]
    families: tuple[tuple[str, ...], ...]
    content: Callable[[str, Lists], dict[str, Any]]
    average: str = ""

    @property
    def known(self) -> tuple[str, ...]:
        return tuple(name for family in self.families for name in family)


CIRR = HiddenSplitServer(
    "cirr", "CIRR", "test1", ("official",),
    addresses=("http://cirr.cecs.anu.edu.au", "https://cirr.junjie.au"),
    files=(RECALL_FILE, SUBSET_FILE),
    # R@2 stands in no paper, and is kept as it comes.
    families=(("R@1", "R@2", "R@5", "R@10", "R@50"), ("R_subset@1", "R_subset@2", "R_subset@3")),
    content=lambda metric, lists: {"version": VERSION, "metric": metric, **{q: list(r) for q, r in lists.items()}},
    average="(R@5+R_subset@1)/2",
)  # fmt: skip
CIRCO = HiddenSplitServer(
    "circo", "CIRCO", "test", ("official", "official-noref"),
    addresses=("https://circo.micc.unifi.it",),
    files=("circo-test.json",),
    families=tuple(tuple(f"{kind}@{k}" for k in (5, 10, 25, 50)) for kind in ("mAP", "R_target")),
    content=lambda metric, lists: {query: list(map(int, ranked)) for query, ranked in lists.items()},
)  # fmt: skip
SERVERS: Mapping[str, HiddenSplitServer] = {server.dataset: server for server in (CIRR, CIRCO)}


def server_of(dataset: str, what: str) -> HiddenSplitServer:
    """Raises UserError where there is none; ``what`` is of the dataset."""
    if dataset not in SERVERS:
        raise UserError(f"{what}: a run on {dataset}; only {' and '.join(SERVERS)} have a test server")
    return SERVERS[dataset]


@dataclass(frozen=True)
class ServerLists:
    """Names by pair, best first: of the whole gallery, and of the subsets, where the server takes them."""

    recall: Lists
    recall_subset: Lists = field(default_factory=dict)

    @property
    def parts(self) -> tuple[tuple[str, Lists], ...]:
        """In the order of a server's files, by what CIRR's calls them."""
        return ("recall", self.recall), ("recall_subset", self.recall_subset)

    def cut(self, task: Task) -> ServerLists:
        """The same lists, cut to the lengths that the server expects."""
        longest, of_subset = max(task.cutoffs), max(task.subset_cutoffs, default=0)
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
    split: str
    protocol: str
    server: str = CIRR.dataset


def check_lists(lists: ServerLists, task: Task, dataset: Dataset) -> None:
    """Raise UserError where a file would be wrong, with all faults of all files.

    Faults are a missing or unknown pair, a repeated name, the reference where it is not ranked, a name outside of the
    gallery or of the subset, and a list that is not exactly as long as the server expects.
    """
    problems = []
    server, names = server_of(dataset.info.name, dataset.label), dataset.pictures.names
    for file, (metric, found) in zip(server.files, lists.parts, strict=False):
        faults = ListFaults(Path(file), "nothing was written")
        check_queries(found, [task], faults)
        of_gallery = metric == "recall"
        (gallery_lists if of_gallery else subset_lists)(found, task, names, faults)
        for number, query in enumerate(task.queries.ids):
            if of_gallery:
                longest = min(max(task.cutoffs), len(task.gallery) - (removed_reference(task, number) >= 0))
            else:
                longest = min(max(task.subset_cutoffs), len(subset_candidates(task, number)))
            if len(found.get(query, ())) > longest:
                faults.add(f"lists longer than {longest} names", query)
        try:
            faults.raise_all()
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError.collect(problems)


def write_submission(
    folder: Path, lists: ServerLists, task: Task, dataset: Dataset, weights_from: str
) -> Submission:
    """Check and write the files, and beside them what they are; gives the latter.

    Raises UserError, before anything is written, where a file is wrong or not under 5 MB.
    """
    check_lists(lists, task, dataset)
    server, order = SERVERS[dataset.info.name], task.queries.ids
    texts = {
        file: json.dumps(server.content(metric, {query: found[query] for query in order}), separators=(",", ":"))
        for file, (metric, found) in zip(server.files, lists.parts, strict=False)
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
        split=task.key.split,
        protocol=task.key.protocol,
        server=server.dataset,
    )
    (folder / MANIFEST).unlink(missing_ok=True)
    for file, text in texts.items():
        atomic_write_text(folder / file, text)
    atomic_write_json(folder / MANIFEST, asdict(written))
    return written


def read_submission(folder: Path) -> Submission:
    """What was written into a folder; raises UserError where it holds no whole submission."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no submission was written here; write one with `submit`, or name its --output")
    return typed(Submission, read_json(path, SMALL), str(path), "not written by `submit`; write the submission again")


def read_server_numbers(path: Path, server: HiddenSplitServer) -> dict[str, float]:
    """Metrics in percent, some or all of those that the server returns.

    Raises UserError where a name or number is wrong, where a recall falls as its cut-off grows, or
    where all look like shares instead of percentages.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        example = json.dumps({family[0]: 40.1 for family in server.families})
        raise UserError(f"{path}: must be a JSON object such as {example}")
    problems = Problems("give the server's percentages by these names: " + ", ".join(server.known))
    for name, value in content.items():
        if name not in server.known:
            problems.add(path, str(unknown_name("metric", name, server.known)))
        elif (fault := type_problem(value, float)) is not None and type_problem(value, int) is not None:
            problems.add(path, f"{name} {fault}")
        elif not 0 <= value <= 100:
            problems.add(path, f"{name} is {value}, not between 0 and 100")
    problems.raise_all()
    for family in server.families:
        if family[0].startswith("mAP"):
            continue  # a precision may fall
        given = [name for name in family if name in content]
        for name, wider in zip(given, given[1:], strict=False):
            if content[name] > content[wider]:
                problems.add(path, f"{name} is {content[name]}, more than {wider}, {content[wider]}")
    if 0 < max(content.values()) <= 1:
        problems.add(path, "no number is above 1: these look like shares")
    problems.raise_all()
    return {name: float(value) for name, value in content.items()}


def add_server_numbers(run: Path, numbers: Path, submission: str = "") -> Record:
    """Add the server's numbers to a run's record and its table; gives the record as it stands then.

    ``submission``: the folder of what was submitted, by default the run's own. Numbers of the
    second file may follow those of the first; a metric that is there with another value is refused.
    """
    with folder_lock(run, "adding the server's numbers"):
        record = read_record(run)
        submitted = read_submission(Path(submission) if submission else run / FOLDER)
        server = server_of(submitted.server, str(run))
        found = read_server_numbers(numbers, server)
        if not submitted.is_official:
            raise UserError(
                f"{run}: submitted from '{submitted.dataset}'; the server scores {server.title}'s own "
                f"{server.split} only"
            )
        data = record.identity.data
        if data is None or data.label != submitted.dataset:
            raise UserError(f"{run}: its submission was made on '{submitted.dataset}', the run was not")
        added = record.model_copy(update={"results": _with_numbers(record, submitted, server, found, run)})
        atomic_write_text(run / TABLE, run_table(added) + "\n")
        return replace_record(run, added)


def _with_numbers(
    record: Record, submitted: Submission, server: HiddenSplitServer, found: dict[str, float], run: Path
) -> tuple[Result, ...]:
    new = Result.model_validate(
        {
            "dataset": submitted.dataset,
            "split": submitted.split,
            "protocol": submitted.protocol,
            "text_mode": submitted.text_mode,
            "weights_from": submitted.weights_from,
            "measured_by": "server",
            "metrics": _ordered(found, server),
            "queries": submitted.queries,
            "gallery": submitted.gallery,
        }
    )
    column = (new.key, new.weights_from, new.measured_by)
    old = next((r for r in record.results if (r.key, r.weights_from, r.measured_by) == column), None)
    if old is None:
        return (*record.results, new)
    for name in found:
        if old.metrics.get(name, found[name]) != found[name]:
            raise UserError(
                f"{run}: has {name} {old.metrics[name]} from the server already, not {found[name]}; "
                "remove that result from its record to replace it"
            )
    merged = old.model_copy(update={"metrics": _ordered({**old.metrics, **found}, server)})
    return tuple(merged if result is old else result for result in record.results)


def _ordered(metrics: Mapping[str, float], server: HiddenSplitServer) -> dict[str, float]:
    """The server's metrics in its order, and the mean that papers report, which it does not return."""
    ordered = {name: metrics[name] for name in server.known if name in metrics}
    parts = [ordered[name] for name in components(server.average) if name in ordered]
    return ordered | ({server.average: sum(parts) / 2} if len(parts) == 2 else {})
