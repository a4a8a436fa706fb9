"""Several backbones of one command: each with its own weights, and those that cannot run here left out."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from command_line import Command

from benchmark.cli.repetition import repeated_options
from benchmark.cli.run import add_arguments
from benchmark.errors import UserError
from benchmark.options import make_options, read_config
from benchmark.pipeline.backbone_choices import backbone_choices, backbone_folder
from benchmark.records.record import Record, read_record
from benchmark.registry import discover

GOLDEN = Path(__file__).parents[2] / "golden" / "record_version_2.json"


def test_a_backbone_may_name_its_weights(tmp_path: Path) -> None:
    own = make_options(method="sum", dataset="cirr", backbone="ViT-B-32:laion2b_s34b_b79k")
    assert (own.backbone, own.weights) == ("ViT-B-32", "laion2b_s34b_b79k")
    own = make_options(method="sum", dataset="cirr", backbone="RN50x4:weights/a:b.pt")
    assert (own.backbone, own.weights) == ("RN50x4", "weights/a:b.pt")
    odd = tmp_path / "a:b.json"
    odd.touch()
    assert make_options(method="sum", dataset="cirr", backbone=str(odd)).backbone == str(odd)
    with pytest.raises(UserError, match="names its weights, and so does --weights"):
        make_options(method="sum", dataset="cirr", backbone="RN50x4:openai", weights="random")
    with pytest.raises(UserError, match="write NAME:TAG or NAME:FILE"):
        make_options(method="sum", dataset="cirr", backbone="RN50x4:")


def test_a_backbone_without_weights_here_is_left_out_and_the_rest_runs(
    command: Command, small_cirr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    asked = ("run", "--fair", "untouched", "--method", "sum", "--dataset", "cirr", "--data-root", small_cirr, "--dry-run",
             "--assets-root", tmp_path, "--output", str(tmp_path / "out"))  # fmt: skip
    outcome = command(*asked, "--backbone", "tiny", "RN50:random", "ViT-H-14:laion2b_s32b_b79k", f"RN101:{tmp_path}/no.pt")
    assert outcome.status == 0, outcome.err
    told = [line for line in outcome.err.splitlines() if "left out: " in line]
    assert len(told) == 2 and "ViT-H-14: left out: " in told[0] and "'laion2b_s32b_b79k' are not on this machine" in told[0]
    assert told[1] == f"RN101: left out: --weights {tmp_path}/no.pt: no such weights file"
    assert "[2/2] sum with RN50 on cirr" in outcome.err
    # Each in a folder of its own.
    folders = [line.split()[-1] for line in outcome.out.splitlines() if line.startswith("output ")]
    assert [Path(folder).relative_to(tmp_path / "out").as_posix() for folder in folders] == [
        f"cirr/sum/{backbone}/seed-0" for backbone in ("tiny", "RN50-random")
    ]
    none = command(*asked, "--backbone", "RN50", "RN101")
    assert none.status == 2 and none.err.count("are not on this machine") == 2 and "none of those named" in none.err


def test_names_are_checked_before_anything_is_left_out() -> None:
    with pytest.raises(UserError, match="unknown backbone 'RN50x5': did you mean RN50x4"):
        backbone_choices(["tiny", "RN50x5"], {}, discover())
    chosen = backbone_choices(["tiny", "RN50"], {"weights": "random"}, discover())
    assert chosen == [{"backbone": "tiny", "weights": "random"}, {"backbone": "RN50", "weights": "random"}]
    assert backbone_folder("RN50", "/some where/w x.pt") == "RN50-w-x"


def test_a_config_file_may_list_them(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text('backbone = ["tiny", "RN50x4:openai"]\n')
    assert read_config(file)["backbone"] == ["tiny", "RN50x4:openai"]
    file.write_text('backbone = ["tiny:"]\n')
    with pytest.raises(UserError, match="write NAME:TAG"):
        read_config(file)


def test_a_record_of_several_backbones_is_repeated_with_its_own() -> None:
    raw = read_record(GOLDEN).model_dump(mode="json")
    raw["command"] = "python -m benchmark run --fair --method sum --dataset cirr --backbone RN50x4:openai tiny ViT-B-32"
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = parser.parse_args(["--from-record", "x"])
    assert repeated_options(Record.model_validate(raw), given, parser).backbone == ["tiny"]
    raw["identity"]["encoder"]["name"] = "RN101"
    with pytest.raises(UserError, match="none of RN50x4:openai, tiny, ViT-B-32 is the record's backbone; name it"):
        repeated_options(Record.model_validate(raw), given, parser)
    named = parser.parse_args(["--from-record", "x", "--backbone", "RN101"])
    assert repeated_options(Record.model_validate(raw), named, parser).backbone == ["RN101"]
