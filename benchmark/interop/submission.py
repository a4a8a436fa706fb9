"""`submit`: files for a dataset's official test server, which alone knows the right answers of its test split.

The lists come from a run's weights, from embeddings, or from ranked lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.data.folders import require_pictures
from benchmark.dataset import Dataset, IntArray, Ragged, Task
from benchmark.distributed.job import Job
from benchmark.distributed.process import this_process
from benchmark.encoding import take
from benchmark.errors import UserError
from benchmark.evaluation.evaluator import EncodedTask, score_function, score_in_full, top_of_task
from benchmark.evaluation.top_lists import top_pictures
from benchmark.interop.embeddings import embedded_tasks, match, seen_to_be
from benchmark.interop.embeddings_file import read_embeddings
from benchmark.interop.outside import METHOD, OutsideRun, open_outside, write_outside
from benchmark.interop.rankings import read_both, score_lists
from benchmark.interop.server_files import (
    FOLDER,
    SERVERS,
    HiddenSplitServer,
    ServerLists,
    Submission,
    check_lists,
    server_of,
    write_submission,
)
from benchmark.method import Method
from benchmark.options import make_options
from benchmark.pipeline.checkpoint_evaluation import load_checkpoint, plan_of
from benchmark.pipeline.run_folder import checked_weights
from benchmark.records.measurement import Outside
from benchmark.records.record import RECORD_NAME, read_record
from benchmark.weights.checkpoints import read_header


@dataclass(frozen=True)
class Submitted:
    """A submission in its ``folder``, and the folder of the run that its numbers belong to."""

    submission: Submission
    folder: Path
    run: Path

    def lines(self) -> list[str]:
        """What the person who submits is told: the files, where to upload them, what comes after."""
        files, server = [str(self.folder / name) for name in self.submission.files], SERVERS[self.submission.server]
        if not self.submission.is_official:
            own = f"{server.title}'s {server.split}"
            return [*files, f"made on '{self.submission.dataset}', not on {own}: the server will not score it"]
        place = "" if self.folder == self.run / FOLDER else f" --output {self.folder}"
        return [
            *files,
            f"upload {'both' if len(files) > 1 else 'it'} at {' or '.join(server.addresses)}",
            f"then add what it returns: python -m benchmark submit {self.run}{place} --server-numbers NUMBERS.json",
        ]


def submit_run(run: Path, output: str, encoder: str, values: Mapping[str, Any]) -> Submitted:
    """Encode the hidden test split with a run's weights and write the server's files.

    ``run``: a run's folder, or one of its weights files; ``encoder``: the encoder artefact where it
    was moved, or "". Raises UserError where the run was made on another dataset, or on data called
    otherwise than the data at hand.
    """
    file = checked_weights(run)
    header = read_header(file)
    server = server_of(header.dataset, str(run))
    folder = run if run.is_dir() else file.parent.parent if file.parent.name == "weights" else file.parent
    protocol = _protocol(server, values)
    plan = plan_of(header, server.dataset, dict(values), (server.split,))
    dataset = open_outside(plan.options, server.split).dataset
    _require_same_data(folder, dataset)
    require_pictures(dataset, dataset.split_pictures(server.split))
    alone = Job.alone(this_process(plan.options.device))
    loaded = load_checkpoint(file, header, replace(plan, dataset=dataset), encoder, alone)
    (encoded,) = loaded.encode(dataset.tasks(server.split, protocol, plan.rule.name))
    lists = lists_of(loaded.method, encoded, dataset.pictures.names)
    target = Path(output) if output else folder / FOLDER
    return Submitted(write_submission(target, lists, encoded.task, dataset, loaded.weights_from), target, folder)


def submit_embeddings(
    file: Path, name: str, output: str, values: Mapping[str, Any], dataset: str = "cirr"
) -> Submitted:
    """Write the files from embeddings of the test split, and a record that the server's numbers can be added to."""
    run, task = _open_test(dataset, file, values)
    names, found = run.dataset.pictures.names, read_embeddings(file)
    (encoded,) = match(found, embedded_tasks(found, [task], run), run.dataset)
    lists = lists_of(None, encoded, names)
    check_lists(lists, task, run.dataset)
    scored = [score_in_full(None, encoded)]
    _, folder = write_outside(run, "embeddings", name or file.stem, scored, found.digests, seen_to_be(found))
    return _write_beside(folder, output, lists, task, run.dataset)


