"""The evaluator: encodes queries and galleries with a method, ranks exactly, and scores.

Galleries are encoded once for all tasks of a split that share their pictures. What comes out of a
task is its ranks and everything derived from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmark.dataset import IntArray, Task
from benchmark.encoding import Encoding, concatenate, map_tensors, take
from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.metrics import task_metrics
from benchmark.ranking import Ranks, rank_queries
from benchmark.scoring import ScoreFunction, dot_product
from benchmark.sources import EvaluationSource
from benchmark.top_lists import top_pictures

_BLOCK = 256


@dataclass(frozen=True)
class EncodedTask:
    """Encodings of a task's queries and of its gallery, row by row."""

    task: Task
    queries: Encoding
    gallery: Encoding


@dataclass(frozen=True)
class TaskScores:
    """What a task's ranking gave; ``metrics`` in percent by name, empty where labels are hidden."""

    task: Task
    ranks: Ranks
    metrics: dict[str, float]


@torch.no_grad()
def encode_tasks(method: Method, tasks: Sequence[Task], source: EvaluationSource) -> list[EncodedTask]:
    """Encode every query, and every gallery picture once per split, in blocks of fixed size."""
    if method.training:
        raise ValueError("a method is evaluated in eval mode")
    galleries: dict[str, tuple[IntArray, Encoding]] = {}
    for split in dict.fromkeys(task.key.split for task in tasks):
        pictures = np.unique(np.concatenate([t.gallery for t in tasks if t.key.split == split]))
        galleries[split] = pictures, _encode_gallery(method, split, pictures, source)
    encoded = []
    for task in tasks:
        pictures, gallery = galleries[task.key.split]
        rows = torch.from_numpy(np.searchsorted(pictures, task.gallery))
        encoded.append(EncodedTask(task, _encode_queries(method, task, source), take(gallery, rows)))
    return encoded


def _encode_gallery(method: Method, split: str, pictures: IntArray, source: EvaluationSource) -> Encoding:
    blocks = [
        _kept(method.encode_target(source.target(split, pictures[start : start + _BLOCK])))
        for start in range(0, len(pictures), _BLOCK)
    ]
    return concatenate(blocks)


def _encode_queries(method: Method, task: Task, source: EvaluationSource) -> Encoding:
    queries, blocks = task.queries, []
    for start in range(0, len(queries), _BLOCK):
        rows = slice(start, start + _BLOCK)
        stand_in = queries.feature_picture
        reference = source.reference(
            task.key.split, queries.picture[rows], None if stand_in is None else stand_in[rows]
        )
        blocks.append(_kept(method.encode_query(reference, source.texts(queries.texts[rows]))))
    if not blocks:
        raise UserError(f"{task.key}: there are no queries to evaluate")
    return concatenate(blocks)


def _kept(encoding: Encoding) -> Encoding:
    return map_tensors(lambda tensor: tensor.detach().float().cpu(), encoding)


def score_function(method: Method | None) -> ScoreFunction:
    """A method's own score, or the dot product; None stands for encodings without a method."""
    return dot_product if method is None or method.scores_by_dot_product else method.score


def score_task(method: Method | None, encoded: EncodedTask) -> TaskScores:
    """Rank a task; ``method`` gives the score, None ranks by dot product."""
    ranks = rank_queries(encoded.queries, encoded.gallery, encoded.task, score_function(method))
    metrics = task_metrics(ranks, encoded.task) if encoded.task.labelled else {}
    return TaskScores(encoded.task, ranks, metrics)


def top_of_task(method: Method | None, encoded: EncodedTask, k: int) -> IntArray:
    """Gallery indices of the best k pictures of each query, (Q, k), best first."""
    return top_pictures(encoded.queries, encoded.gallery, encoded.task, k, score_function(method))


def evaluate(method: Method, tasks: Sequence[Task], source: EvaluationSource) -> list[TaskScores]:
    """Metrics of all tasks."""
    return [score_task(method, encoded) for encoded in encode_tasks(method, tasks, source)]
