"""The processes of one job: how they meet, agree before they compute, and end together.

They meet at the launcher's MASTER_ADDR and MASTER_PORT, in torch's key-value store; every rank's end
is watched from then on (`rank_watch.py`). A process without a launcher is no job and does none of it.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from benchmark.distributed.launchers import adopt_launcher
from benchmark.distributed.rank_watch import Failure, Hub, Watch, end_process
from benchmark.errors import UserError, described

_MEETING_SECONDS = 300
_FOREVER = timedelta(days=30)
_WAKE_SECONDS = 1.5
"""A collective fails in the wake of another rank's death, which is the message worth showing."""
_SHOWN_DIFFERENCES = 5


class Membership:
    """This rank's part in a job of several processes. ``store`` is the job's key-value store."""

    def __init__(self, rank: int, world_size: int, local_rank: int, store: Any, watch: Watch, hub: Hub | None) -> None:
        self.rank, self.world_size, self.store = rank, world_size, store
        self.local_rank = local_rank
        self._watch, self._hub = watch, hub
        self._told = 0
        self.has_ended = False

    def agree(self, subject: str, facts: Mapping[str, str]) -> None:
        """Compare facts through the store; returns when all ranks have them alike.

        No collective is used, and the wait may be long: a rank that ends meanwhile ends all. Raises
        UserError, the same on all ranks, naming what differs from rank 0.
        """
        own = [subject, dict(facts)]
        problems: dict[str, list[int]] = {}
        answers = self.tell("agreement", own)
        for rank, answer in enumerate(answers):
            problems.setdefault(difference(answers[0], answer), []).append(rank)
        problems.pop("", None)
        if problems:
            raise UserError.collect(
                f"the processes of this job disagree: {problem.replace('RANKS', ', '.join(map(str, ranks)))}; "
                "start all with the same command, program and data"
                for problem, ranks in problems.items()
            )

    def tell(self, subject: str, value: Any) -> list[Any]:
        """Give a JSON-like value through the store; those of all ranks in order, once all have given theirs."""
        self._told += 1
        keys = [f"{subject} {self._told} of {rank}" for rank in range(self.world_size)]
        self.store.set(keys[self.rank], json.dumps(value))
        self.store.wait(keys, _FOREVER)
        return [json.loads(told) for told in self.store.multi_get(keys)]

    def leave(self) -> int:
        """This rank has done its part: wait for the others and give the job's exit status."""
        if self.has_ended:
            return 0
        self.has_ended = True
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        status = self._watch.leave()
        if self._hub is not None:
            self._hub.wait_for_end()
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
        message, status = told or (f"{type(error).__name__}: {error}", 1)
        if not self._watch.fail(Failure(message, status)):
            print(f"error (rank {self.rank}): {message}", file=sys.stderr, flush=True)
        if self._hub is not None:
            self._hub.wait_for_end()
        return status


def difference(first: Sequence[Any], other: Sequence[Any]) -> str:
    """What differs between rank 0's (subject, facts) and another's; "RANKS" stands for that one, "" for nothing."""
    if first[0] != other[0]:
        return f"rank 0 is at {first[0]}, RANKS at {other[0]}"
    names = [name for name in {**first[1], **other[1]} if first[1].get(name) != other[1].get(name)]
    shown = [
        f"{name} is {first[1].get(name, 'unknown')} on rank 0 and {other[1].get(name, 'unknown')} on rank RANKS"
        for name in names[:_SHOWN_DIFFERENCES]
    ]
    more = [f"and {len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return ", ".join([*shown, *more])


_joined: Membership | None = None
"""A process belongs to one job at most, as it does to torch's default process group."""


def join_processes() -> Membership | None:
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
    # The store's own warnings, of connections that close, tell nothing that the watch does not.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    store = _meet(rank, world_size)
    hub = Hub(world_size) if rank == 0 else None
    if hub is not None:
        store.set("hub", hub.address)
    host = "localhost" if rank == 0 else os.environ["MASTER_ADDR"]
    try:
        watch = Watch(rank, host, store.get("hub").decode(), local_rank)
    except OSError as error:
        raise UserError(
            f"rank 0's machine {host} does not answer rank {rank} ({error.strerror or error}); "
            "the machines of a job must reach each other on all ports"
        ) from None
    _joined = Membership(rank, world_size, local_rank, store, watch, hub)
    atexit.register(_end_at_exit, _joined)
    return _joined


def _meet(rank: int, world_size: int) -> Any:
    """The job's store, when all ranks are there."""
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        found, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=_MEETING_SECONDS)))
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


def _end_at_exit(membership: Membership) -> None:
    """A program that called `benchmark.run` ends: well, or by an exception that nobody caught."""
    if membership.has_ended:
        return
    error = getattr(sys, "last_value", None)
    status = membership.leave() if error is None else membership.fail(error)
    if status:
        end_process(status)
