"""Trains the cases of a JSON file on several numbers of processes: `layout_processes.py CASES.json FOLDER 1 2 4`.

The libraries are imported once; each number of processes is forked from here, with the variables that a
launcher would set, and rank 0 of it leaves FOLDER/<number>.pt.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from pathlib import Path

import layout_cases
import torch

from benchmark.distributed.process_group import join_process_group, quiet_deepspeed


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def work(cases: list[layout_cases.Case], folder: Path, rank: int, world: int, port: int) -> int:
    """One rank's part; gives its exit status."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()}, MASTER_ADDR="127.0.0.1")
    group = join_process_group()
    try:
        chosen = [case for case in cases if world in case.get("worlds", [world])]
        results = layout_cases.trained_all(chosen, folder / f"work-{world}")
        if rank == 0:
            torch.save(results, folder / f"{world}.pt")
        return group.leave() if group is not None else 0
    except BaseException as error:
        if group is None:
            traceback.print_exc()
            return 1
        return group.fail(error, with_traceback=True)


def fork(cases: list[layout_cases.Case], folder: Path, world: int) -> list[int]:
    """Process ids of the ranks of one job."""
    port = free_port()
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            status = work(cases, folder, rank, world, port)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        children.append(child)
    return children


def allow_float64() -> None:
    """DeepSpeed sends gradients in the types that it trains in; float64 shows that layouts are equal, not near."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.engine import DeepSpeedEngine

    accelerator = get_accelerator()
    types = [*accelerator.supported_dtypes(), torch.float64]
    accelerator.supported_dtypes = lambda: types
    DeepSpeedEngine.communication_data_type = property(lambda engine: next(engine.module.parameters()).dtype)


if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet_deepspeed()
    allow_float64()
    chosen, where = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    for number in map(int, sys.argv[3:]):
        statuses = [os.waitpid(child, 0)[1] for child in fork(chosen, where, number)]
        if any(statuses):
            sys.exit(f"{number} processes ended with {statuses}")
