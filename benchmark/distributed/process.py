"""Processes of one job: who am I, how many are we, and a gather with exact gradients."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.distributed.launchers import adopt_launcher
from benchmark.distributed.membership import Membership, join_processes
from benchmark.encoding import Encoding, map_tensors
from benchmark.errors import UserError

_ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


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
    count = torch.cuda.device_count()
    if count > 1 and local_rank >= count:
        raise UserError(
            f"process {local_rank} of this machine has no GPU of its own: {count} are here; "
            "start as many processes as there are GPUs, or use --device cpu"
        )
    return local_rank if count > 1 else 0


def quiet_deepspeed(verbose: bool = False) -> Any:
    """Import DeepSpeed without its start-up compilation and, unless ``verbose``, without its log lines.

    On a CPU the first process group would compile a shared-memory collective in C++ (minutes, and
    a compiler needed); gloo carries the collectives as well.
    """
    import logging
    import warnings

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
    if not verbose:
        # It calls what torch means to rename.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    for speaker in (deepspeed.utils.logger, *deepspeed.utils.logger.handlers):
        speaker.setLevel(logging.INFO if verbose else logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def start_process_group(process: Process) -> None:
    """Join the job's process group once; a process without a launcher is a group of one."""
    if torch.distributed.is_initialized():
        return
    if process.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    else:
        torch.cuda.set_device(process.device)
    backend = "gloo" if process.device.type == "cpu" else "nccl"
    membership = join_processes()
    if membership is None:
        for name, value in _ALONE.items():
            os.environ.setdefault(name, value)
    else:
        _require_own_devices(membership, process)
        torch.distributed.init_process_group(
            backend, store=membership.store, rank=process.rank, world_size=process.world_size
        )
    quiet_deepspeed().init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def _require_own_devices(membership: Membership, process: Process) -> None:
    """Raises UserError where two processes would share a GPU, which NCCL refuses in words of its own."""
    if process.device.type != "cuda":
        return
    own = f"GPU {torch.cuda.get_device_properties(process.device).uuid} of {socket.gethostname()}"
    taken: dict[str, list[int]] = {}
    for rank, name in enumerate(membership.tell("devices", own)):
        taken.setdefault(name, []).append(rank)
    shared = [f"{name} by ranks {', '.join(map(str, ranks))}" for name, ranks in taken.items() if len(ranks) > 1]
    if shared:
        raise UserError(
            f"processes share a device: {'; '.join(shared)}; start as many processes as there are GPUs, "
            "or use --device cpu"
        )


class _GatherRows(torch.autograd.Function):
    """Concatenate every rank's rows; backward sums the gradients of all ranks for one's own rows.

    Each rank then computes the whole group's loss, and DeepSpeed's averaging of gradients over
    ranks is already the right factor (no multiplication by the world size).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Any) -> Tensor:
        ctx.group = group
        world = torch.distributed.get_world_size(group)
        parts = [torch.empty_like(rows) for _ in range(world)]
        torch.distributed.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient, group=ctx.group)
        rank = torch.distributed.get_rank(ctx.group)
        world = torch.distributed.get_world_size(ctx.group)
        own = gradient.shape[0] // world
        return gradient[rank * own : (rank + 1) * own], None


def gather_rows(encoding: Encoding, group: Any) -> Encoding:
    """Rows of all processes of ``group``, in rank order, with exact gradients; None: this one alone.

    Every process must have the same number of rows.
    """
    if group is None:
        return encoding
    return map_tensors(lambda tensor: _GatherRows.apply(tensor, group), encoding)
