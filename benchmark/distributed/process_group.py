"""The process group of a job: how its processes meet, start torch's own group, and end together.

They meet at the launcher's MASTER_ADDR and MASTER_PORT, in torch's key-value store; a failure monitor
watches every rank from then on. A process without a launcher is no job and does none of it.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from benchmark.distributed.barrier import Barrier
from benchmark.distributed.failure_monitor import Failure, FailureMonitor, MonitoredRank, end_process
from benchmark.distributed.process import Process, adopt_launcher
from benchmark.errors import UserError, described, format_unexpected

_MEETING_SECONDS = 300
_WAKE_SECONDS = 1.5
"""A collective fails in the wake of another rank's death, which is the message worth showing."""
_ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@dataclass
class ProcessGroup:
    """This rank's part in a job of several processes. ``store``: the job's key-value store.

    ``monitor``: rank 0's, None on the others. ``has_ended``: this rank has left or failed.
    """

    rank: int
    store: Any
    monitored: MonitoredRank
    monitor: FailureMonitor | None
    has_ended: bool = False

    def leave(self) -> int:
        """This rank has done its part: wait for the others and give the job's exit status."""
        if self.has_ended:
            return 0
        self.has_ended = True
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        status = self.monitored.leave()
        if self.monitor is not None:
            self.monitor.wait_for_end()
        return status

    def fail(self, error: BaseException, with_traceback: bool = False) -> int:
        """Tell all ranks why this one ends, and end them; gives the exit status.

        The message is shown once by rank 0, whichever ranks it came from.
        """
        self.has_ended = True
        told = described(error)
        if told is None:
            time.sleep(_WAKE_SECONDS)
        if with_traceback:
            traceback.print_exception(error)
        message, status = told or (format_unexpected(error), 1)
        if not self.monitored.fail(Failure(message, status)):
            print(f"error (rank {self.rank}): {message}", file=sys.stderr, flush=True)
        if self.monitor is not None:
            self.monitor.wait_for_end()
        return status


_joined: ProcessGroup | None = None
"""A process belongs to one job at most, as it does to torch's default process group."""


def join_process_group() -> ProcessGroup | None:
    """Meet the other processes, once; None for a process that is alone.

    Raises UserError where they do not come together.
    """
    global _joined
    if _joined is not None:
        return _joined
    adopt_launcher()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return None
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    # The store's own warnings, of connections that close, tell nothing that the monitor does not.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    store = _store_of_job(rank, world_size)
    monitor = FailureMonitor(world_size) if rank == 0 else None
    if monitor is not None:
        store.set("monitor", monitor.address)
    host = "localhost" if rank == 0 else os.environ["MASTER_ADDR"]
    try:
        monitored = MonitoredRank(rank, host, store.get("monitor").decode(), local_rank)
    except OSError as error:
        raise UserError(
            f"rank 0's machine {host} does not answer rank {rank} ({error.strerror or error}); "
            "the machines of a job must reach each other on all ports"
        ) from None
    _joined = ProcessGroup(rank, store, monitored, monitor)
    atexit.register(_end_at_exit, _joined)
    return _joined


def _store_of_job(rank: int, world_size: int) -> Any:
    """Torch's store at the launcher's address, when all ranks are there."""
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        found, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=_MEETING_SECONDS)))
        # torchrun's agent keeps one store over its restarts of a job: their keys must not be found again.
        store = PrefixStore(f"benchmark {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", found)
        store.set(f"rank {rank}", "")
        store.wait([f"rank {other}" for other in range(world_size)], timedelta(seconds=_MEETING_SECONDS))
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the {world_size} processes of this job did not meet at {place}: {reason}; where the port is taken, "
            "choose another (--master_port of deepspeed and torchrun, MASTER_PORT)"
        ) from None
    return store


def _end_at_exit(group: ProcessGroup) -> None:
    """A program that called `benchmark.run` ends: well, or by an exception that nobody caught."""
    if group.has_ended:
        return
    error = getattr(sys, "last_value", None)
    status = group.leave() if error is None else group.fail(error)
    if status:
        end_process(status)


def quiet_deepspeed(verbose: bool = False) -> Any:
    """Import DeepSpeed without its start-up compilation and, unless ``verbose``, without its log lines.

    On a CPU the first process group would compile a shared-memory collective in C++ (minutes, and
    a compiler needed); gloo carries the collectives as well.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import deepspeed
        except ImportError as error:
            told = str(error).partition("\n")[0]
            raise UserError(
                f"training runs under DeepSpeed, which cannot be imported ({told}); pip install deepspeed, "
                "on Windows in its subsystem for Linux (WSL)"
            ) from error
    if not verbose:
        # It calls what torch means to rename.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    for speaker in (deepspeed.utils.logger, *deepspeed.utils.logger.handlers):
        speaker.setLevel(logging.INFO if verbose else logging.ERROR)
    # The whole answer, before it is asked for: DeepSpeed would try a compiler on every operation that it has.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    return deepspeed


def start_process_group(process: Process) -> None:
    """Start torch's process group once; a process without a launcher is a group of one."""
    import torch

    if torch.distributed.is_initialized():
        return
    if process.device.type == "cpu":
        # DeepSpeed would take a GPU that it sees, whatever --device says.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    else:
        torch.cuda.set_device(process.device)
    backend = "gloo" if process.device.type == "cpu" else "nccl"
    group = join_process_group()
    if group is None:
        for name, value in _ALONE.items():
            os.environ.setdefault(name, value)
    else:
        _require_own_devices(group, process)
        # Before DeepSpeed, which takes a group that is there, and would open a store of its own otherwise.
        torch.distributed.init_process_group(
            backend, store=group.store, rank=process.rank, world_size=process.world_size
        )
    # Without a launcher DeepSpeed would ask MPI who it is.
    quiet_deepspeed().init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def _require_own_devices(group: ProcessGroup, process: Process) -> None:
    """Raises UserError where two processes would share a GPU, which NCCL refuses in words of its own."""
    if process.device.type != "cuda":
        return
    import torch

    own = f"GPU {torch.cuda.get_device_properties(process.device).uuid} of {socket.gethostname()}"
    taken: dict[str, list[int]] = {}
    for rank, name in enumerate(Barrier(process, group.store, "devices").share("comparing GPUs", own)):
        taken.setdefault(name, []).append(rank)
    shared = [f"{name} by ranks {', '.join(map(str, ranks))}" for name, ranks in taken.items() if len(ranks) > 1]
    if shared:
        raise UserError(
            f"processes share a device: {'; '.join(shared)}; start as many processes as there are GPUs, "
            "or use --device cpu"
        )