def submit_rankings(
    file: Path, subset_file: Path | None, name: str, output: str, values: Mapping[str, Any], dataset: str = "cirr"
) -> Submitted:
    """The same from ranked lists of the test split in any format, which are checked and cut to the server's lengths."""
    run, task = _open_test(dataset, file, values)
    names = run.dataset.pictures.names
    main, subsets, digests = read_both(file, subset_file)
    scored = score_lists([task], names, main, subsets)
    lists = ServerLists(main.lists, subsets.lists if subsets else {}).cut(task)
    check_lists(lists, task, run.dataset)
    alone = len(SERVERS[dataset].protocols) == 1
    told = "the server's only one" if alone else "asked for" if values.get("protocol") else "the server's own"
    seen = Outside(evidence=(f"protocol {task.key.protocol}: {told}",))
    _, folder = write_outside(run, "rankings", name or file.stem, scored, digests, seen)
    return _write_beside(folder, output, lists, task, run.dataset)


def _open_test(dataset: str, file: Path, values: Mapping[str, Any]) -> tuple[OutsideRun, Task]:
    server = server_of(dataset, str(file))
    protocol = _protocol(server, values)
    run = open_outside(make_options(**{"method": METHOD, "dataset": dataset, **values}), server.split)
    (task,) = run.dataset.tasks(server.split, protocol, run.rule.name)
    return run, task


def _protocol(server: HiddenSplitServer, values: Mapping[str, Any]) -> str:
    """The one asked for, or the server's own; raises UserError where it can score no other."""
    asked = values.get("protocol") or server.protocols[:1]
    if len(asked) > 1 or asked[0] not in server.protocols:
        raise UserError(f"--protocol {' '.join(asked)}: the server takes one of {', '.join(server.protocols)}")
    return str(asked[0])


def _write_beside(folder: Path, output: str, lists: ServerLists, task: Task, dataset: Dataset) -> Submitted:
    target = Path(output) if output else folder / FOLDER
    return Submitted(write_submission(target, lists, task, dataset, "external"), target, folder)


def _require_same_data(folder: Path, dataset: Dataset) -> None:
    """A run on one folder of data says nothing about the test split of another one."""
    data = read_record(folder).identity.data if (folder / RECORD_NAME).is_file() else None
    if data is not None and data.label != dataset.label:
        raise UserError(
            f"{folder}: a run on '{data.label}', but the data here is '{dataset.label}'; "
            "name the run's data with --data-root"
        )


def lists_of(method: Method | None, encoded: EncodedTask, names: Sequence[str]) -> ServerLists:
    """The server's lists from encodings; ``method`` None ranks by dot product."""
    task = encoded.task

    def named(top: IntArray) -> dict[str, list[str]]:
        pairs = zip(task.queries.ids, top, strict=True)
        return {query: [names[task.gallery[i]] for i in ranked if i >= 0] for query, ranked in pairs}

    whole = named(top_of_task(method, encoded, min(max(task.cutoffs), len(task.gallery))))
    if task.queries.subset is None:
        return ServerLists(whole)
    return ServerLists(whole, named(top_of_subsets(method, encoded, max(task.subset_cutoffs))))


def top_of_subsets(method: Method | None, encoded: EncodedTask, k: int) -> IntArray:
    """Gallery indices of the best k members of each query's subset (Q, k), best first, filled with -1.

    Queries with the same members are ranked together, exactly as a gallery is.
    """
    task = encoded.task
    assert task.queries.subset is not None
    top = np.full((len(task.queries), k), -1, dtype=np.int64)
    subsets, which = np.unique(np.sort(task.queries.subset, axis=1), axis=0, return_inverse=True)
    for number, padded in enumerate(subsets):
        members, rows = padded[padded >= 0], np.flatnonzero(which.reshape(-1) == number)
        queries, gallery = (
            take(encoding, torch.from_numpy(index))
            for encoding, index in ((encoded.queries, rows), (encoded.gallery, members))
        )
        small = _task_of_members(task, rows, members)
        found = top_pictures(queries, gallery, small, k, score_function(method))
        top[rows] = np.where(found >= 0, members[found], -1)
    return top


def _task_of_members(task: Task, rows: IntArray, members: IntArray) -> Task:
    """The queries of one subset against its members, labels left out; ``members`` is sorted."""
    queries = task.queries.take(rows)
    place = np.searchsorted(members, queries.reference_in_gallery).clip(max=len(members) - 1)
    reference = np.where(members[place] == queries.reference_in_gallery, place, -1)
    unlabelled = Ragged.of([[] for _ in rows])
    return replace(
        task,
        queries=replace(queries, reference_in_gallery=reference, positives=unlabelled, subset=None),
        gallery=task.gallery[members],
        labelled=False,
    )
