"""A negative group that a device cannot hold is told, and never made smaller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmark.distributed.process import Process
from benchmark.errors import UserError
from benchmark.settings import TrainingSettings
from benchmark.training.batches import GroupLayout


@contextmanager
def enough_memory(process: Process, settings: TrainingSettings, layout: GroupLayout) -> Iterator[None]:
    """Raises UserError where the computation within runs out of memory."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        rows, group = layout.rows_per_rank, settings.group
        share = "" if rows == group else f" ({rows} on each of {process.world_size} processes)"
        raise UserError(
            f"out of memory: {process.device} cannot hold a negative group of {group} pairs{share}; "
            f"encode it in pieces (--set trainer.piece={max(rows // 4, 1)}) or share it between more processes; "
            "a smaller --negative-group fits, too, but is another recipe"
        ) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the host, had no memory left; the host's allocator says it in words only."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
