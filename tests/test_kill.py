"""`kill -9` in the middle of each phase, then `--resume`: the numbers of an undisturbed run.

A phase is recognised by the files that it makes; the processes are forked from one that has the
libraries loaded already. `python tests/random_kills.py 50` kills at random moments.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from killed_run import LONGEST, Job, finish, kill, left_over, numbers, start
from random_kills import forkserver, kill_at_random

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    return forkserver()


@pytest.fixture(scope="module")
def undisturbed(context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(context, folder)
    return folder


def kill_when(job: Job, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST
    while not reached():
        assert job[0].is_alive(), "the run ended before the phase was seen"
        assert time.monotonic() < deadline, "the phase was never reached"
        time.sleep(0.002)
    kill(job)


PHASES = {
    "demo generation": "cache/demo/.*.partial/train/*/*",
    "encoder training": "cache/encoders/*/training/resume.json",
    "features": "cache/features/**/*",
    "head training": "out/training/resume.json",
    "evaluation": "out/weights/last.safetensors",
    "record writing": "out/per_query.npz",
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_run_is_resumed_to_the_same_numbers(
    context: ForkServerContext, tmp_path: Path, undisturbed: Path, phase: str
) -> None:
    job = start(context, tmp_path, slow_record=phase == "record writing")
    kill_when(job, lambda: any(path.is_file() for path in tmp_path.glob(PHASES[phase])))
    assert job[0].exitcode == -signal.SIGKILL
    assert not (tmp_path / "out" / "record.json").exists()
    for folder in tmp_path.rglob("training"):  # as a kill in the middle of a write leaves it
        (folder / ".99999.partial.resume-00000009.pt").write_bytes(b"half")
    finish(context, tmp_path, "--resume")
    assert numbers(tmp_path) == numbers(undisturbed)
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_two_processes_one_of_them_killed_at_random_are_resumed_to_the_same_numbers(
    context: ForkServerContext, tmp_path: Path
) -> None:
    outcomes = kill_at_random(context, tmp_path, kills=1, processes=2, seed=1)
    assert [outcome.problem for outcome in outcomes] == [""]
