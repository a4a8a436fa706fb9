"""A head trained through the engine on as many processes as started this; rank 0 writes its weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from small_training import Small, Vectors
from torch import Tensor

from benchmark.distributed.process import this_process
from benchmark.method import Method
from benchmark.settings import TrainingSettings
from benchmark.training.batches import GroupLayout, rank_shares, update_plan
from benchmark.training.engine import StageEngine
from benchmark.training.optimisation import standard_optimiser, standard_schedule

LAYOUTS = {"one group": (0, 24), "a group each": (4, 24), "two groups each": (2, 24), "a smaller last batch": (0, 22)}
"""Negative group, and rows of an epoch."""


def trained(negative_group: int, rows_of_epoch: int) -> dict[str, Tensor]:
    """Three updates of SGD at a batch of eight, the last one of what is left."""
    settings = TrainingSettings(
        batch_size=8, negative_group=negative_group, optimiser="sgd", learning_rate=0.1, weight_decay=0.01,
        keep_last=rows_of_epoch % 8 > 0,
    )  # fmt: skip
    method: Method = Small(norm=False)
    process, source = this_process("cpu"), Vectors(rows_of_epoch)
    layout = GroupLayout.of(settings, process.world_size)
    optimiser = standard_optimiser([{"params": [p for p in method.parameters() if p.requires_grad]}], settings)
    engine = StageEngine(method, optimiser, standard_schedule(settings, 3), settings, layout, process)
    engine.training_mode()
    for rows in update_plan(rows_of_epoch, settings, 0, 0):
        for part, own in enumerate(rank_shares(rows, settings, layout, process.rank)):
            engine.accumulate(source.batch(own.rows), part)
        engine.update()
    engine.close()
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    states = {name: trained(*layout) for name, layout in LAYOUTS.items()}
    if this_process("cpu").is_main:
        torch.save(states, Path(sys.argv[1]))
