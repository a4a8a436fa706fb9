"""What a monitor shows of a stage's training, gathered seldom so that no step waits for the device."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from benchmark.distributed.process import Process
from benchmark.records.environment import peak_memory_bytes
from benchmark.training.engine import StageEngine
from benchmark.training.monitoring import Monitors

_INTERVAL = 50


class Measurements:
    """Feeds monitors every 50 updates and at the end of each epoch; all processes call it alike.

    ``update``: how many were done before (a resumed run).
    """

    def __init__(self, monitors: Monitors, process: Process, batch_size: int, update: int) -> None:
        self._monitors, self._process, self._batch = monitors, process, batch_size
        self._written, self._at = update, time.monotonic()

    def due(self, update: int) -> bool:
        return self._monitors.enabled and update % _INTERVAL == 0

    def write(self, update: int, losses: Sequence[float], engine: StageEngine) -> None:
        """Losses of the epoch so far, newest last; of those since the last time the mean is written.

        The last time is reckoned, not remembered, so that a resumed stage writes what an undisturbed one does.
        """
        if not self._monitors.enabled or update == self._written:
            return
        updates, seconds = update - self._written, time.monotonic() - self._at
        before = max(update - len(losses), (update - 1) // _INTERVAL * _INTERVAL)
        recent = losses[before - update :]
        values = {
            "train/loss": sum(recent) / max(len(recent), 1),
            "train/learning_rate": engine.learning_rate(),
            "train/gradient_norm": engine.gradient_norm(),
            "train/samples_per_second": updates * self._batch / max(seconds, 1e-9),
        }
        if engine.loss_scale is not None:
            values["train/loss_scale"] = engine.loss_scale.value
        for rank, gibibytes in enumerate(self._memory()):
            values[f"memory_gib/rank_{rank}"] = gibibytes
        self._monitors.write(values, update)
        self._written, self._at = update, time.monotonic()

    def write_score(self, update: int, criterion: str, score: float) -> None:
        """A validation's result; the time that it took is no training time."""
        name = "".join(c if c.isalnum() or c in "@+" else "_" for c in criterion)
        self._monitors.write({f"validation/{name}": score}, update)
        self._at = time.monotonic()

    def _memory(self) -> list[float]:
        """Peak memory of every process, in GiB: of its device, or of the process itself on a CPU."""
        peaks = peak_memory_bytes()
        own = torch.tensor([peaks.get("device", peaks["process"]) / 2**30], device=self._process.device)
        if self._process.world_size == 1:
            return [float(own)]
        every = [torch.empty_like(own) for _ in range(self._process.world_size)]
        torch.distributed.all_gather(every, own)
        return [float(memory) for memory in every]
