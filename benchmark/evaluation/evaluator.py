"""The evaluator: encodes queries and galleries with a method, ranks exactly, and scores.

Galleries are encoded once for all tasks of a split that share their pictures. What comes out of a
task is its ranks and everything derived from them, a `TaskResult`.

The ranks of a job share the work: each encodes whole blocks of queries and of gallery pictures, all
encodings go to every rank once, and each ranks its own part of the queries. Since neither an encoding
nor a query's rank depends on who computes it, everything is equal to what one process finds.

Encodings are kept on the host and ranked on the job's device: sent there whole where they fit, else block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from benchmark.dataset import IntArray, Ragged, Task
from benchmark.distributed.job import ALONE, Job
from benchmark.distributed.shards import gather_array, gather_encoding, own_span, shard_spans
from benchmark.encoding import Encoding, concatenate, encode, map_tensors, take
from benchmark.errors import UserError
from benchmark.evaluation.metrics import target_ranks, task_intervals, task_metrics
from benchmark.evaluation.per_query import TOP, PerQuery
from benchmark.evaluation.ranking import Ranks, rank_queries
from benchmark.evaluation.scoring import ScoreFunction, dot_product
from benchmark.evaluation.sources import EvaluationSource
from benchmark.evaluation.top_lists import top_pictures
from benchmark.method import Method

_BLOCK = 256


@dataclass(frozen=True)
class EncodedTask:
    """Encodings of a task's queries and of its gallery, row by row."""

    task: Task
    queries: Encoding
    gallery: Encoding


@dataclass(frozen=True)
class TaskResult:
    """What a task's ranking gave: ranks, and what follows from them.

    ``top`` (Q, K): gallery indices of the best pictures of each query, best first, -1 where fewer are ranked;
    None where they were not asked for. ``picture``, ``text``: what one modality alone gives
    (:mod:`benchmark.evaluation.single_modality`), where that was asked for; ``prompt_rank`` (Q,): what a prompt does
    without its word, where there is one.
    """

    task: Task
    ranks: Ranks
    top: IntArray | None = None
    picture: Ranks | None = None
    text: Ranks | None = None
    prompt_rank: IntArray | None = None

    @cached_property
    def metrics(self) -> dict[str, float]:
        """In percent by name; empty where labels are hidden."""
        return task_metrics(self.ranks, self.task) if self.task.labelled else {}

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of every metric."""
        return task_intervals(self.ranks, self.task) if self.metrics else {}

    @property
    def ties(self) -> int:
        """Queries whose best positive ties with another picture."""
        return int((self.ranks.ties > 0).sum())

    def per_query(self, names: Sequence[str]) -> PerQuery:
        """What is stored of every query; ``names`` are the dataset's picture names."""
        if self.top is None:
            raise ValueError(f"{self.task.key}: was scored without the best pictures of its queries")
        return replace(self.ranked(), top=self.top, gallery=tuple(names[i] for i in self.task.gallery))

    def ranked(self) -> PerQuery:
        """What is stored of every query without its list."""
        several = self.task.queries.has_several_positives
        # Where a target is named, mAP is the main number; elsewhere they would treble the file for nothing.
        is_precise = self.task.queries.target is not None
        picture, text = self.picture, self.text
        return PerQuery(
            ids=self.task.queries.ids,
            group=self.task.queries.group,
            rank=self.ranks.rank,
            subset_rank=self.ranks.subset_rank,
            positive_ranks=self.ranks.positive_ranks if several else None,
            target_rank=target_ranks(self.ranks.positive_ranks, self.task),
            aspects=self.task.queries.aspects,
            picture_rank=picture.rank if picture else None,
            text_rank=text.rank if text else None,
            prompt_rank=self.prompt_rank,
            picture_positive_ranks=picture.positive_ranks if picture and is_precise else None,
            text_positive_ranks=text.positive_ranks if text and is_precise else None,
        )


@torch.no_grad()
def encode_tasks(
    method: Method, tasks: Sequence[Task], source: EvaluationSource, job: Job = ALONE
) -> list[EncodedTask]:
    """Encode every query, and every gallery picture once per split, in blocks of fixed size.

    All ranks of ``job`` must call it with the same tasks; each gets all encodings.
    """
    if method.training:
        raise ValueError("a method is evaluated in eval mode")
    for task in tasks:
        if not len(task.queries):
            raise UserError(f"{task.key}: there are no queries to evaluate")
    source.prepare(tasks)
    galleries: dict[str, tuple[IntArray, Encoding]] = {}
    for split in dict.fromkeys(task.key.split for task in tasks):
        pictures = np.unique(np.concatenate([t.gallery for t in tasks if t.key.split == split]))
        galleries[split] = pictures, _encode_gallery(method, split, pictures, source, job)
    encoded = []
    for task in tasks:
        pictures, gallery = galleries[task.key.split]
        if not np.array_equal(pictures, task.gallery):
            gallery = take(gallery, torch.from_numpy(np.searchsorted(pictures, task.gallery)))
        encoded.append(EncodedTask(task, _encode_queries(method, task, source, job), gallery))
    return encoded


