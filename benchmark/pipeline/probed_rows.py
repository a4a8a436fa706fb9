"""The few rows with which a method's contract is probed: of the data, or drawn where no features exist yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.backbone import GLOBAL, Backbone, Output
from benchmark.dataset import Task
from benchmark.evaluation.sources import EvaluationSource
from benchmark.features.room import view_output
from benchmark.method import FeatureInputs, Views
from benchmark.stage_building import BuiltStage
from benchmark.training.batches import Batch

ROWS = 4


@dataclass(frozen=True)
class ProbedRows:
    """A few queries, each with a target: ``views`` gives those of any of the ``rows``, read together."""

    rows: int
    views: Callable[[Sequence[int]], Batch]


def sample_of(task: Task, source: EvaluationSource, rows: int = ROWS) -> ProbedRows:
    """The first queries of a task and an answer of each (any picture where answers are hidden).

    Every process of a job must call it, since the source is prepared.
    """
    count = min(rows, len(task.queries), len(task.gallery))
    queries = task.queries.take(np.arange(count))
    source.prepare([replace(task, queries=queries)])
    answers = [int(own[0]) if len(own := queries.positives[i]) else i for i in range(count)]
    split = task.key.split

    def views(chosen: Sequence[int]) -> Batch:
        own, gallery = queries.take(np.asarray(chosen)), task.gallery[[answers[i] for i in chosen]]
        return Batch(
            reference=source.reference(split, own),
            target=source.target(split, gallery),
            text=source.texts(own.texts),
        )

    return ProbedRows(count, views)


def drawn_sample(built: BuiltStage, backbone: Backbone, texts: Sequence[str], device: torch.device) -> ProbedRows:
    """Random features of the forms that a stage that reads features reads, and real texts where it reads them itself.

    For a method whose encoder is still to be trained: what breaks its contract is told before that work.
    """
    method, inputs = built.method, built.inputs
    assert isinstance(inputs, FeatureInputs)
    generator = torch.Generator().manual_seed(0)
    rows = min(ROWS, len(texts))

    def drawn(output: Output) -> Tensor:
        values = F.normalize(torch.randn(rows, *output.shape, generator=generator), dim=-1)
        return values.to(device, getattr(torch, output.dtype))

    def pictures(names: Sequence[str]) -> Views:
        return {name: drawn(view_output(name, backbone.picture_outputs, inputs.grids)) for name in names}

    reference, target = pictures(inputs.reference), pictures(inputs.target)
    if inputs.text == "tokenized":
        text = {name: tensor.to(device) for name, tensor in method.tokenize(texts[:rows]).items()}
    else:
        text = {GLOBAL: drawn(backbone.text_outputs[GLOBAL])}

    def views(chosen: Sequence[int]) -> Batch:
        own = torch.as_tensor(chosen, device=device)
        of_rows = [{name: tensor[own] for name, tensor in part.items()} for part in (reference, target, text)]
        return Batch(reference=of_rows[0], target=of_rows[1], text=of_rows[2])

    return ProbedRows(rows, views)
