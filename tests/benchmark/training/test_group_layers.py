"""Batch norms and dropout of a group over three ranks beside the plain layers on all of its rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.training import group_layers

HERE = Path(__file__).parent


def test_layers_over_ranks_are_those_of_one_process(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "group_layer_ranks.py"), str(tmp_path)],
        capture_output=True, text=True, timeout=200, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in range(3):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(found) > 40
        exact = {name for name in found if name in ("dropout", "the next draw", "evaluation") or "closed" in name}
        # What float32 holds of a number near 1000 whose deviation is 0.1.
        wrong = {n: d for n, d in found.items() if d > (0 if n in exact else 3e-3 if "far" in n else 2e-6)}
        assert not wrong


def test_a_channel_of_one_value_is_refused_as_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 1)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        group_layers.group_batch_norm(None, torch.ones(1, 3), None, None, training=True)


def test_other_functions_within_a_layer_are_torch_s_own() -> None:
    class Odd(nn.BatchNorm1d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(x) + 1

    layer = Odd(3)
    layers = group_layers.GroupLayers(layer, None)
    assert torch.equal(layer(torch.tensor([[-1.0, 0.0, 2.0]])), torch.tensor([[1.0, 1.0, 3.0]]))
    layers.close()


def test_a_layer_that_fails_leaves_no_replacement_behind() -> None:
    layer = nn.BatchNorm1d(3)
    group_layers.GroupLayers(layer, None)
    with pytest.raises((ValueError, RuntimeError)):
        layer(torch.ones(2, 2, 2, 2))
    assert torch.isfinite(F.batch_norm(torch.rand(4, 3), None, None, training=True)).all()
