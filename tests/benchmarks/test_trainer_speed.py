"""The trainer beside a bare PyTorch loop: same method, same optimiser and schedule, same batch in memory.

The source hands the trainer a batch, and what passes until it asks for the next one is one whole
update of the trainer's: seeds, DeepSpeed's engine, the optimiser, the reading of losses. Between two
updates the source makes one of the bare loop, so that both are measured in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from benchmark.methods import clip4cir, spirit
from benchmark.methods.clip4cir import Clip4Cir, CombinerSettings
from benchmark.methods.spirit import Spirit, SpiritSettings
from comparing import Compared, Stopwatch, at_most, played_back
from torch import Tensor

from benchmark.distributed.process import this_process
from benchmark.method import Method, Stage
from benchmark.settings import TrainerSettings, TrainingSettings
from benchmark.training.batches import Batch, Share
from benchmark.training.job import TrainingJob
from benchmark.training.optimisation import standard_optimiser, standard_schedule
from benchmark.training.trainer import train

WIDTH, UPDATES, WARM_UPS = 640, 6, 2
CALLS = ("trainer", "bare loop")

SPIRIT, COMBINER = SpiritSettings(), CombinerSettings()
HEADS: dict[str, tuple[Callable[[], Method], Stage, int]] = {
    "SPIRIT": (lambda: Spirit(WIDTH, SPIRIT), spirit.METHOD.stages(SPIRIT, "pretrained")[-1], 64),
    "CLIP4Cir's Combiner": (
        lambda: Clip4Cir(WIDTH, COMBINER), clip4cir.METHOD.stages(COMBINER, "pretrained")[-1], 256
    ),
}  # fmt: skip


def batch(rows: int) -> Batch:
    def picture() -> dict[str, Tensor]:
        return {"global": torch.randn(rows, WIDTH), "patches": torch.randn(rows, 13, WIDTH)}

    return Batch(picture(), picture(), {"global": torch.randn(rows, WIDTH)})


class BareLoop:
    """Forward, backward, optimiser, schedule, and the loss read, as a tutorial has it."""

    def __init__(self, method: Method, settings: TrainingSettings) -> None:
        self.method = method.train()
        self.optimiser = standard_optimiser([{"params": [p for p in method.parameters() if p.requires_grad]}], settings)
        schedule = standard_schedule(settings, UPDATES)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, schedule)

    def update(self, views: Batch) -> float:
        queries = self.method.encode_query(views.reference, views.text)
        loss = self.method.loss(queries, self.method.encode_target(views.target))
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad()
        return loss.item()


class InTurn:
    """A source of one batch in memory, which makes an update of the bare loop between two of the trainer's."""

    def __init__(self, views: Batch, bare: BareLoop, rows: int) -> None:
        self.stopwatch = Stopwatch()
        self._views, self._bare, self._rows = views, bare, rows

    def start_epoch(self, epoch: int) -> int:
        return self._rows * UPDATES

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        for _ in plan:
            self.stopwatch.start()
            yield self._views
            self.stopwatch.stop("trainer")
            self.stopwatch.time("bare loop", lambda: self._bare.update(self._views))


@pytest.fixture(scope="module", params=HEADS)
def rounds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Compared:
    make, stage, rows = HEADS[request.param]
    settings = TrainingSettings.model_validate(
        {"batch_size": rows, "weight_decay": 5e-4, "schedule": "cosine-rising", "schedule_epochs": 100}
    )
    source = InTurn(batch(rows), BareLoop(make(), settings), rows)
    train(_job(make(), stage, settings, source, tmp_path_factory.mktemp("job")), resume=False)
    path = f"update of {request.param}, width {WIDTH}, {rows} triplets"
    return source.stopwatch.compared(path, skip=WARM_UPS)


def _job(method: Method, stage: Stage, settings: TrainingSettings, source: InTurn, folder: Path) -> TrainingJob:
    return TrainingJob(
        method=method,
        stage=stage,
        settings=settings,
        source=source,
        process=this_process("cpu"),
        seed=0,
        folder=folder,
        identity={"what": "a benchmark"},
        validate=None,
        trainer=TrainerSettings(checkpoint_seconds=1e9),
    )


@played_back
@pytest.mark.parametrize("row", CALLS)
def test_update(benchmark, ratio, rounds: Compared, row: str) -> None:
    if row == "trainer":
        ratio(rounds, row, "bare loop", at_most(1.05))
    rounds.play(benchmark, row)
