"""Processes of one job: who am I, and how many are we; what a launcher says of it.

`deepspeed` and `torchrun` set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. SLURM's
`srun` has names of its own, which are turned into these here. No launcher: one process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.errors import UserError

if TYPE_CHECKING:
    # The command line reads the launcher's variables before it knows whether torch is needed.
    import torch

_FIRST_PORT, _PORTS = 12000, 20000
"""Ports of jobs under srun: below those that systems give to outgoing connections (32768 and up)."""
_BATCH_STEPS = 0xFFFFFFF0
"""SLURM numbers what is no step of srun (the batch script, an interactive shell) from here on."""


@dataclass(frozen=True)
class Process:
    """This process among those of the job; ``device`` is the one it computes on."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def this_process(device: str = "") -> Process:
    """Read the launcher's variables; "" takes a GPU where torch has one.

    Raises UserError where a rank has no GPU of its own.
    """
    import torch

    adopt_launcher()
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if str(chosen) == "cuda":
        # srun with --gpus-per-task shows each rank one GPU, which is number 0 to it.
        count = torch.cuda.device_count()
        if count > 1 and local_rank >= count:
            raise UserError(
                f"process {local_rank} of this machine has no GPU of its own: {count} are here; "
                "start as many processes as there are GPUs, or use --device cpu"
            )
        chosen = torch.device("cuda", local_rank if count > 1 else 0)
    return Process(rank, int(os.environ.get("WORLD_SIZE", "1")), local_rank, chosen)


def adopt_launcher(environment: MutableMapping[str, str] = os.environ) -> None:
    """Complete the rank variables from what the launcher set; called once, before they are read.

    Raises UserError where they are no ranks of one job.
    """
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        for name, value in slurm_variables(environment).items():
            environment.setdefault(name, value)
    _check(environment)


def slurm_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The rank variables of a task of `srun`; none outside a step of several tasks.

    A batch script sees SLURM_NTASKS as well, but is one process: only `srun` sets a step's variables.
    """
    # The step's own number first: `srun -n 2` inside an allocation of 8 tasks is a job of two.
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")
    step = environment.get("SLURM_STEP_ID", "")
    is_step = step.isdigit() and int(step) < _BATCH_STEPS
    if not (is_step or "SLURM_STEP_NUM_TASKS" in environment or "SLURM_LAUNCH_NODE_IPADDR" in environment):
        return {}
    if tasks == "1" or "SLURM_PROCID" not in environment:
        return {}
    # Jobs and steps that share a first node meet at ports of their own.
    job = int(re.sub(r"\D", "", environment.get("SLURM_JOB_ID", "")) or 0)
    port = _FIRST_PORT + (16 * job + (int(step) if is_step else 0)) % _PORTS
    lists = ("SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST")
    nodes = next((environment[name] for name in lists if environment.get(name)), "")
    # SLURM_LAUNCH_NODE_IPADDR, where `srun` was typed, may be a login node and comes last.
    launched_from = environment.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": first_of_nodes(nodes) if nodes else launched_from,
        "MASTER_PORT": str(port),
    }


def first_of_nodes(nodes: str) -> str:
    """The first name of a SLURM list of nodes: ``gpu[03-07,11],login`` is gpu03."""
    # Commas within brackets part numbers, not names.
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first)


def _check(environment: Mapping[str, str]) -> None:
    ranks = {name: environment.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    for name, value in ranks.items():
        if value is not None and not value.isdigit():
            raise UserError(f"{name}={value}: not a number; start with deepspeed, torchrun or srun, or unset {name}")
    rank, world = int(ranks["RANK"] or 0), int(ranks["WORLD_SIZE"] or 1)
    if rank >= world:
        raise UserError(
            f"RANK={rank} with WORLD_SIZE={world}: ranks count from 0 to WORLD_SIZE - 1; "
            "start with deepspeed, torchrun or srun, or unset both"
        )
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if world > 1 and missing:
        raise UserError(
            f"WORLD_SIZE={world} without {' and '.join(missing)}: the processes do not know where to meet; "
            "start with deepspeed, torchrun or srun, or set them to rank 0's machine and a free port of it"
        )
