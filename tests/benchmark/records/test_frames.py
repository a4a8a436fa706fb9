"""Records and their ranks as data frames: every number once, and the same as in the record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import benchmark
from benchmark.errors import UserError
from benchmark.records.record import read_record

RESULTS = Path(__file__).parents[3] / "results"
CIRR = RESULTS / "demo" / "records" / "cirr"


def test_a_row_for_each_run_task_and_metric() -> None:
    files = sorted(CIRR.rglob("record.json"))
    frame = benchmark.load_records(CIRR)
    records = [read_record(file) for file in files]
    assert len(frame) == sum(len(result.metrics) for record in records for result in record.results)
    assert len(frame) == len(frame.drop_duplicates(["record", "protocol", "category", "weights_from", "metric"]))
    first = frame[(frame["record"] == str(files[0].resolve())) & (frame["weights_from"] == records[0].results[0].weights_from)]
    assert dict(zip(first["metric"], first["value"], strict=True)) == dict(records[0].results[0].metrics)
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    assert set(frame["data"]) == {"demo"} and str(frame["seed"].dtype) == "Int64"


def test_what_cannot_be_read_is_told_in_one_go(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError) as error:
        benchmark.load_records(tmp_path)
    assert len(str(error.value).splitlines()) == 2
    with pytest.raises(UserError, match="no such file or folder"):
        benchmark.load_records(tmp_path / "none")
    assert len(benchmark.load_records(RESULTS / "records" / "throughput")) == 0


def test_a_row_for_each_query_gives_the_record_s_recalls() -> None:
    file = next(CIRR.glob("spirit/*/seed-0/record.json"))
    ranks = benchmark.per_query(file)
    for result in read_record(file).results:
        mine = ranks[(ranks["weights_from"] == result.weights_from) & (ranks["protocol"] == result.protocol)]
        assert len(mine) == result.queries
        for k in (1, 10):
            assert 100 * (mine["rank"] <= k).mean() == pytest.approx(result.metrics[f"R@{k}"])
        assert 100 * (mine["subset_rank"] <= 1).mean() == pytest.approx(result.metrics["R_subset@1"])
    with pytest.raises(UserError, match="no ranks lie beside"):
        benchmark.per_query(next((RESULTS / "records" / "throughput").rglob("record.json")))


def test_the_example_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    (example,) = [block for block in re.findall(r"```python\n(.*?)```\n", text, re.DOTALL) if "load_records" in block]
    (shown,) = re.findall(re.escape(example) + r"```\n\n```text\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(RESULTS.parent)
    exec(compile(example, "results/README.md", "exec"), {})
    assert capsys.readouterr().out == shown
