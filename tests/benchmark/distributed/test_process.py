"""Rank variables of the launchers, and processes that are none of a job."""

from __future__ import annotations

import pytest

from benchmark.distributed.process import adopt_launcher, first_of_nodes, slurm_variables
from benchmark.errors import UserError

STEP = {
    "SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[03-04]", "SLURM_NODELIST": "gpu[01-04]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9",
}  # fmt: skip
BATCH_SCRIPT = {"SLURM_JOB_ID": "4242", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def test_a_task_of_srun_gets_the_variables_that_torch_reads() -> None:
    environment = dict(STEP)
    adopt_launcher(environment)
    assert {name: environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")} == {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu03",
    }  # fmt: skip
    assert 12000 <= int(environment["MASTER_PORT"]) < 32000


def test_all_tasks_of_a_step_meet_at_one_port_and_steps_and_jobs_at_others() -> None:
    ports = [
        slurm_variables({**STEP, **changed})["MASTER_PORT"]
        for changed in ({}, {"SLURM_PROCID": "0"}, {"SLURM_STEP_ID": "2"}, {"SLURM_JOB_ID": "4243"})
    ]
    assert ports[0] == ports[1] and len(set(ports)) == 3


@pytest.mark.parametrize(
    "environment",
    [
        {}, BATCH_SCRIPT, {**BATCH_SCRIPT, "SLURM_STEP_ID": "4294967291"},
        {**STEP, "SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_JOB_ID": "4242", "SLURM_NTASKS": "8"},
    ],
)  # fmt: skip
def test_outside_a_step_of_several_tasks_a_process_is_alone(environment: dict[str, str]) -> None:
    before = dict(environment)
    adopt_launcher(environment)
    assert environment == before


def test_another_launcher_inside_a_step_wins_and_so_does_what_was_set_by_hand() -> None:
    started = {**STEP, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    adopt_launcher(started)
    assert (started["RANK"], started["WORLD_SIZE"], started["MASTER_ADDR"]) == ("1", "2", "a")
    by_hand = {**STEP, "MASTER_PORT": "23456"}
    adopt_launcher(by_hand)
    assert by_hand["MASTER_PORT"] == "23456" and by_hand["RANK"] == "5"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu03", "gpu03"), ("gpu[03-07,11],login", "gpu03"), ("a,b", "a"), ("n[9]", "n9"),
        ("rack2-n[001,003-5]-ib", "rack2-n001-ib"), ("r[1-2]n[3-4]", "r1n3"),
    ],
)  # fmt: skip
def test_the_first_of_a_list_of_nodes(nodes: str, first: str) -> None:
    assert first_of_nodes(nodes) == first


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 with WORLD_SIZE=2"),
        ({"RANK": "3"}, "RANK=3 with WORLD_SIZE=1"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x: not a number"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE=2 without MASTER_ADDR and MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "without MASTER_PORT"),
    ],
)
def test_variables_of_no_job_are_told(environment: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        adopt_launcher(environment)
