"""Whole runs on 1 and 3 ranks over the same small data: run as a program by `test_sharded_runs.py`.

Two of three ranks share a cache folder; the last has one of its own, as on a node that shares nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from pathlib import Path

import torch
from forked_ranks import run_ranks

import benchmark
from benchmark.distributed.process_group import quiet_deepspeed
from benchmark.pipeline.checkpoint_evaluation import evaluate_checkpoint

WORLDS = (1, 3)
BACKBONE = {"backbone": "tiny", "weights": "random"}
OF_SUM = {"set": {"encoders.epochs": 1, "encoders.batch_size": 24}, "recipe": "from-scratch", **BACKBONE}


def cache_of(folder: Path, world_size: int, rank: int) -> Path:
    return folder / f"cache-{world_size}-{max(rank - 1, 0)}"


def train_first(data: Path, folder: Path) -> None:
    """One process trains what the others start from: an encoder, and a checkpoint with a score of its own."""
    torch.set_num_threads(1)
    cache = folder / "cache-first"
    common = {"dataset": "cirr", "data_root": str(data), "cache": str(cache)}
    benchmark.run(method="sum", output=str(folder / "first"), **OF_SUM, **common)
    benchmark.run(
        method="artemis_clip", output=str(folder / "trained"), epochs=1, limit=24, **common, **BACKBONE,
        set={"method.encoder": "untouched"},
    )  # fmt: skip


def all_runs(data: Path, folder: Path, world_size: int) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", "0"))
    cache = cache_of(folder, world_size, rank)
    common = {"dataset": "cirr", "data_root": str(data), "cache": str(cache)}
    # As on nodes without a shared folder: rank 0 writes to its own, the others' must stay empty.
    place = folder / f"node-{world_size}-{rank}"
    place.mkdir()
    os.chdir(place)
    output = Path("run")
    untouched = benchmark.run(
        method="sum", output=str(output / "untouched"), set={"method.encoder": "untouched"}, **BACKBONE, **common
    )
    taken = benchmark.run(method="sum", output=str(output / "taken"), **OF_SUM, **common)
    evaluated, _ = evaluate_checkpoint(
        "artemis_clip", folder / "trained", "", "",
        {"output": str(output / "evaluated"), **{k: v for k, v in common.items() if k != "dataset"}},
    )  # fmt: skip
    for name, record in (("untouched", untouched), ("taken", taken), ("evaluated", evaluated)):
        (folder / f"{name}-{world_size}-{rank}.json").write_text(record.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    data, folder = map(Path, sys.argv[1:])
    quiet_deepspeed()
    run_ranks(1, partial(train_first, data, folder))
    for world_size in WORLDS:
        shutil.copytree(folder / "cache-first", cache_of(folder, world_size, 0))
        shutil.rmtree(cache_of(folder, world_size, 0) / "features")
        run_ranks(world_size, partial(all_runs, data, folder, world_size))
