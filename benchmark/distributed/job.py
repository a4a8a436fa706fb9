"""The processes of one job as the steps of a run see them: their waits, and who shares which folder."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmark.distributed.barrier import Barrier
from benchmark.distributed.process import Process, this_process
from benchmark.distributed.process_group import join_process_group, start_process_group
from benchmark.errors import UserError


@dataclass(frozen=True)
class SharedFolder:
    """``ranks``: those that see the same folder as this one, in order.

    ``shard``: this rank's place among them, and their number.
    """

    ranks: tuple[int, ...] = (0,)
    shard: tuple[int, int] = (0, 1)

    @property
    def is_first(self) -> bool:
        return self.shard[0] == 0


@dataclass(frozen=True)
class Job:
    """The processes of one job.

    ``process``: this rank. ``host_ranks``: those on its machine. ``core_ranks``: those of them that
    run on the same cores. ``cache``: those that see its cache folder.
    """

    process: Process
    barrier: Barrier
    host_ranks: tuple[int, ...] = (0,)
    core_ranks: tuple[int, ...] = (0,)
    cache: SharedFolder = SharedFolder()

    @classmethod
    def alone(cls, process: Process) -> Job:
        """A process that works for itself, whatever other processes its launcher has started."""
        process = replace(process, rank=0, world_size=1)
        return cls(process, Barrier(process, None))

    @property
    def cores(self) -> int:
        """Cores for the threads of this rank: its part of those that it may use, one at least."""
        return max(len(_usable_cores()) // len(self.core_ranks), 1)


ALONE = Job.alone(Process(rank=0, world_size=1, local_rank=0, device=torch.device("cpu")))
"""The job of whoever computes on one CPU process and was started by no launcher."""


def join_job(device: str, cache: Path) -> Job:
    """This process's job, which keeps its features under ``cache``.

    Of several processes all must call it; a process that is alone starts and writes nothing.
    """
    process = this_process(device)
    if process.world_size == 1:
        return Job.alone(process)
    group = join_process_group()
    assert group is not None
    start_process_group(process)
    # A program may run several jobs one after the other on the same processes.
    number = group.store.add(f"jobs of rank {process.rank}", 1)
    barrier = Barrier(process, group.store, f"job {number}")
    places = barrier.share("finding the ranks of each machine", [socket.gethostname(), _usable_cores()])
    host, cores = places[process.rank]
    host_ranks = tuple(rank for rank, place in enumerate(places) if place[0] == host)
    # Launchers that bind ranks to cores of their own have divided them already.
    core_ranks = tuple(rank for rank in host_ranks if places[rank][1] == cores)
    return Job(process, barrier, host_ranks, core_ranks, _ranks_sharing(cache, process, barrier))


def _usable_cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _ranks_sharing(folder: Path, process: Process, barrier: Barrier) -> SharedFolder:
    """Which ranks see the same folder; nodes may have one of their own under the same name.

    Every rank leaves a token, and takes its place beside the lowest rank whose token it sees: rank 0's
    where the folder is shared by all.
    """
    # A token of this job alone: one that a killed job left is nobody's.
    name = barrier.from_main("naming the job", lambda: f".ranks-{secrets.token_hex(8)}")
    token = folder / f"{name}-{process.rank}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        token.touch()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder with --cache") from None
    try:
        barrier.wait("looking for a shared cache folder")
        lowest = next(rank for rank in range(process.world_size) if (folder / f"{name}-{rank}").exists())
        seen = barrier.share("comparing cache folders", lowest)
    finally:
        token.unlink(missing_ok=True)
    ranks = tuple(rank for rank, first in enumerate(seen) if first == lowest)
    return SharedFolder(ranks, (ranks.index(process.rank), len(ranks)))