def _encode_gallery(
    method: Method, split: str, pictures: IntArray, source: EvaluationSource, job: Job
) -> Encoding:
    def block(rows: slice) -> Encoding:
        return encode(method.encode_target, target=source.target(split, pictures[rows]))

    return encode_shards(block, len(pictures), job, f"encoding the gallery of {split}")


def _encode_queries(method: Method, task: Task, source: EvaluationSource, job: Job) -> Encoding:
    queries = task.queries

    def block(rows: slice) -> Encoding:
        reference = source.reference(task.key.split, queries, rows)
        return encode(method.encode_query, reference=reference, text=source.texts(queries.texts[rows]))

    return encode_shards(block, len(queries), job, f"encoding the queries of {task.key}")


def encode_shards(encode_block: Callable[[slice], Encoding], count: int, job: Job, phase: str) -> Encoding:
    """Encodings of all rows, from this rank's blocks and those of the others."""
    first, end = own_span(count, job, _BLOCK)
    blocks = [
        map_tensors(lambda tensor: tensor.detach().float().cpu(), encode_block(slice(start, min(start + _BLOCK, end))))
        for start in range(first, end, _BLOCK)
    ]
    spans = shard_spans(count, job.process.world_size, _BLOCK)
    return gather_encoding(concatenate(blocks) if blocks else None, spans, job, phase)


def score_function(method: Method | None) -> ScoreFunction:
    """A method's own score, or the dot product; None stands for encodings without a method."""
    return dot_product if method is None or method.scores_by_dot_product else method.score


def score_task(method: Method | None, encoded: EncodedTask, job: Job = ALONE) -> TaskResult:
    """Rank a task; ``method`` gives the score, None ranks by dot product.

    All ranks of ``job`` must call it; each gets all ranks.
    """
    return TaskResult(encoded.task, _rank_shards(encoded, score_function(method), job))


def score_in_full(method: Method | None, encoded: EncodedTask, job: Job = ALONE) -> TaskResult:
    """As `score_task`, with the best pictures of every query."""
    scored = score_task(method, encoded, job)
    return replace(scored, top=top_of_task(method, encoded, min(TOP, len(encoded.task.gallery)), job))


def top_of_task(method: Method | None, encoded: EncodedTask, k: int, job: Job = ALONE) -> IntArray:
    """Gallery indices of the best k pictures of each query, (Q, k), best first; on every rank of ``job``."""
    own, score = _own_part(encoded, job), score_function(method)
    found = np.empty((0, k), dtype=np.int64)
    if len(own.task.queries):
        found = top_pictures(own.queries, own.gallery, own.task, k, score, device=job.process.device)
    job.barrier.wait(f"listing the best pictures of {encoded.task.key}")
    return gather_array(found, shard_spans(len(encoded.task.queries), job.process.world_size), job)


def _own_part(encoded: EncodedTask, job: Job) -> EncodedTask:
    """This rank's queries against the whole gallery; possibly none."""
    if job.process.world_size == 1:
        return encoded
    task = encoded.task
    start, stop = own_span(len(task.queries), job)
    queries = task.queries.take(np.arange(start, stop))
    return EncodedTask(replace(task, queries=queries), take(encoded.queries, slice(start, stop)), encoded.gallery)


def _rank_shards(encoded: EncodedTask, score: ScoreFunction, job: Job) -> Ranks:
    """Ranks of all queries, each rank of the job having found those of its own part."""
    if job.process.world_size == 1:
        return rank_queries(encoded.queries, encoded.gallery, encoded.task, score, device=job.process.device)
    own, whole = _own_part(encoded, job), encoded.task.queries
    none = np.empty(0, dtype=np.int64)
    found = Ranks(none, none, None if whole.subset is None else none, Ragged(np.zeros(1, dtype=np.int64), none))
    if len(own.task.queries):
        found = rank_queries(own.queries, own.gallery, own.task, score, device=job.process.device)
    job.barrier.wait(f"ranking the queries of {encoded.task.key}")
    spans = shard_spans(len(whole), job.process.world_size)
    offsets = whole.positives.offsets
    of_positives = [(int(offsets[start]), int(offsets[stop])) for start, stop in spans]
    return Ranks(
        rank=gather_array(found.rank, spans, job),
        ties=gather_array(found.ties, spans, job),
        subset_rank=None if found.subset_rank is None else gather_array(found.subset_rank, spans, job),
        positive_ranks=Ragged(offsets, gather_array(found.positive_ranks.values, of_positives, job)),
    )


def evaluate(
    method: Method, tasks: Sequence[Task], source: EvaluationSource, job: Job = ALONE
) -> list[TaskResult]:
    """Metrics of all tasks, on every rank of ``job``."""
    return [score_task(method, encoded, job) for encoded in encode_tasks(method, tasks, source, job)]
