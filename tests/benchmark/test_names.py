"""Names that are no UTF-8 and captions with half a character come back as they went, through every kind of file."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.cli import main
from benchmark.files import atomic_write_json, atomic_write_text, format_json
from benchmark.records.record import read_record, write_record
from benchmark.structured_files import read_json
from benchmark.weights.checkpoints import WeightsHeader, read_header, read_weights, save_weights

ODD = os.fsdecode(b"x\xffy")
HALF = "half \ud83d of it"


@given(st.recursive(st.text(st.characters(categories=("L", "Cs", "P"))), lambda inner: st.dictionaries(st.text(), inner)))
def test_any_text_comes_back_from_json(value: object) -> None:
    written = format_json(value)
    assert json.loads(written.encode("utf-8")) == json.loads(json.dumps(value))


def test_files_of_odd_names_and_texts(tmp_path: Path) -> None:
    folder = tmp_path / ODD
    atomic_write_json(folder / f"{ODD}.json", {ODD: HALF})
    assert read_json(folder / f"{ODD}.json") == {ODD: HALF}
    atomic_write_text(folder / "table.md", f"{ODD} {HALF} ±")
    assert (folder / "table.md").read_bytes() == b"x\xffy half ? of it \xc2\xb1"
    header = WeightsHeader(
        method="small", stage="s", dataset="cirr", method_settings={}, training_settings={}, backbone={}, width=1, seed=0,
        encoder_file=str(folder / "encoder.safetensors"),
    )  # fmt: skip
    save_weights(folder / f"{ODD}.safetensors", {"a": torch.ones(2)}, header)
    assert read_header(folder / f"{ODD}.safetensors") == header
    assert read_weights(folder / f"{ODD}.safetensors")["a"].tolist() == [1, 1]


@pytest.fixture(scope="module")
def odd_cirr(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data under an odd name, one caption of each split with half a character."""
    folder = Path(shutil.copytree(small_cirr, tmp_path_factory.mktemp("odd") / ODD))
    for file in folder.glob("captions/cap.*.json"):
        entries = json.loads(file.read_text())
        entries[0]["caption"] = HALF
        file.write_text(json.dumps(entries))
    return folder


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, bytes]:
    """Status and what was written, as bytes: pytest's own streams read UTF-8 alone."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with monkeypatch.context() as patch:
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        status = main([str(argument) for argument in arguments])
    for stream in streams:
        stream.flush()
    return status, b"".join(stream.buffer.getvalue() for stream in streams)  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["sum", "clip4cir"])
def test_a_run_between_odd_names(
    monkeypatch: pytest.MonkeyPatch, odd_cirr: Path, tmp_path: Path, method: str
) -> None:
    data = ("--data-root", odd_cirr, "--cache", tmp_path / f"cache{ODD}")
    short = ("--set", "encoders.epochs=1", "--epochs", 1) if method == "clip4cir" else ()
    run = tmp_path / ODD
    begun = ("run", "--method", method, "--dataset", "cirr", "--limit", 40, "--output", run, *data, *short)
    status, shown = command(monkeypatch, *begun)
    assert status == 0, shown
    assert os.fsencode(run / "record.json") in shown
    record = read_record(run)
    identity = record.identity.model_copy(update={"plugins": {ODD: "0"}})
    copy = write_record(tmp_path / "copy", record.model_copy(update={"identity": identity, "files": {}}))
    assert read_record(tmp_path / "copy") == copy and copy.identity.plugins == {ODD: "0"}
    assert ODD in copy.command or not copy.command.startswith("python")
    for arguments in (
        ("evaluate", "--method", method, "--checkpoint", run, "--output", tmp_path / f"e{ODD}", "--limit", 40, *data),
        ("export", run, "--output", tmp_path / f"{ODD}.safetensors"),
        (*begun, "--resume"),
    ):
        status, shown = command(monkeypatch, *arguments)
        assert status == 0, shown


def test_exported_queries_keep_their_captions(
    monkeypatch: pytest.MonkeyPatch, odd_cirr: Path, tmp_path: Path
) -> None:
    export = ("data", "export-queries", "cirr", "--data-root", odd_cirr, "--output", tmp_path / "q.jsonl")
    status, shown = command(monkeypatch, *export)
    assert status == 0, shown
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any(HALF in line.values() for line in lines)
