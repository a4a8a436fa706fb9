"""Two gloo processes train what one does: groups that span them, one each, and several each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent


def test_two_processes_give_the_parameters_of_one(tmp_path: Path) -> None:
    from two_processes import LAYOUTS, trained

    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(HERE / "two_processes.py"), str(tmp_path / "states.pt")],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    two = torch.load(tmp_path / "states.pt", weights_only=True)
    for name, layout in LAYOUTS.items():
        one = trained(*layout)
        for key, tensor in one.items():
            assert (tensor - two[name][key]).abs().max() < 1e-6, (name, key)
    assert (two["one group"]["layer.weight"] - two["a group each"]["layer.weight"]).abs().max() > 1e-4
