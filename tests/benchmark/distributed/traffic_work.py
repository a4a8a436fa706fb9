"""Bytes of one update of SPIRIT's head on 1, 2 and 4 ranks, counted: `traffic_work.py FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmark.methods.spirit import Spirit, SpiritSettings
from forked_ranks import run_ranks
from torch.nn.modules.batchnorm import _BatchNorm
from traffic_meter import Meter

from benchmark.dataset import IntArray
from benchmark.distributed.process import this_process
from benchmark.distributed.process_group import quiet_deepspeed
from benchmark.method import Views
from benchmark.settings import TrainingSettings
from benchmark.training.batches import Batch, GroupLayout, rank_shares, update_plan
from benchmark.training.engine import StageEngine
from benchmark.training.execution import Execution
from benchmark.training.optimisation import standard_optimiser, standard_schedule

WORLDS = (1, 2, 4)
WIDTH, BATCH = 6, 16
LAYOUTS = {"one group": (0, 0), "four groups": (4, 0), "zero 1": (4, 1), "zero 2": (4, 2)}
"""Negative group (0: the whole batch) and stage of ZeRO."""


def features(rows: IntArray, seed: int) -> Views:
    """Made-up features of these rows."""
    drawn = np.random.default_rng(seed)
    whole, patches = drawn.normal(size=(BATCH, WIDTH)), drawn.normal(size=(BATCH, 13, WIDTH))
    return {name: torch.from_numpy(a[rows]).float() for name, a in (("global", whole), ("patches", patches))}


def batch(rows: IntArray) -> Batch:
    return Batch(features(rows, 1), features(rows, 2), {"global": features(rows, 3)["global"]})


def one_update(negative_group: int, zero: int) -> dict[str, object]:
    """Bytes by collective, and what the formula needs: parameters, and channels of the batch norms that ran."""
    settings = TrainingSettings(batch_size=BATCH, negative_group=negative_group, optimiser="sgd", learning_rate=0.1)
    torch.manual_seed(0)
    method, process = Spirit(WIDTH, SpiritSettings()), this_process("cpu")
    trained = [p for p in method.parameters() if p.requires_grad]
    layout = GroupLayout.of(settings, process.world_size)
    optimiser = standard_optimiser([{"params": trained}], settings)
    engine = StageEngine(
        method, optimiser, standard_schedule(settings, 3), settings, layout, process, Execution(zero=zero)
    )
    engine.training_mode()
    channels: list[int] = []
    for norm in (module for module in method.modules() if isinstance(module, _BatchNorm)):
        norm.register_forward_pre_hook(lambda layer, _: channels.append(layer.num_features))
    (rows,) = update_plan(BATCH, settings, 0, 0)
    with Meter() as meter:
        for part, share in enumerate(rank_shares(rows, settings, layout, process.rank)):
            engine.accumulate(batch(share.rows), part)
        engine.update()
    engine.close()
    return {
        "bytes": meter.bytes,
        "calls": meter.calls,
        "parameters": sum(p.numel() for p in trained),
        "channels": sum(channels),
        "ranks per group": layout.ranks_per_group,
        "rows": layout.rows_per_rank,
    }


def all_layouts(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {name: one_update(*layout) for name, layout in LAYOUTS.items()}
    name = f"{os.environ.get('WORLD_SIZE', '1')}-{os.environ.get('RANK', '0')}.json"
    (folder / name).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    quiet_deepspeed()
    for world_size in WORLDS:
        run_ranks(world_size, partial(all_layouts, Path(sys.argv[1])))
