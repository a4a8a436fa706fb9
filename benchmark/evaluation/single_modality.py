"""What one modality alone would find: the ranks of the reference picture alone and of the text alone.

They come from the method's own encoder, since the gain over a weak encoder's baselines says nothing. Where a method
reads stored features, these are n(v) and n(t) against the same n(v) of the gallery. Where it reads pictures and
strings itself, its other input is neutral, as CIRCUS does it (arXiv 2605.14787): an empty text, a black picture.
What is ranked, and whether the reference is, is the task's for all three.

Notation: Q queries, B rows of a block, S side of a picture.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.dataset import IntArray
from benchmark.distributed.job import ALONE, Job
from benchmark.encoding import Encoding, encode
from benchmark.evaluation.evaluator import EncodedTask, TaskResult, encode_shards, score_in_full, score_task
from benchmark.evaluation.sources import EvaluationSource, PixelEvaluation
from benchmark.method import Method, Views


@torch.no_grad()
def score_beside_modalities(
    method: Method, encoded: EncodedTask, source: EvaluationSource, job: Job = ALONE
) -> TaskResult:
    """As `score_in_full`, with the ranks of either modality alone; all ranks of ``job`` must call it.

    Without them where labels are hidden, where a method's inputs have no single-modality form, and where the method
    is one modality alone itself.
    """
    result = score_in_full(method, encoded, job)
    alone = _ranks_alone(method, encoded, source, job) if encoded.task.labelled else None
    if alone is None or any(np.array_equal(ranks, result.ranks.rank) for ranks in alone):
        return result
    return replace(result, picture_rank=alone[0], text_rank=alone[1])


def _ranks_alone(
    method: Method, encoded: EncodedTask, source: EvaluationSource, job: Job
) -> tuple[IntArray, IntArray] | None:
    """The rank of every query's best positive, (Q,), by the picture alone and by the text alone."""
    task = encoded.task
    split, queries, count = task.key.split, task.queries, len(task.queries)

    def reference(rows: slice) -> Views:
        return source.reference(split, queries, rows)

    def ranked(query: Encoding, gallery: Encoding, by: Method | None) -> IntArray:
        return score_task(by, replace(encoded, queries=query, gallery=gallery), job).ranks.rank

    first = slice(0, 1)
    shown = (reference(first), source.texts(queries.texts[first]), source.target(split, task.gallery[first]))
    if all("global" in views for views in shown):
        gallery = encode_shards(
            lambda rows: _unit(source.target(split, task.gallery[rows])), len(task.gallery), job, "gallery features"
        )
        pictures = encode_shards(lambda rows: _unit(reference(rows)), count, job, "reference features")
        texts = encode_shards(lambda rows: _unit(source.texts(queries.texts[rows])), count, job, "text features")
        return ranked(pictures, gallery, None), ranked(texts, gallery, None)
    if not isinstance(source, PixelEvaluation):
        return None
    pixels = source

    def by_picture(rows: slice) -> Encoding:
        views = pixels.bare_reference(split, queries, rows)
        return encode(method.encode_query, reference=views, text=source.texts([""] * len(queries.texts[rows])))

    def by_text(rows: slice) -> Encoding:
        strings = queries.texts[rows]
        black = pixels.black(shown[0], len(strings))
        return encode(method.encode_query, reference=black, text=source.texts(strings))

    pictures = encode_shards(by_picture, count, job, "queries by picture alone")
    texts = encode_shards(by_text, count, job, "queries by text alone")
    return ranked(pictures, encoded.gallery, method), ranked(texts, encoded.gallery, method)


def _unit(views: Views) -> Tensor:
    """n(global), (B, d)."""
    return F.normalize(views["global"].float(), dim=-1)
