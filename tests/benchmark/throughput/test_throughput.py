"""The command `throughput`: records beside their limits, tables, what is refused, the leaderboard's page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Command
from pydantic import ValidationError

from benchmark.leaderboards.book import add
from benchmark.leaderboards.leaderboard import pages, stale, write_stale
from benchmark.records.record import Measurement, Record, read_record, write_record
from benchmark.registry import discover
from benchmark.throughput import limits
from benchmark.throughput.tables import THROUGHPUT_PAGE, render_throughput, throughput_table

FEATURES = {
    "decoding, 1 core",
    "decoding 13 patches, 1 core",
    "encoding pictures",
    "encoding 13 patches",
    "encoding texts",
    "matrix product",
    "memory copy",
}
QUERIES = {"ranking", "one query, p50", "one query, p95"}
FURTHER = [THROUGHPUT_PAGE]
DATASETS = {"cirr": discover().datasets()["cirr"]}


@pytest.fixture(scope="module")
def measured(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """Records of two methods that share an encoder stage, by name."""
    from benchmark.cli import main

    folder = tmp_path_factory.mktemp("speeds")
    words = ["throughput", "--method", "spirit", "sum", "--data-root", str(small_cirr), "--backbone", "tiny"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(limits._PRODUCT_SIDE, "cpu", 256)
        assert main([*words, "--limit", "16", "--seconds", "0", "--output", str(folder)]) == 0
    records = [read_record(path) for path in folder.rglob("record.json")]
    assert len({record.method for record in records}) == len(records)
    return {record.method: record for record in records}


def test_every_part_is_measured_once_and_beside_its_limit(measured: dict[str, Record]):
    assert set(measured) == {"features", "encoders", "spirit", "sum"}
    assert set(measured["features"].throughput) > FEATURES
    assert set(measured["encoders"].throughput) == {"encoders: updates", "encoders: triplets", "encoders: loading"}
    assert set(measured["spirit"].throughput) == {
        "spirit: updates", "spirit: triplets", "spirit: gathering", *QUERIES,
    }  # fmt: skip
    assert set(measured["sum"].throughput) == QUERIES
    for record in measured.values():
        for name, found in record.throughput.items():
            assert found.value > 0 and found.repeats is not None and found.repeats >= 3, name
            if name not in ("matrix product", "memory copy"):
                assert found.limit is not None and found.ratio is not None and found.limit_of, name
    assert measured["spirit"].throughput["spirit: triplets"].flops is not None


def test_a_record_says_what_was_measured_on_what(measured: dict[str, Record]):
    record = measured["spirit"]
    assert record.kind == "throughput" and record.results == ()
    identity = record.identity
    assert identity.encoder is not None and (identity.encoder.name, identity.encoder.start) == ("tiny", "random")
    assert identity.batch_size == 8 and identity.recipe == "from-scratch" and identity.limit == 16
    assert identity.precision == "fp32" and identity.data is not None and identity.data.is_demo
    assert record.throughput["spirit: updates"].work == "batch 8, fp32"
    assert "of 32 x 64²" in (measured["features"].throughput["encoding pictures"].work or "")
    assert "synthetic pictures (PNG, 120 x 160)" in (measured["features"].throughput["decoding, 1 core"].work or "")
    assert record.environment.threads == torch.get_num_threads()


def test_the_table_has_a_line_for_every_measurement(measured: dict[str, Record]):
    table = throughput_table(measured["spirit"])
    assert "SPIRIT · tiny, random weights · fp32" in table and "(synthetic pictures)" in table
    for name in measured["spirit"].throughput:
        assert f"| {name}" in table
    assert "plain PyTorch loop" in table and "of the data sheet" not in table
    assert "On CPU" in table and "limited to 16" in table


def test_records_as_json_and_pictures_of_a_stated_size(
    command: Command, small_cirr: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(limits._PRODUCT_SIDE, "cpu", 256)
    outcome = command(
        "throughput", "--method", "tirg_clip", "--data-root", small_cirr, "--backbone", "tiny", "--limit", 16,
        "--seconds", 0, "--picture-size", "90x70", "--precision", "bf16", "--json", "--output", "here",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    records = [Record.model_validate(raw) for raw in json.loads(outcome.out)]
    features, last = records[0], records[-1]
    assert "resized (JPEG, 90 x 70)" in (features.throughput["decoding, 1 core"].work or "")
    assert features.identity.precision == last.identity.precision == "bf16"
    assert len(list(Path("here").rglob("record.json"))) == len(records) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--precision", "tf32", "--device", "cpu"], "--precision tf32"),
        (["--picture-size", "90"], "--picture-size 90"),
        (["--method", "spirt"], "spirit"),
        (["--seconds", "-1"], "--seconds"),
        (["--size", "4"], "--growth"),
        (["--growth", "stor"], "store"),
        (["--growth", "training", "--method", "sum"], "trains nothing"),
        (["--growth", "store", "--method", "tirg"], "no backbone"),
    ],
)
def test_mistakes_are_one_line(command: Command, small_cirr: Path, words: list[str], told: str):
    outcome = command("throughput", "--data-root", small_cirr, "--limit", 16, *words)
    assert outcome.status == 2 and len(outcome.errors) == 1 and told in outcome.err
    assert not Path("runs").exists()


def test_several_processes_are_refused(command: Command, small_cirr: Path, monkeypatch: pytest.MonkeyPatch):
    from benchmark.errors import UserError
    from benchmark.options import make_options
    from benchmark.throughput.measure import HowToMeasure, measure

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without a launcher"):
        list(measure(make_options(method="sum", dataset="cirr"), HowToMeasure(), discover()))


def whole(record: Record, **changed: Any) -> Record:
    """The record as one that was not shortened."""
    identity = record.identity.model_copy(update={"limit": None})
    return record.model_copy(update={"identity": identity, **changed})


def test_the_leaderboard_takes_speeds_to_a_page_of_their_own(measured: dict[str, Record], tmp_path: Path):
    results = tmp_path / "results"
    write_stale(pages(results, DATASETS, further=FURTHER))
    for name, record in measured.items():
        write_record(tmp_path / name, whole(record))
    folders = {add(tmp_path / name, results, FURTHER)[0] for name in measured}
    assert len(folders) == 4 and all("throughput" in folder.parts for folder in folders)
    page = results / "leaderboard" / "throughput.md"
    assert stale(pages(results, DATASETS, further=FURTHER)) == [page]
    assert write_stale(pages(results, DATASETS, further=FURTHER)) == [page]
    assert stale(pages(results, DATASETS, further=FURTHER)) == []
    text = page.read_text(encoding="utf-8")
    assert "## CPU" in text and "| SPIRIT" in text and "tiny, random weights" in text and "synthetic pictures" in text
    assert text.count("### Training") == 1
    for folder in folders:
        (folder / "record.json").unlink()
    assert stale(pages(results, DATASETS, further=FURTHER)) == [page], "a page whose records are gone is stale"


def test_machines_stand_apart_and_the_order_of_records_does_not_matter(measured: dict[str, Record]):
    here = whole(measured["spirit"])
    gpu = here.environment.model_copy(update={"device": "NVIDIA H100 80GB HBM3"})
    there = whole(measured["spirit"], environment=gpu)
    page = render_throughput([here, there])
    assert page.count("### Training") == 2 and "## NVIDIA H100 80GB HBM3" in page
    assert render_throughput([there, here]) == page
    assert "no speeds yet" in render_throughput([measured["spirit"]])


def test_limited_speeds_and_second_records_are_refused(measured: dict[str, Record], tmp_path: Path):
    from benchmark.errors import UserError

    write_record(tmp_path / "limited", measured["sum"])
    with pytest.raises(UserError, match="--limit 16"):
        add(tmp_path / "limited", tmp_path / "results", FURTHER)
    write_record(tmp_path / "run", whole(measured["sum"]))
    assert add(tmp_path / "run", tmp_path / "results", FURTHER) == add(tmp_path / "run", tmp_path / "results", FURTHER)
    write_record(tmp_path / "run", whole(measured["sum"], created="2031-01-01T00:00:00Z"))
    with pytest.raises(UserError, match="another record"):
        add(tmp_path / "run", tmp_path / "results", FURTHER)


def test_measurements_are_checked_on_write_and_on_read(measured: dict[str, Record], tmp_path: Path):
    good = {"value": 2.0, "unit": "s", "limit": 1.0, "limit_of": "bare", "ratio": 0.5}
    assert "low" not in Measurement(**good).model_dump(mode="json"), "what was not measured is absent"
    for bad in ({"low": 3.0, "high": 4.0}, {"ratio": 0.0}, {"limit_of": ""}, {"limit": None}, {"speed": 1}):
        with pytest.raises(ValidationError):
            Measurement(**{**good, **bad})
    write_record(tmp_path, measured["sum"])
    raw = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    for bad in ({"throughput": {}}, {"throughput": {"x": {**good, "low": 3.0, "high": 4.0}}}):
        (tmp_path / "record.json").write_text(json.dumps({**raw, **bad}), encoding="utf-8")
        with pytest.raises(Exception, match="not a valid record"):
            read_record(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_on_a_gpu_in_every_precision(command: Command, small_cirr: Path, precision: str):
    outcome = command(
        "throughput", "--method", "spirit", "--data-root", small_cirr, "--backbone", "tiny", "--limit", 16,
        "--seconds", 0, "--precision", precision, "--device", "cuda", "--json",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    records = {raw["method"]: Record.model_validate(raw) for raw in json.loads(outcome.out)}
    assert records["spirit"].identity.precision == precision
    assert records["spirit"].throughput["spirit: updates"].peak_bytes
    assert records["features"].throughput["matrix product"].value > 1000
