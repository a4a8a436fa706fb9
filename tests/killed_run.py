"""The command line on small demo data, for processes that are killed: started, killed, compared."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import replace
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

RUN = [
    "run", "--method", "clip4cir", "--dataset", "cirr", "--demo", "--limit", "40", "--epochs", "4",
    "--set", "encoders.epochs=2", "--set", "trainer.checkpoint_seconds=0",
]  # fmt: skip
LONGEST = 180.0  # seconds that a run may take on a busy machine

SLOW_RECORD = "SLOW_RECORD"
"""A variable of a process that waits before it writes its record, to be killed there."""

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

Job = list[ForkServerProcess]


def run(arguments: list[str], log: str, variables: dict[str, str]) -> None:
    """Ends the process with the command's status; its output goes to ``log``."""
    import torch
    from benchmark.datasets.demo import demo_data as demo

    from benchmark.cli import main
    from benchmark.records import record

    # What an earlier test's process group left in the parent's environment is no launcher of this run.
    for name in LAUNCHER:
        os.environ.pop(name, None)
    os.environ |= variables
    if SLOW_RECORD in variables:
        # Between the ranks' file and the record lie milliseconds, in which no kill is sure to fall.
        written = record.atomic_write_json
        record.atomic_write_json = lambda *given: (time.sleep(LONGEST), written(*given))
    torch.set_num_threads(1)
    stream = Path(log).open("a", encoding="utf-8")
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = stream
    demo._LAYOUTS["cirr"] = replace(demo._LAYOUTS["cirr"], sizes=demo.Sizes(12, 6, 4, 6, 2, 3))
    status = main(arguments)
    stream.flush()
    os._exit(status)


def start(
    context: ForkServerContext, folder: Path, *further: str, processes: int = 1, slow_record: bool = False
) -> Job:
    """A run on as many processes, everything of it under ``folder``."""
    arguments = [*RUN, "--cache", str(folder / "cache"), "--output", str(folder / "out"), *further]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = []
    for rank in range(processes):
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        variables |= {SLOW_RECORD: "1"} if slow_record else {}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if processes > 1 else {}
        process = context.Process(target=run, args=(arguments, str(folder / f"log-{rank}"), variables))
        process.start()
        job.append(process)
    return job


def ended(job: Job, seconds: float = LONGEST) -> bool:
    """Whether all of its processes end within so many seconds."""
    deadline = time.monotonic() + seconds
    for process in job:
        process.join(max(deadline - time.monotonic(), 0))
    return all(process.exitcode is not None for process in job)


def finish(context: ForkServerContext, folder: Path, *further: str, processes: int = 1) -> None:
    """A run to its end."""
    job = start(context, folder, *further, processes=processes)
    assert ended(job) and all(process.exitcode == 0 for process in job), logs(folder)


def kill(job: Job, rank: int = 0) -> None:
    """`kill -9` of one rank; the others have to end by themselves."""
    pid = job[rank].pid
    assert pid is not None
    if job[rank].is_alive():
        os.kill(pid, signal.SIGKILL)
    assert ended(job, 60.0), "a rank went on for a minute after another one's death"


def logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("log-*")))


def numbers(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on whether a run was disturbed."""
    import numpy as np

    from benchmark.files import file_digest
    from benchmark.records.record import read_per_query, read_record

    record = read_record(folder / "out")
    queries = read_per_query(folder / "out", record)
    (encoder,) = folder.glob("cache/encoders/*/weights.safetensors")
    return {
        "results": record.results,
        "identity": record.identity,
        "ranks": {i: np.asarray(q.rank).tolist() for i, q in queries.items()},
        "top": {i: np.asarray(q.top).tolist() for i, q in queries.items()},
        "encoder": tensors(encoder),
        "selected": tensors(folder / "out" / "weights" / "selected.safetensors"),
        "last": tensors(folder / "out" / "weights" / "last.safetensors"),
        "pictures": sorted(file_digest(path) for path in folder.glob("cache/demo/*/*/**/*.png")),
    }


def tensors(file: Path) -> dict[str, bytes]:
    from benchmark.weights.checkpoints import read_weights

    return {name: tensor.numpy().tobytes() for name, tensor in read_weights(file).items()}


def left_over(folder: Path) -> list[str]:
    """Half-written files and resumable states that nobody would ever remove.

    The feature store is shared by processes, so that none removes another one's small half-written files.
    """
    return sorted(
        path.relative_to(folder).as_posix()
        for part in ("out", "cache/encoders", "cache/demo")
        for path in (folder / part).rglob("*")
        if ".partial" in path.name or path.name.startswith("resume")
    )
