"""A run in fp32 computes in float32: torch's default of TF32 for a GPU's convolutions is off while it works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import Command

from benchmark.arithmetic import float32_convolutions
from benchmark.errors import UserError
from benchmark.pipeline import run as run_module


def test_a_run_computes_convolutions_in_float32(
    command: Command, small_cirr: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def carry_out(run: object) -> None:
        seen.append(torch.backends.cudnn.allow_tf32)
        raise UserError("seen")

    monkeypatch.setattr(run_module._Run, "carry_out", carry_out)
    assert torch.backends.cudnn.allow_tf32
    outcome = command("run", "--method", "image_only", "--dataset", "cirr", "--data-root", small_cirr, "--backbone", "tiny", "--set", "encoders.batch_size=8")
    assert outcome.status == 2 and "seen" in outcome.err
    assert seen == [False] and torch.backends.cudnn.allow_tf32


def test_the_other_settings_of_cudnn_are_left_alone() -> None:
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=True, deterministic=True, allow_tf32=True):
        with float32_convolutions():
            assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == (True, True, True)
            assert not cudnn.allow_tf32
        assert cudnn.allow_tf32
