"""A job ends as one: ranks that fail, die, wait and leave, as processes of their own and no launcher above."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.distributed.failure_monitor import Failure, FailureMonitor, MonitoredRank, format_failures

HERE = Path(__file__).parent
DIED = "ended without a word: killed, perhaps by the system for lack of memory"


def job(folder: Path, *ranks: str) -> tuple[list[int], list[str], float]:
    """Statuses of the ranks, the lines that the terminal shows, and the seconds until all had ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])}
    started = [
        subprocess.Popen(
            [sys.executable, str(HERE / "watched_rank.py"), str(rank), str(len(ranks)), str(folder), *what.split("/")],
            stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank, what in enumerate(ranks)
    ]  # fmt: skip
    while not all((folder / f"there-{rank}").exists() for rank in range(len(ranks))):
        time.sleep(0.01)
    begun = time.monotonic()
    lines = [line for process in started for line in process.communicate(timeout=40)[1].splitlines()]
    return [process.returncode for process in started], lines, time.monotonic() - begun


def test_ranks_that_leave_wait_for_the_last_and_all_is_well(tmp_path: Path) -> None:
    assert job(tmp_path, "leaves", "leaves", "leaves")[:2] == ([0, 0, 0], [])


@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_rank_ends_those_that_wait_and_is_named_once(tmp_path: Path, dead: int) -> None:
    ranks = ["waits", "waits", "leaves"]
    ranks[dead] = "killed"
    statuses, lines, seconds = job(tmp_path, *ranks)
    assert statuses[dead] == -signal.SIGKILL
    assert [status for rank, status in enumerate(statuses) if rank != dead] == [1, 1]
    assert set(lines) == {f"error (rank {dead}): {DIED}"} and seconds < 15
    assert len(lines) == 1 or dead == 0


@pytest.mark.parametrize("failing", [0, 2])
def test_a_failing_rank_s_message_and_status_are_the_job_s(tmp_path: Path, failing: int) -> None:
    ranks = ["waits", "leaves", "waits"]
    ranks[failing] = "fails/no such file/2"
    statuses, lines, seconds = job(tmp_path, *ranks)
    assert statuses == [2, 2, 2] and lines == [f"error (rank {failing}): no such file"] and seconds < 15


def test_what_all_ranks_fail_with_is_said_once(tmp_path: Path) -> None:
    statuses, lines, _ = job(tmp_path, *["fails/batch 7 over 3 processes/2"] * 3)
    assert statuses == [2, 2, 2] and lines == ["error (ranks 0 to 2): batch 7 over 3 processes"]


def test_lines_name_every_rank_and_leave_out_what_died_in_the_wake() -> None:
    failures = {0: Failure("a\nb", 2), 3: Failure("c", 2), 1: Failure("c", 2), 2: Failure(DIED, 1)}
    assert format_failures(failures) == ["error (rank 0): a", "error (rank 0): b", "error (ranks 1 and 3): c"]
    assert format_failures({2: Failure(DIED, 1)}) == [f"error (rank 2): {DIED}"]
    assert format_failures({0: Failure("", 2)}) == []


@pytest.mark.parametrize("said", [b"GET / HTTP/1.0\r\n\r\n", b"[1]\n", b'{"rank": 0, "token": "guessed"}\n', b"[" * 9999 + b"\n", b""])
def test_strangers_at_the_monitor_s_port_change_nothing(said: bytes) -> None:
    monitor = FailureMonitor(1)
    port, _ = json.loads(monitor.address)
    with socket.create_connection(("localhost", port)) as stranger:
        stranger.sendall(said)
        if said:
            assert stranger.recv(1) == b"", "shown the door"
    assert MonitoredRank(0, "localhost", monitor.address).leave() == 0
    monitor.wait_for_end()


def test_a_rank_that_was_only_interrupted_is_left_out_beside_one_that_failed() -> None:
    interrupted, failed = Failure("interrupted", 130), Failure("no such file", 2)
    assert format_failures({0: interrupted, 1: failed, 2: interrupted}) == ["error (rank 1): no such file"]
    assert format_failures({0: interrupted, 1: interrupted}) == ["error (ranks 0 and 1): interrupted"]
