"""Results of models from outside: the data their files are scored on, and the record made of them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmark.data.dataset_choice import EVALUATED, open_dataset
from benchmark.data.protocols import chosen_tasks
from benchmark.dataset import Dataset, Task
from benchmark.evaluation.evaluator import TaskResult
from benchmark.evaluation.query_subset import QuerySubset, read_query_subset
from benchmark.files import digest_of, file_digest
from benchmark.options import RunOptions
from benchmark.pipeline.reporting import (
    Tested,
    command_line,
    data_identity,
    listed_queries,
    results_of,
    write_run,
)
from benchmark.pipeline.run_folder import Owner, held_folder
from benchmark.records.environment import code_version, environment, peak_memory_bytes, utc_now
from benchmark.records.identity import Identity
from benchmark.records.measurement import Outside
from benchmark.records.record import Record
from benchmark.registry import discover
from benchmark.text_rules import TextRule, rule_of

METHOD = "external"
"""The method's name in records of models that are not on the shelf; their title tells them apart."""


@dataclass(frozen=True)
class OutsideRun:
    """Which data a file is scored on. ``plugins``: file name to digest; ``started``: monotonic seconds."""

    options: RunOptions
    dataset: Dataset
    rule: TextRule
    plugins: Mapping[str, str]
    started: float
    subset: QuerySubset | None = None


def open_outside(options: RunOptions, split: str = "") -> OutsideRun:
    """Open the data that the options name: ``split`` alone is read, by default the one that is evaluated.

    The text rule is the one of ``--text-mode``, or the dataset's own: it decides how many queries
    an entry has and how they are called.
    """
    started = time.monotonic()
    registry = discover()
    added = [registry.add_plugin(Path(name)).path for name in options.plugins]
    dataset = open_dataset(registry, options, (split or EVALUATED,))
    rule = rule_of(options.text_mode or dataset.info.text_rule)
    subset = read_query_subset(options.subset) if options.subset else None
    if subset is not None:
        tasks = chosen_tasks(dataset, split or dataset.info.evaluation_split, options.protocol, rule)
        subset.require_known(tasks)
    return OutsideRun(options, dataset, rule, {path.name: file_digest(path) for path in added}, started, subset)


def queries_digest(tasks: Sequence[Task], names: Sequence[str]) -> str:
    """Of all that a model is given for the queries of one protocol: ids, references, stand-ins, texts.

    Protocols that ask the same queries of other galleries have the same. ``names``: the pictures'.
    """
    asked: list[list[str]] = []
    for task in tasks:
        queries = task.queries
        stand_ins = queries.reference_picture if queries.feature_picture is None else queries.feature_picture
        pictures = zip(queries.reference_picture, stand_ins, strict=True)
        for query, text, (reference, stand_in) in zip(queries.ids, queries.texts, pictures, strict=True):
            asked.append([query, names[reference], names[stand_in], text])
    return digest_of(asked)[:16]


def with_note(task: Task, note: str) -> Task:
    """A task whose results carry one more note; an empty one adds nothing."""
    return replace(task, notes=(*task.notes, note)) if note else task


def write_outside(
    run: OutsideRun,
    kind: Literal["embeddings", "rankings"],
    title: str,
    scored: Sequence[TaskResult],
    inputs: Mapping[str, str],
    seen: Outside,
) -> tuple[Record, Path]:
    """Write the record of a file's scores, as a run's; gives it and its folder.

    ``inputs``: digests of the files by name; ``seen``: what these are seen to be. The folder is ``--output``, or
    ./runs/<dataset>/external/<digest of inputs, title and tasks>.
    """
    weights: Tested = {"external": run.subset.restrict(scored) if run.subset else scored}
    record = Record(
        kind=kind,
        method=METHOD,
        title=re.sub(r"\s+", " ", title).strip(),
        command=command_line(),
        created=utc_now(),
        results=tuple(results_of(weights)),
        identity=Identity(
            data=data_identity(run.dataset), plugins=dict(run.plugins), inputs=dict(inputs),
            subset=listed_queries(run.subset),
        ),
        code=code_version(),
        environment=environment("cpu", 1),
        timings={"evaluation": round(time.monotonic() - run.started, 2)},
        peak_memory_bytes=peak_memory_bytes(),
        outside=seen,
    )
    identity = [dict(inputs), record.title, [str(result.key) for result in record.results]]
    default = Path("runs") / run.dataset.label / METHOD / digest_of(identity)[:12]
    folder = Path(run.options.output) if run.options.output else default
    names = dict(zip(("inputs", "title", "results"), identity, strict=True))
    owner = Owner(kind, {**names, "data": run.dataset.fingerprint, "plugins": dict(run.plugins)})
    with held_folder(folder, owner, overwrite=run.options.overwrite):
        return write_run(folder, record, weights, run.dataset, record.title), folder
