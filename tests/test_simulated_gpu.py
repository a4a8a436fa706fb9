"""The whole program on a GPU that computes on the host: what a checkpoint and a folder of pictures give is the CPU's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Command
from host_waits import HostWaits
from simulated_gpu import program_finds_a_gpu

_OWN_NETWORKS = ("artemis", "val")


def trained(command: Command, method: str, data: Path, folder: Path) -> Path:
    """The weights of a run of one epoch on the CPU."""
    start = ["--set", "method.start=random"] if method in _OWN_NETWORKS else ["--weights", "random"]
    sizes = ["--epochs", 1, "--batch-size", 24, "--negative-group", 0]
    if method in ("spirit", "searle"):
        start += ["--set", "encoders.epochs=1", "--set", "encoders.batch_size=24"]
    outcome = command(
        "run", "--method", method, "--dataset", "cirr", "--data-root", data, "--output", folder, "--device", "cpu",
        *sizes, *start,
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    return folder / "weights" / "selected.safetensors"


def found_with_selected(folder: Path) -> dict[str, float]:
    record = json.loads((folder / "record.json").read_text())
    metrics: dict[str, float] = record["results"][0]["metrics"]
    return metrics


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spirit", "artemis", "encoder", "sprc", "searle", "val"])
def test_a_checkpoint_is_evaluated_and_searched_with(
    method: str, command: Command, small_cirr: Path, tmp_path: Path
) -> None:
    """Features of stored views, pixels, tokens and words; an own score; and what one modality alone finds."""
    here, there, data = tmp_path / "here", tmp_path / "there", ("--data-root", small_cirr)
    weights = trained(command, method, small_cirr, here)
    evaluation = ("evaluate", "--method", method, "--checkpoint", weights, "--dataset", "cirr", *data)
    with program_finds_a_gpu(), HostWaits() as found:
        outcome = command(*evaluation, "--output", there, "--cache", tmp_path / "empty", "--device", "cuda")
    assert outcome.status == 0, outcome.err
    assert found.crossings["cpu to cuda"] and found.crossings["cuda to cpu"]
    assert found_with_selected(there) == found_with_selected(here)
    picture = next(path for path in small_cirr.rglob("*.png"))
    asked = ("search", "--run", here, "--image", picture, "--text", "is red", *data, "--output", tmp_path / "found.png")
    expected = command(*asked, "--device", "cpu")
    with program_finds_a_gpu():
        outcome = command(*asked, "--device", "cuda")
    assert (outcome.status, outcome.out) == (0, expected.out)
