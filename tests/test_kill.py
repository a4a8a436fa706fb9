"""`kill -9` in the middle of each phase, then `--resume`: the numbers of an undisturbed run.

A phase is recognised by the files that it makes; the processes are forked from one that has the
libraries loaded already.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import killed_run
import numpy as np
import pytest

from benchmark.files import file_digest
from benchmark.record import read_per_query, read_record

LONGEST = 180.0  # seconds that a phase may take to be reached on a busy machine

RUN = [
    "run", "--method", "clip4cir", "--dataset", "cirr", "--limit", "40", "--epochs", "4",
    "--set", "encoders.epochs=2", "--set", "trainer.checkpoint_seconds=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["killed_run", "benchmark.pipeline", "deepspeed"])
    return forkserver


def start(context: ForkServerContext, folder: Path, *further: str) -> ForkServerProcess:
    arguments = [*RUN, "--cache", str(folder / "cache"), "--output", str(folder / "out"), *further]
    process = context.Process(target=killed_run.run, args=(arguments, str(folder / "log")))
    process.start()
    return process


def finish(context: ForkServerContext, folder: Path, *further: str) -> None:
    process = start(context, folder, *further)
    process.join(LONGEST)
    assert process.exitcode == 0, (folder / "log").read_text()


@pytest.fixture(scope="module")
def undisturbed(context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(context, folder)
    return folder


def kill_when(process: ForkServerProcess, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST
    while not reached():
        assert process.is_alive(), "the run ended before the phase was seen"
        assert time.monotonic() < deadline, "the phase was never reached"
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


PHASES = {
    "demo generation": "cache/demo/.*.partial/train/*/*",
    "encoder training": "cache/encoders/*/training/resume.json",
    "features": "cache/features/**/*",
    "head training": "out/training/resume.json",
    "evaluation": "out/weights/last.safetensors",
    "record writing": "out/table.md",
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_run_is_resumed_to_the_same_numbers(
    context: ForkServerContext, tmp_path: Path, undisturbed: Path, phase: str
) -> None:
    process = start(context, tmp_path)
    kill_when(process, lambda: any(path.is_file() for path in tmp_path.glob(PHASES[phase])))
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out" / "record.json").exists()
    for folder in tmp_path.rglob("training"):  # as a kill in the middle of a write leaves it
        (folder / ".99999.partial.resume-00000009.pt").write_bytes(b"half")
    finish(context, tmp_path, "--resume")
    assert numbers(tmp_path) == numbers(undisturbed)
    assert left_over(tmp_path) == []


def numbers(folder: Path) -> dict[str, object]:
    """Everything that must not depend on whether a run was disturbed."""
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
    from benchmark.checkpoints import read_weights

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
