"""What one modality alone would find: the ranks of the reference picture alone and of the text alone.

They come from the method's own encoder, since the gain over a weak encoder's baselines says nothing. Where a method
reads stored features, these are n(v) and n(t) against the same n(v) of the gallery; n(t) is the method's own
(`Method.encode_text_alone`) where texts are not stored. Where it reads pictures and strings itself, its other input is
neutral, as CIRCUS does it (arXiv 2605.14787): an empty text, a black picture. What is ranked, and whether the
reference is, is the task's for all.

Notation: Q queries, B rows of a block, S side of a picture.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.distributed.job import ALONE, Job
from benchmark.encoding import Encoding, encode
from benchmark.evaluation.evaluator import EncodedTask, TaskResult, encode_shards, score_in_full, score_task
from benchmark.evaluation.ranking import Ranks
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
    if alone is None or any(np.array_equal(alone[name].rank, result.ranks.rank) for name in ("picture", "text")):
        return result
    prompt = alone["prompt"].rank if "prompt" in alone else None
    return replace(result, picture=alone["picture"], text=alone["text"], prompt_rank=prompt)


def _ranks_alone(
    method: Method, encoded: EncodedTask, source: EvaluationSource, job: Job
) -> dict[str, Ranks] | None:
    """The ranks of every query's positives by the "picture" alone, by the "text" alone and, of a method that has one,
    by the "prompt" without its word."""
    task = encoded.task
    split, queries, count = task.key.split, task.queries, len(task.queries)

    def reference(rows: slice) -> Views:
        return source.reference(split, queries, rows)

    def ranked(query: Encoding, gallery: Encoding, by: Method | None) -> Ranks:
        return score_task(by, replace(encoded, queries=query, gallery=gallery), job).ranks

    def said(rows: slice) -> dict[str, Tensor]:
        views = source.texts(queries.texts[rows])
        return {"text": views["global"]} if "global" in views else method.encode_text_alone(queries.texts[rows])

    first = slice(0, 1)
    shown = (reference(first), source.target(split, task.gallery[first]))
    if all("global" in views for views in shown) and said(first):
        gallery = encode_shards(
            lambda rows: _unit(source.target(split, task.gallery[rows])["global"]), len(task.gallery), job,
            "gallery features",
        )  # fmt: skip
        pictures = encode_shards(lambda rows: _unit(reference(rows)["global"]), count, job, "reference features")
        texts = encode_shards(
            lambda rows: {name: _unit(features) for name, features in said(rows).items()}, count, job, "text features"
        )
        assert isinstance(texts, dict)
        queried = {"picture": pictures, **texts}
        return {name: ranked(features, gallery, None) for name, features in queried.items()}
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
    alone = {"picture": pictures, "text": texts}
    return {name: ranked(query, encoded.gallery, method) for name, query in alone.items()}


def _unit(features: Tensor) -> Tensor:
    """n(features), (B, d)."""
    return F.normalize(features.float(), dim=-1)
