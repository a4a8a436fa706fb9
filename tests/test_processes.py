"""Whole runs on several processes, started as the launchers start them: equal numbers, and ends as one."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from command_line import TOY_PLUGIN
from killed_run import LONGEST, Job, ended, run
from random_kills import forkserver

from benchmark.records.record import read_record

pytestmark = pytest.mark.slow
_PORT = 21000 + os.getpid() % 8000
RUN = [
    "run", "--method", "spirit", "--dataset", "cirr", "--demo", "--limit", "24", "--epochs", "1",
    "--batch-size", "8", "--set", "method.encoder=untouched",
]  # fmt: skip
DIED = "ended without a word: killed, perhaps by the system for lack of memory"


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    return forkserver()


def by_srun(rank: int, world: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": str(_PORT), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(world), "SLURM_NTASKS": str(world),
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NODELIST": "localhost",
    }  # fmt: skip


def by_deepspeed(rank: int, world: int) -> dict[str, str]:
    variables = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_PORT": _PORT + world}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in variables.items()}}


def alone(rank: int, world: int) -> dict[str, str]:
    return {}


def start(context: ForkServerContext, folder: Path, launcher: object, *of_ranks: list[str]) -> Job:
    """Processes with these arguments; everything of a run lies under ``folder``, but for the shared demo data."""
    folder.mkdir(exist_ok=True)
    job = []
    for rank, arguments in enumerate(of_ranks):
        local = [f"--local_rank={rank}"] if launcher is by_deepspeed else []
        whole = [*local, *arguments, "--cache", str(folder.parent / "cache"), "--output", str(folder / "out")]
        assert callable(launcher)
        variables: dict[str, str] = launcher(rank, len(of_ranks))
        process = context.Process(target=run, args=(whole, str(folder / f"log-{rank}"), variables))
        process.start()
        job.append(process)
    return job


def statuses(job: Job, seconds: float = LONGEST) -> list[int | None]:
    assert ended(job, seconds)
    return [process.exitcode for process in job]


def own_lines(log: Path) -> list[str]:
    """What a rank showed, without the linker's lines where DeepSpeed looks for libraries."""
    return [line for line in log.read_text().splitlines() if not line.startswith(("/usr/bin/ld", "collect2"))]


def errors(folder: Path) -> list[str]:
    """What all ranks showed of errors."""
    lines = [line for log in sorted(folder.glob("log-*")) for line in log.read_text().splitlines()]
    return [line for line in lines if line.startswith("error")]


@pytest.mark.slow
def test_launchers_and_no_launcher_give_the_same_numbers(context: ForkServerContext, tmp_path: Path) -> None:
    ranks = {alone: 1, by_srun: 2, by_deepspeed: 2}
    metrics = {}
    for launcher, count in ranks.items():
        folder = tmp_path / launcher.__name__
        assert statuses(start(context, folder, launcher, *[RUN] * count)) == [0] * count, list(folder.glob("log*"))
        record = read_record(folder / "out")
        assert record.environment.world_size == count
        metrics[launcher] = [result.metrics for result in record.results]
        shown = [own_lines(folder / f"log-{rank}") for rank in range(count)]
        assert any(line.startswith("record:") for line in shown[0]) and not any(shown[1:]), "one rank prints"
    assert metrics[alone] == metrics[by_srun] == metrics[by_deepspeed]


def test_a_batch_that_the_processes_cannot_share_is_told_with_both_numbers(
    context: ForkServerContext, tmp_path: Path
) -> None:
    job = start(context, tmp_path / "run", by_srun, *[[*RUN, "--batch-size", "7"]] * 2)
    assert statuses(job) == [2, 2]
    (line,) = errors(tmp_path / "run")
    assert line.endswith(
        "batch_size 7, one negative group of 7, cannot be spread evenly over 2 processes; "
        "change --batch-size, --negative-group or the number of processes"
    )
    assert not (tmp_path / "run" / "out" / "record.json").exists()


def test_ranks_that_disagree_end_before_they_compute(context: ForkServerContext, tmp_path: Path) -> None:
    plugin = tmp_path / "own.py"
    plugin.write_text(TOY_PLUGIN.read_text())
    for own in (plugin, tmp_path / "other" / "own.py"):
        own.parent.mkdir(exist_ok=True)
        own.with_suffix(".toml").write_text(TOY_PLUGIN.with_suffix(".toml").read_text())
    other = tmp_path / "other" / "own.py"
    other.write_text(TOY_PLUGIN.read_text() + "# another version\n")
    asked = [
        [*RUN, "--plugin", str(plugin), "--set", "spirit.learning_rate=0.1"],
        [*RUN, "--plugin", str(other), "--set", "spirit.learning_rate=0.2"],
    ]
    begun = time.monotonic()
    assert statuses(start(context, tmp_path / "run", by_srun, *asked)) == [2, 2]
    assert time.monotonic() - begun < 60
    (line,) = errors(tmp_path / "run")
    assert line.startswith("error (ranks 0 and 1): the processes of this job disagree: plug-in own.py is ")
    assert "spirit.learning_rate is 0.1 on rank 0 and 0.2 on rank 1" in line
    assert line.endswith("start all with the same command, program and data")


@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_rank_ends_the_others_within_seconds(context: ForkServerContext, tmp_path: Path, dead: int) -> None:
    folder = tmp_path / "run"
    endless = [*RUN, "--epochs", "1000000", "--selection", "last", "--set", "trainer.checkpoint_seconds=0"]
    job = start(context, folder, by_srun, endless, endless)
    deadline = time.monotonic() + LONGEST
    while not (folder / "out" / "training" / "resume.json").exists():
        assert time.monotonic() < deadline and job[dead].is_alive(), errors(folder)
        time.sleep(0.01)
    pid = job[dead].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    expected = [1, 1]
    expected[dead] = -signal.SIGKILL
    assert statuses(job, 30) == expected and time.monotonic() - begun < 15
    assert errors(folder) == [f"error (rank {dead}): {DIED}"]
