"""A small method, and a stage's training on made-up vectors, for the tests of engine and trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.dataset import IntArray
from benchmark.distributed.process import this_process
from benchmark.method import FeatureInputs, Method, Stage, Views
from benchmark.settings import TrainerSettings, TrainingSettings
from benchmark.training.batches import Batch, Share
from benchmark.training.job import Trained, TrainingJob
from benchmark.training.selection import Score

WIDTH = 6


class Small(Method):
    """A layer with batch norm and dropout, and one that takes no part in the loss."""

    def __init__(self, seed: int = 0, dropout: float = 0.0, norm: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer = nn.Linear(WIDTH, WIDTH)
            self.unused = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        mixed: Tensor = self.norm(self.layer(self.dropout(reference["global"] + text["global"])))
        return mixed

    def encode_target(self, target: Views) -> Tensor:
        return target["global"]

    def loss(self, queries: Any, targets: Any) -> Tensor:
        return F.cross_entropy(queries.float() @ targets.float().T, torch.arange(len(queries)))


def vectors(rows: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


class Vectors:
    """A training source of ``rows`` made-up triplets; entry i is row i."""

    def __init__(self, rows: int, scale: float = 1.0, on_batch: Callable[[int], None] = lambda n: None) -> None:
        self.reference, self.target, self.text = (vectors(rows, seed, scale) for seed in (1, 2, 3))
        self.served, self._on_batch = 0, on_batch

    def start_epoch(self, epoch: int) -> int:
        return len(self.reference)

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        for share in plan:
            self.served += 1
            self._on_batch(self.served)
            yield self.batch(share.rows)

    def batch(self, rows: IntArray) -> Batch:
        index = torch.from_numpy(np.asarray(rows))
        return Batch(
            reference={"global": self.reference[index]},
            target={"global": self.target[index]},
            text={"global": self.text[index]},
        )


def small_stage(**changed: Any) -> Stage:
    return Stage(name="small", build=lambda context: Small(), inputs=lambda context: FeatureInputs(), **changed)


def validated(method: Method) -> Score:
    """Any number that depends on all trained weights."""
    return Score("made up", float(sum(p.detach().double().sin().sum() for p in method.parameters())))


def small_job(
    folder: Path,
    settings: TrainingSettings,
    source: Vectors,
    *,
    method: Method | None = None,
    stage: Stage | None = None,
    identity: Mapping[str, Any] = MappingProxyType({"name": "this run"}),
    every: float = 1e9,
    earlier: Trained | None = None,
    validate: Callable[[Method], Score] | None = validated,
    **further: Any,
) -> TrainingJob:
    return TrainingJob(
        method=method or Small(dropout=0.3),
        stage=stage or small_stage(),
        settings=settings,
        source=source,
        process=this_process("cpu"),
        seed=0,
        folder=folder,
        identity=dict(identity),
        validate=validate,
        trainer=TrainerSettings(checkpoint_seconds=every),
        earlier=earlier,
        **further,
    )


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
