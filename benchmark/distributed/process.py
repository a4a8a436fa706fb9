"""Processes of one job: who am I, and how many are we."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from benchmark.distributed.launchers import adopt_launcher
from benchmark.errors import UserError


@dataclass(frozen=True)
class Process:
    """This process among those of the job; ``device`` is the one it computes on."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def this_process(device: str = "") -> Process:
    """Read the launcher's variables; "" takes a GPU where torch has one."""
    adopt_launcher()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    index = f":{_device_index(local_rank)}" if chosen == "cuda" else ""
    return Process(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=local_rank,
        device=torch.device(chosen + index),
    )


def _device_index(local_rank: int) -> int:
    """The GPU of a rank among those that it sees: its own number, or the only one that it was given."""
    # srun with --gpus-per-task shows each rank one GPU, which is number 0 to it.
    count = torch.cuda.device_count()
    if count > 1 and local_rank >= count:
        raise UserError(
            f"process {local_rank} of this machine has no GPU of its own: {count} are here; "
            "start as many processes as there are GPUs, or use --device cpu"
        )
    return local_rank if count > 1 else 0
