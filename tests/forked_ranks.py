"""Jobs of several CPU processes for tests, forked from one that has imported torch already.

A started interpreter needs seconds for its imports; a fork needs none. The one that forks computes
nothing itself, so that no thread of torch is lost.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_ranks(
    world_size: int, work: Callable[[], None], environment: Callable[[int], Mapping[str, str]] = lambda rank: {}
) -> None:
    """Call ``work`` on every rank of a job; raises RuntimeError where one fails."""
    port = free_port()
    children = [_fork(rank, world_size, port, work, environment(rank)) for rank in range(world_size)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(statuses):
        raise RuntimeError(f"ranks of {world_size} ended with {statuses}")


def _fork(rank: int, world_size: int, port: int, work: Callable[[], None], environment: Mapping[str, str]) -> int:
    child = os.fork()
    if child:
        return child
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), **environment,
    )  # fmt: skip
    try:
        work()
        from benchmark.distributed.process_group import join_process_group

        group = join_process_group()
        status = group.leave() if group else 0
    except BaseException:
        traceback.print_exc()
        status = 1
        # The others' errors would hide this one.
        time.sleep(0.5)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
