"""Settings that are called otherwise now: the former names still read, with one line that says so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from command_line import Command

from benchmark.errors import UserError
from benchmark.settings import Renamed, Settings, TrainingSettings, _tell_once, fill, with_present_names
from benchmark.weights.checkpoints import EarlierStage, WeightsHeader, read_header, save_weights


class Own(Settings):
    scheme: str = "new"
    formerly: ClassVar[Mapping[str, Renamed]] = {"frame": Renamed("scheme", {"released": "original"})}


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    _tell_once.cache_clear()


def test_a_former_name_and_value_are_taken_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert fill(Own, [("recipe", {"scheme": "a"}), ("--set", {"frame": "released"})], "method").scheme == "original"
    assert capsys.readouterr().err == "--set: method.frame is called method.scheme now\n"
    assert fill(Own, [("--set", {"frame": "artemis"}), ("more", {"scheme": "b"})], "method").scheme == "b"
    assert with_present_names(Own, {"frame": "artemis"}) == {"scheme": "artemis"}
    with pytest.raises(UserError, match="unknown setting 'method.fram': did you mean"):
        fill(Own, [("--set", {"fram": "released"})], "method")


def test_former_names_in_a_checkpoint_s_header_are_read(tmp_path: Path) -> None:
    trained = TrainingSettings(pair_sampling="five-per-image").model_dump(mode="json")
    old = {**{k: v for k, v in trained.items() if k != "pair_sampling"}, "drawing": "five-per-image"}
    header = WeightsHeader(
        "m", "s", "d", {}, old, {}, 4, 0, earlier=[EarlierStage("first", {"drawing": "one-per-image"}, 1, 1, {})]
    )
    save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, header)
    found = read_header(tmp_path / "w.safetensors")
    assert TrainingSettings(**found.training_settings).pair_sampling == "five-per-image"
    assert found.earlier[0].settings == {"pair_sampling": "one-per-image"}


def test_the_command_line_and_a_file_take_a_former_name(command: Command, small_cirr: Path, tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text('[set]\n"combiner.drawing" = "any"\n')
    run = ("run", "--method", "clip4cir", "--dataset", "cirr", "--data-root", small_cirr, "--limit", 24, "--dry-run")
    for further in (("--set", "combiner.drawing=any"), ("--config", tmp_path / "old.toml")):
        _tell_once.cache_clear()
        told = command(*run, *further)
        assert told.status == 0, told.err
        assert told.err.count("combiner.drawing is called combiner.pair_sampling now") == 1


def test_the_micro_batch_of_a_gradient_cache_was_a_piece(command: Command, small_cirr: Path) -> None:
    run = ("run", "--method", "clip4cir_sum", "--dataset", "cirr", "--data-root", small_cirr, "--limit", 24, "--dry-run")
    told = command(*run, "--set", "trainer.piece=8")
    assert told.status == 0, told.err
    assert "trainer.piece is called trainer.micro_batch now" in told.err
    assert "pictures in micro-batches of 8" in told.out
